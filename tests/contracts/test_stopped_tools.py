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
from agent.tool_servers import MAX_STOPPED, StoppedTool, StoppedTools
from tests.contracts.wire import Wire, lose_request

tables = itertools.count()
ONE, OTHER = "1" * 64, "2" * 64


@pytest.fixture
def dynamodb(aws: Callable[[str], Any]) -> tuple[Any, str]:
    table = f"stopped-{next(tables)}"
    create_table(aws("dynamodb"), table)
    return aws("dynamodb"), table


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "dynamodb"])
def stopped(request: pytest.FixtureRequest, clock: FakeClock) -> StoppedTools:
    if request.param == "memory":
        return MemoryStoppedTools(clock)
    return DynamoDbStoppedTools(*request.getfixturevalue("dynamodb"), clock)


def test_a_contract_is_stopped_from_then_on_and_no_other_is(stopped: StoppedTools) -> None:
    assert not stopped.is_stopped(ONE)
    stopped.stop(ONE, tool="parcels__track_parcel")
    stopped.stop(ONE, tool="parcels__track_parcel")
    assert stopped.is_stopped(ONE)
    assert not stopped.is_stopped(OTHER)


def test_what_is_stopped_is_listed_the_latest_first(stopped: StoppedTools, clock: FakeClock) -> None:
    assert stopped.stopped() == []
    first = clock.now()
    stopped.stop(OTHER, tool="parcels__find_parcel")
    clock.advance(60)
    stopped.stop(ONE, tool="parcels__track_parcel")
    assert stopped.stopped() == [
        StoppedTool("parcels__track_parcel", ONE, clock.now()),
        StoppedTool("parcels__find_parcel", OTHER, first),
    ]


def test_not_more_than_the_bound_is_listed_and_what_is_not_known_is_an_error(
    dynamodb: tuple[Any, str], wire: Wire
) -> None:
    tools = DynamoDbStoppedTools(*dynamodb, FakeClock())
    for n in range(MAX_STOPPED + 1):
        tools.stop(f"{n:064d}", tool="parcels__track_parcel")
    assert len(tools.stopped()) == MAX_STOPPED
    wire.next("Query", lose_request)
    with pytest.raises(StoreUnavailable):
        tools.stopped()


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
