"""Starting a local cloud as `make run` starts it, and who speaks to the one that all end-to-end tests share."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.processes import ROOT
from tests.e2e.running_cloud import Api, RunningCloud


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


@pytest.fixture
def acme(cloud: RunningCloud) -> Iterator[Api]:
    with cloud.api("acme-user") as api:
        yield api


@pytest.fixture
def globex(cloud: RunningCloud) -> Iterator[Api]:
    with cloud.api("globex-user") as api:
        yield api
