"""What `make run` promises whoever starts it, beside what every other test here rests on."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from local.processes import free_port
from local.run import curl_line
from support_desk import seed
from tests.e2e.conftest import is_listening, start_cloud
from tests.e2e.running_cloud import RunningCloud


def running() -> dict[int, int]:
    """Return the parents of all processes; one that has ended and is only not yet buried does not count."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    return parents


def children_of(process: int) -> set[int]:
    """Return the processes that one has started, all the way down."""
    parents, found = running(), {process}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {process}


def test_the_endpoint_file_has_the_url_a_token_for_each_person_and_the_outputs(cloud: RunningCloud) -> None:
    document = cloud.endpoint
    assert document.keys() == {"url", "tokens", "stack_outputs"}
    assert document["url"].endswith("/v1")
    people = {f"{tenant}-{name}" for tenant in seed.TENANTS for name in ("user", "colleague", "approver", "operator")}
    assert document["tokens"].keys() == people
    assert {"ApiUrl", "RunsTable", "AgentFunction", "ToolQueueUrl", "DataRoleArn"} <= document["stack_outputs"].keys()
    assert (cloud.state / "endpoint.json").stat().st_mode & 0o077 == 0


def test_it_prints_the_url_the_tokens_and_a_curl_line_that_works_as_it_stands(cloud: RunningCloud) -> None:
    printed = (cloud.state.parent / "run.log").read_text().splitlines()
    assert any(cloud.url in line for line in printed)
    for person in cloud.endpoint["tokens"]:
        assert any(line.startswith(f"{person}: ey") for line in printed)
    [line] = [line for line in printed if "curl" in line]
    answer = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, check=True)
    assert next(i for k, _, i in seed.items("acme") if k == "order")["tracking_number"] in answer.stdout
    other = subprocess.run(
        ["sh", "-c", curl_line(cloud.url, cloud.token("globex-user"))],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert next(i for k, _, i in seed.items("globex") if k == "order")["tracking_number"] in other.stdout


def test_it_was_ready_in_time(cloud: RunningCloud) -> None:
    printed = (cloud.state.parent / "run.log").read_text()
    seconds = int(printed.split("Ready after ")[1].split(" s")[0])
    assert seconds < 60


def test_a_second_one_is_refused_in_one_clear_line(cloud: RunningCloud, tmp_path: Path) -> None:
    log = tmp_path / "second.log"
    process = start_cloud(cloud.state, log, free_port())
    assert process.wait(20) == 2
    [line] = log.read_text().splitlines()
    assert line.startswith("error: a local cloud runs already (process ")
    assert cloud.endpoint["url"]


def test_a_taken_port_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start_cloud(tmp_path / "state", log, port)
        assert process.wait(20) == 2
    [line] = log.read_text().splitlines()
    assert line.startswith(f"error: port {port} is taken")
    assert "PORT=" in line


@pytest.mark.parametrize("port", ["x", "0", "70000", "-1", "\u00b2", "\uff14\uff15\uff16\uff16"])
def test_a_port_that_is_none_is_said(tmp_path: Path, port: str) -> None:
    log = tmp_path / "run.log"
    assert start_cloud(tmp_path / "state", log, 0, PORT=port).wait(20) == 2
    assert log.read_text().startswith("error: PORT must be a number")


def test_a_model_server_that_is_no_url_is_said(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    assert start_cloud(tmp_path / "state", log, free_port(), MODEL_URL="localhost").wait(20) == 2
    assert log.read_text().startswith("error: MODEL_URL must be the URL")


def test_a_model_server_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    log, port, url = tmp_path / "run.log", free_port(), f"http://127.0.0.1:{free_port()}/v1"
    process = start_cloud(tmp_path / "state", log, port, MODEL_URL=url)
    assert process.wait(30) == 1
    assert f"error: MODEL_URL: the server at {url} can't be asked" in log.read_text()
    assert not is_listening(port)


def half_started(state: Path, log: Path, port: int) -> tuple[subprocess.Popen[bytes], set[int]]:
    """Return a local cloud whose emulator answers, before it is ready, and what it has started until then."""
    process = start_cloud(state, log, port)
    deadline = time.monotonic() + 30
    while not is_listening(port):
        assert time.monotonic() < deadline
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    started = children_of(process.pid)
    assert started
    return process, started


def test_when_it_is_killed_all_it_started_ends(tmp_path: Path) -> None:
    log, port, state = tmp_path / "run.log", free_port(), tmp_path / "state"
    process, started = half_started(state, log, port)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while started & running().keys():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not is_listening(port)
    shutil.rmtree(state)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopping_it_half_way_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    log, port, state = tmp_path / "run.log", free_port(), tmp_path / "state"
    process, started = half_started(state, log, port)
    process.send_signal(number)
    assert process.wait(20) == 0
    assert not is_listening(port)
    assert not (state / "endpoint.json").exists()
    assert not (state / "tmp").exists()
    assert not started & running().keys()


def test_an_emulator_that_dies_ends_it_with_an_error(tmp_path: Path) -> None:
    log, port, state = tmp_path / "run.log", free_port(), tmp_path / "state"
    process = start_cloud(state, log, port)
    while not is_listening(port):
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    for pid in children_of(process.pid):
        command = Path(f"/proc/{pid}/cmdline").read_text()
        if "local.emulated_aws" in command:
            os.kill(pid, signal.SIGKILL)
    assert process.wait(60) == 1
    assert "error: " in log.read_text()
    shutil.rmtree(state)


def test_the_endpoint_file_is_never_seen_half_written(cloud: RunningCloud) -> None:
    assert json.loads((cloud.state / "endpoint.json").read_text())
    assert not list(cloud.state.glob("*.new"))
