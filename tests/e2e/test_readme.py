"""The README's commands do what it says: `make check` runs this test, and `make run` is what the cloud here is."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from local.processes import ROOT
from tests.e2e.running_cloud import Api, RunningCloud

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"^```\n(.*?)^```", README, flags=re.M | re.S) for line in block.splitlines() if line
]
ASKED = [shlex.split(line)[1:] for line in COMMANDS if line.startswith(".venv/bin/python -m local.ask")]
REFUND = re.search(r'Ask "(.+?)", and the run waits', README)[1]  # type: ignore[index]  # or the README has changed
APPROVE = re.search(r"`(\.venv/bin/python -m local\.approve)` lists", README)[1]  # type: ignore[index]  # likewise
OPERATE = re.search(r"`make ops ARGS=\"--stage prod (.+?)\"`", README)[1]  # type: ignore[index]  # likewise
TARGETS = sorted(set(re.findall(r"make ([a-z-]+)", README)))


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 150


@pytest.mark.parametrize("target", TARGETS)
def test_each_make_target_it_names_exists(target: str) -> None:
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def run(cloud: RunningCloud, command: list[str]) -> str:
    """Run a command as in another shell of whoever has started this cloud, and return what it prints."""
    environment = {**os.environ, "KEEPGATE_LOCAL": str(cloud.state)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_two_questions_it_shows_get_two_answers(cloud: RunningCloud) -> None:
    answers = [run(cloud, [sys.executable, *arguments]) for arguments in ASKED]
    assert len(answers) == 2
    assert "Marta Keller" in answers[0]
    assert "Marta Keller" not in answers[1]


def test_the_refund_it_shows_waits_for_the_person_whose_command_it_shows(cloud: RunningCloud, acme: Api) -> None:
    run_id = acme.ask(REFUND)
    [asked] = acme.wait_until(run_id, "waiting")["pending_approvals"]
    approve = [sys.executable, *shlex.split(APPROVE)[1:]]
    listed = run(cloud, approve)
    assert asked["approval_id"] in listed
    assert REFUND in listed
    assert "approve" in run(cloud, [*approve, asked["approval_id"]])
    assert "1001-01" in acme.wait(run_id)["answer"]


def test_the_operators_line_works_on_the_local_cloud(cloud: RunningCloud) -> None:
    assert "tenant_jobs" in run(cloud, ["make", "--silent", "ops", f"ARGS={OPERATE}"])


def test_each_route_it_lists_is_in_the_api(acme: Api) -> None:
    document = acme.http.get("/openapi.json").json()
    listed = {path.removeprefix("/v1") for path in re.findall(r"`(?:[A-Z]+ )?(/v1/[^`]*)`", README)}
    assert listed <= {re.sub(r"{\w+}", "{id}", path) for path in document["paths"]}
