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
TARGETS = sorted(set(re.findall(r"make ([a-z-]+)", README)))


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 150


@pytest.mark.parametrize("target", TARGETS)
def test_each_make_target_it_names_exists(target: str) -> None:
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_the_two_questions_it_shows_get_two_answers(cloud: RunningCloud) -> None:
    answers = [
        subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, "KEEPGATE_LOCAL": str(cloud.state)},
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout
        for arguments in ASKED
    ]
    assert len(answers) == 2
    assert "Marta Keller" in answers[0]
    assert "Marta Keller" not in answers[1]


def test_each_route_it_lists_is_in_the_api(acme: Api) -> None:
    document = acme.http.get("/openapi.json").json()
    listed = {path.removeprefix("/v1") for path in re.findall(r"`(?:[A-Z]+ )?(/v1/[^`]*)`", README)}
    assert listed <= {re.sub(r"{\w+}", "{id}", path) for path in document["paths"]}
