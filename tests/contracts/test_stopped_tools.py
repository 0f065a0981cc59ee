"""What every `StoppedTools` keeps: in memory and on DynamoDB (moto)."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from agent.aws.stopped_tools import DynamoDbStoppedTools
from agent.errors import StoreUnavailable
from agent.testing.clock import FakeClock
from agent.testing.tables import create_table
from agent.testing.tool_servers import MemoryStoppedTools
from agent.tool_servers import StoppedTools
from tests.contracts.wire import Wire, lose_request

tables = itertools.count()
ONE, OTHER = "1" * 64, "2" * 64


@pytest.fixture
def dynamodb(aws: Callable[[str], Any]) -> tuple[Any, str]:
    table = f"stopped-{next(tables)}"
    create_table(aws("dynamodb"), table)
    return aws("dynamodb"), table


@pytest.fixture(params=["memory", "dynamodb"])
def stopped(request: pytest.FixtureRequest) -> StoppedTools:
    if request.param == "memory":
        return MemoryStoppedTools()
    return DynamoDbStoppedTools(*request.getfixturevalue("dynamodb"), FakeClock())


def test_a_contract_is_stopped_from_then_on_and_no_other_is(stopped: StoppedTools) -> None:
    assert not stopped.is_stopped(ONE)
    stopped.stop(ONE, tool="parcels__track_parcel")
    stopped.stop(ONE, tool="parcels__track_parcel")
    assert stopped.is_stopped(ONE)
    assert not stopped.is_stopped(OTHER)


def test_what_one_process_stops_is_stopped_for_the_others(dynamodb: tuple[Any, str]) -> None:
    first, second = (DynamoDbStoppedTools(*dynamodb, FakeClock()) for _ in range(2))
    assert not second.is_stopped(ONE)
    first.stop(ONE, tool="parcels__track_parcel")
    assert second.is_stopped(ONE)


def test_what_is_not_known_is_an_error_and_not_a_yes(dynamodb: tuple[Any, str], wire: Wire) -> None:
    tools = DynamoDbStoppedTools(*dynamodb, FakeClock())
    wire.next("GetItem", lose_request)
    with pytest.raises(StoreUnavailable):
        tools.is_stopped(ONE)
    assert not tools.is_stopped(ONE)


def test_who_could_not_tell_the_others_still_knows_it(dynamodb: tuple[Any, str], wire: Wire) -> None:
    tools = DynamoDbStoppedTools(*dynamodb, FakeClock())
    wire.next("PutItem", lose_request)
    with pytest.raises(StoreUnavailable):
        tools.stop(ONE, tool="parcels__track_parcel")
    assert tools.is_stopped(ONE)
