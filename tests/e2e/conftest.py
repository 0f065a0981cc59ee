"""One local cloud for all end-to-end tests, started as `make run` starts it, on a port and in a folder of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.processes import ROOT, free_port
from tests.e2e.running_cloud import Api, RunningCloud

START_TIMEOUT_S = 120


def start_cloud(state: Path, log: Path, port: int, **environment: str) -> subprocess.Popen[bytes]:
    """Start the process behind `make run`."""
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "local.run"],
            cwd=ROOT,
            env={**os.environ, "PORT": str(port), "KEEPGATE_LOCAL": str(state), **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    folder = tmp_path_factory.mktemp("cloud")
    state, log, port = folder / "state", folder / "run.log", free_port()
    process = start_cloud(state, log, port)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (state / "endpoint.json").exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        running = RunningCloud(state)
        yield running
        running.close()
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(30)
    # What `make run` promises about Ctrl-C, on a cloud that has really been used.
    assert code == 0, log.read_text()
    assert not (state / "endpoint.json").exists()
    assert not is_listening(port)


@pytest.fixture
def acme(cloud: RunningCloud) -> Iterator[Api]:
    with cloud.api("acme-user") as api:
        yield api


@pytest.fixture
def globex(cloud: RunningCloud) -> Iterator[Api]:
    with cloud.api("globex-user") as api:
        yield api


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)
