"""One local cloud for all tests that need one, end to end or under attack; they run last, one behind the other.

It is started as `make run` starts it, on a port and in a folder of its own, when the first of them asks for it.
"""

import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.running_cloud import RunningCloud

HERE = Path(__file__).parent
START_TIMEOUT_S = 120
OUTCOMES = pytest.StashKey[dict[str, set[str]]]()
"""How each test of this session went, by file and function."""


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[RunningCloud]":
    # Imported here: the suites without a cloud don't need what starts one.
    from local.processes import free_port
    from tests.e2e.conftest import is_listening, start_cloud
    from tests.e2e.running_cloud import RunningCloud

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


def _needs_cloud(item: pytest.Item) -> bool:
    uses = "cloud" in getattr(item, "fixturenames", ())
    return HERE / "e2e" in item.path.parents or (HERE / "attack" in item.path.parents and uses)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in filter(_needs_cloud, items):
        item.add_marker(pytest.mark.e2e)
    # Last of all, what looks at how the others went.
    items.sort(key=lambda item: (item.path.name == "test_security_page.py", _needs_cloud(item)))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    name = f"{item.path.relative_to(HERE.parent).as_posix()}::{getattr(item, 'originalname', item.name)}"
    if report.when == "call" or not report.passed:
        item.config.stash[OUTCOMES].setdefault(name, set()).add(report.outcome)
    return report
