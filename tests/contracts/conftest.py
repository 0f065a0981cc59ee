"""The same tests for every implementation of a port: in memory, and AWS's with moto at the other end of the wire."""

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from moto import mock_aws

from agent.aws.dynamodb import Backoff
from tests.contracts.wire import Wire

NO_SDK_RETRIES = Config(retries={"mode": "standard", "total_max_attempts": 1})
"""So that a fault reaches the adapter; what the SDK itself mends is not what is tested here."""


@pytest.fixture(scope="module")
def _aws() -> Iterator[tuple[Callable[[str], Any], Wire]]:
    wire = Wire()
    clients: dict[str, Any] = {}
    session = boto3.Session("test", "test", region_name="eu-central-1")  # no credentials but these

    def client(service: str) -> Any:
        if service not in clients:
            made: Any = session.client(service, config=NO_SDK_RETRIES)  # type: ignore[call-overload] # any name
            clients[service] = wire.plug(made)
        return clients[service]

    with mock_aws():
        yield client, wire


@pytest.fixture
def aws(_aws: tuple[Callable[[str], Any], Wire]) -> Callable[[str], Any]:
    """Clients of services that moto plays."""
    return _aws[0]


@pytest.fixture
def wire(_aws: tuple[Callable[[str], Any], Wire]) -> Wire:
    _aws[1].reset()
    return _aws[1]


class Sleeps(list[float]):
    """Stands for `time.sleep`: notes how long, and takes no time."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def sleeps() -> Sleeps:
    return Sleeps()


@pytest.fixture
def backoff(sleeps: Sleeps) -> Backoff:
    return Backoff(sleep=sleeps, random=lambda: 1.0)
