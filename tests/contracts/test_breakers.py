"""The breakers' contract: what every implementation of `ports.Breakers` keeps."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from agent.aws.breakers import DynamoDbBreakers
from agent.errors import ConfigurationInvalid
from agent.ports.breakers import BreakerRules, Breakers
from agent.testing.breakers import BreakerItems, MemoryBreakers
from agent.testing.clock import FakeClock
from agent.testing.tables import create_table
from tests.contracts.racing import race
from tests.contracts.wire import Wire, error, lose_request

RULES = BreakerRules(failures=3, window_s=30, open_s=60)
NAME = "model#m"
tables = itertools.count()
Process = Callable[[], Breakers]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "dynamodb"])
def process(request: pytest.FixtureRequest, clock: FakeClock) -> Process:
    """Makes the breakers of one more process over the same store."""
    if request.param == "memory":
        return partial(MemoryBreakers, BreakerItems(), RULES, clock)
    make: Process = request.getfixturevalue("dynamodb")
    return make


@pytest.fixture
def dynamodb(aws: Callable[[str], Any], wire: Wire, clock: FakeClock) -> Process:
    table = f"control-{next(tables)}"
    create_table(aws("dynamodb"), table)
    wire.calls.clear()
    return partial(DynamoDbBreakers, aws("dynamodb"), table, RULES, clock)


def admits(breakers: Breakers, name: str = NAME) -> bool:
    return breakers.admits(name, patience_s=20)


def opened(process: Process) -> Breakers:
    breakers = process()
    for _ in range(RULES.failures):
        breakers.failed(NAME)
    return breakers


def test_failures_in_one_window_open_a_breaker_for_every_process_and_no_other_breaker(process: Process) -> None:
    breakers = process()
    breakers.failed(NAME)
    breakers.failed(NAME)
    assert admits(breakers)
    process().failed(NAME)
    assert not admits(process())
    assert process().is_open(NAME)
    assert admits(process(), "tool#m")


def test_what_others_did_is_seen_within_two_seconds(process: Process, clock: FakeClock) -> None:
    breakers = process()
    assert admits(breakers)
    opened(process)
    clock.advance(2)
    assert not admits(breakers)


def test_failures_spread_over_windows_open_nothing(process: Process, clock: FakeClock) -> None:
    breakers = process()
    for _ in range(9):
        breakers.failed(NAME)
        clock.advance(RULES.window_s / 2)
    assert admits(breakers)


def test_of_all_processes_that_come_when_the_time_is_up_exactly_one_is_the_probe(
    process: Process, clock: FakeClock
) -> None:
    opened(process)
    clock.advance(RULES.open_s - 1)
    assert not admits(process())
    clock.advance(1)
    assert not process().is_open(NAME)
    for _ in range(5):
        assert sorted(race([partial(admits, process()) for _ in range(8)])) == [False] * 7 + [True]
        clock.advance(20)  # and that one was never heard of again


def test_a_probes_success_closes_the_breaker(process: Process, clock: FakeClock) -> None:
    opened(process)
    clock.advance(RULES.open_s)
    probe, other = process(), process()
    assert admits(probe)
    assert not admits(other)
    probe.succeeded(NAME)
    clock.advance(2)
    assert all(admits(each) for each in (probe, other, process()))
    probe.failed(NAME)
    assert admits(probe)  # closed as new: one failure is one failure


def test_a_caller_whose_look_at_a_breaker_is_older_than_its_closing_is_let_through(
    process: Process, clock: FakeClock
) -> None:
    opened(process)
    clock.advance(RULES.open_s - 1)
    probe, late = process(), process()
    assert not admits(late)
    clock.advance(1)
    assert admits(probe)
    probe.succeeded(NAME)
    assert admits(late)
    late.failed(NAME)  # and it is no probe: one failure is one failure
    assert admits(process())


def test_a_probes_failure_opens_the_breaker_for_its_whole_time_again(process: Process, clock: FakeClock) -> None:
    opened(process)
    clock.advance(RULES.open_s)
    probe = process()
    assert admits(probe)
    clock.advance(5)
    probe.failed(NAME)
    clock.advance(RULES.open_s - 1)
    assert not admits(process())
    clock.advance(1)
    assert admits(process())


def test_a_probe_that_is_given_up_leaves_the_next_caller_to_be_it_at_once(process: Process, clock: FakeClock) -> None:
    opened(process)
    clock.advance(RULES.open_s)
    probe, late = process(), process()
    assert admits(probe)
    probe.gave_up(NAME)
    next_one = process()
    assert admits(next_one)
    probe.gave_up(NAME)
    probe.succeeded(NAME)
    assert not admits(late)
    next_one.failed(NAME)
    assert process().is_open(NAME)


def test_giving_up_a_call_that_is_no_probe_changes_nothing(process: Process, clock: FakeClock) -> None:
    early = process()
    assert admits(early)
    early.gave_up(NAME)
    assert admits(process())
    opened(process)
    early.gave_up(NAME)
    assert not admits(process())
    clock.advance(RULES.open_s - 1)
    assert not admits(process())


def test_what_a_probe_tells_too_late_changes_nothing(process: Process, clock: FakeClock) -> None:
    opened(process)
    clock.advance(RULES.open_s)
    late, next_one = process(), process()
    assert admits(late)
    clock.advance(20)
    assert admits(next_one)
    late.succeeded(NAME)
    assert process().is_open(NAME)
    next_one.failed(NAME)
    clock.advance(RULES.open_s - 1)
    assert process().is_open(NAME)


def test_the_success_of_a_call_that_began_before_the_breaker_opened_closes_nothing(process: Process) -> None:
    early = process()
    assert admits(early)
    opened(process)
    early.succeeded(NAME)
    assert not admits(process())


@pytest.mark.parametrize("rules", [(0, 1, 1), (1, 0, 1), (1, 2, 1)])
def test_rules_that_make_no_sense_are_refused(rules: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no rules"):
        BreakerRules(*rules)


# --- DynamoDB alone ---------------------------------------------------------------------------------------------------


def test_a_good_call_costs_one_read_at_most_and_a_bad_one_a_write_more(
    dynamodb: Process, wire: Wire, clock: FakeClock
) -> None:
    breakers = dynamodb()
    for _ in range(4):
        assert admits(breakers)
        breakers.succeeded(NAME)
        clock.advance(0.5)
    assert wire.calls == {"GetItem": 1}
    breakers.failed(NAME)
    assert wire.calls == {"GetItem": 1, "UpdateItem": 1}


def test_while_the_table_does_not_answer_calls_go_on(dynamodb: Process, wire: Wire) -> None:
    breakers = dynamodb()
    wire.next("GetItem", *[lose_request] * 3)
    wire.next("UpdateItem", *[lose_request] * 3)
    assert admits(breakers)
    breakers.failed(NAME)
    breakers.succeeded(NAME)
    assert not breakers.is_open(NAME)


def test_a_missing_right_is_not_taken_for_silence(dynamodb: Process, wire: Wire) -> None:
    wire.next("GetItem", error("AccessDeniedException"))
    with pytest.raises(ConfigurationInvalid):
        admits(dynamodb())
