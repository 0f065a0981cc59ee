"""What DynamoDB and the network do to the run log, which memory can't: conflicts, throttling, lost replies, limits."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from agent.aws.dynamodb import Backoff
from agent.aws.run_log import DynamoDbRunLog
from agent.aws.run_log_items import header_item
from agent.errors import (
    ConfigurationInvalid,
    IdempotencyKeyReused,
    InputTooLarge,
    LogContended,
    LogMoved,
    StoreUnavailable,
)
from agent.events import Delta, SessionLoaded, SessionMessage
from tests.contracts.conftest import Sleeps
from tests.contracts.facts import NOW, answered, cancel, claim, new_run, requested
from tests.contracts.test_run_log import dynamodb_log
from tests.contracts.wire import Fault, Wire, cancelled, error, first, leave_unprocessed, lose_reply, lose_request

PASSING = [
    pytest.param(cancelled("TransactionConflict", "None"), id="conflict"),
    pytest.param(cancelled("None", "ThrottlingError"), id="throttled item"),
    pytest.param(cancelled("ProvisionedThroughputExceeded", "None"), id="hot partition"),
    pytest.param(error("ThrottlingException"), id="throttled"),
    pytest.param(error("TransactionInProgressException"), id="the first attempt still runs"),
    pytest.param(error("InternalServerError", status=500), id="server error"),
    pytest.param(lose_request, id="request lost"),
    pytest.param(lose_reply, id="reply lost after the commit"),
]


@pytest.fixture
def log(aws: Callable[[str], Any], backoff: Backoff, wire: Wire) -> DynamoDbRunLog:
    made = dynamodb_log(aws, backoff)
    wire.calls.clear()
    return made


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("outside", [False, True])
def test_an_append_outlives_passing_trouble_and_is_written_once(
    log: DynamoDbRunLog, wire: Wire, fault: Fault, outside: bool
) -> None:
    header = log.create(new_run())
    wire.next("TransactWriteItems", fault, fault)
    after = log.append(header, [cancel() if outside else claim()], at=NOW, outside=outside)
    assert len(log.events("acme", header.run_id)) == 2
    assert log.header("acme", header.run_id) == after
    assert log.append(after, [cancel()], at=NOW).next_seq == 4


@pytest.mark.parametrize("fault", PASSING)
def test_a_create_outlives_passing_trouble_and_makes_one_run(log: DynamoDbRunLog, wire: Wire, fault: Fault) -> None:
    run = new_run(key="k", session="s")
    wire.next("TransactWriteItems", fault, fault)
    header = log.create(run)
    assert header.run_id == run.event.run_id
    assert log.header("acme", header.run_id) == header
    with pytest.raises(IdempotencyKeyReused):
        log.create(new_run(key="k", body="b2"))


def test_a_create_without_a_key_whose_reply_was_lost_is_recognised(log: DynamoDbRunLog, wire: Wire) -> None:
    run = new_run()
    wire.next("TransactWriteItems", lose_reply)
    assert log.create(run).run_id == run.event.run_id


@pytest.mark.parametrize("reply", [lose_reply, lose_request])
def test_whoever_else_appended_meanwhile_is_no_passing_trouble(log: DynamoDbRunLog, wire: Wire, reply: Fault) -> None:
    header = log.create(new_run())

    def rival() -> None:
        log.append(header, [cancel(), cancel()], at=NOW, outside=True)

    wire.next("TransactWriteItems", lose_request, first(rival))
    with pytest.raises(LogMoved):
        log.append(header, [claim()], at=NOW)
    assert [e.type for e in log.events("acme", header.run_id)] == ["run.created", *["cancel.requested"] * 2]


def test_an_append_that_was_overtaken_after_its_lost_reply_counts_as_done(log: DynamoDbRunLog, wire: Wire) -> None:
    header = log.create(new_run())

    def rival() -> None:
        current = log.header("acme", header.run_id)
        assert current is not None
        log.append(current, [cancel()], at=NOW, outside=True)

    wire.next("TransactWriteItems", lose_reply, first(rival))
    mine = log.append(header, [claim()], at=NOW)
    assert mine.next_seq == 3
    with pytest.raises(LogMoved):
        log.append(mine, [cancel()], at=NOW)
    assert [e.type for e in log.events("acme", header.run_id)] == ["run.created", "run.claimed", "cancel.requested"]


def test_a_header_of_a_version_this_one_does_not_know_hides_no_other_from_sweeper_and_approvers(
    log: DynamoDbRunLog, aws: Callable[[str], Any]
) -> None:
    created = [log.create(new_run()) for _ in range(2)]
    headers = [log.append(h, [claim(), answered(), requested(h.run_id)], at=NOW) for h in created]
    item = header_item(headers[0])
    newer = json.loads(item["header"]["S"]) | {"of_a_later_version": 1}
    aws("dynamodb").put_item(TableName=log._table, Item={**item, "header": {"S": json.dumps(newer)}})
    assert log.due_runs(NOW + timedelta(hours=1), limit=5) == [headers[1]]
    assert log.runs_awaiting_approval("acme", limit=5) == ([headers[1]], None)
    with pytest.raises(ValidationError):
        log.header("acme", headers[0].run_id)


def test_a_failed_condition_beside_a_conflict_means_the_log_moved(log: DynamoDbRunLog, wire: Wire) -> None:
    header = log.create(new_run())
    wire.next("TransactWriteItems", cancelled("ConditionalCheckFailed", "TransactionConflict"))
    wire.calls.clear()
    with pytest.raises(LogMoved):
        log.append(header, [claim()], at=NOW)
    assert wire.calls == {"TransactWriteItems": 1}


def test_retries_are_bounded_and_back_off_with_jitter(log: DynamoDbRunLog, wire: Wire, sleeps: Sleeps) -> None:
    header = log.create(new_run())
    wire.next("TransactWriteItems", *[cancelled("TransactionConflict")] * 50)
    wire.calls.clear()
    with pytest.raises(LogContended):
        log.append(header, [claim()], at=NOW)
    assert wire.calls["TransactWriteItems"] == 8
    assert sleeps == [0.025, 0.05, 0.1, 0.2, 0.4, 0.4, 0.4]
    assert log.header("acme", header.run_id) == header


def test_a_store_that_never_answers_is_given_up_sooner(log: DynamoDbRunLog, wire: Wire) -> None:
    header = log.create(new_run())
    wire.next("TransactWriteItems", *[lose_request] * 50)
    wire.calls.clear()
    with pytest.raises(LogContended, match="3 attempts"):
        log.append(header, [claim()], at=NOW)
    assert wire.calls["TransactWriteItems"] == 3


def test_full_jitter_takes_any_share_of_the_longest_wait() -> None:
    slept: list[float] = []
    backoff = Backoff(sleep=slept.append, random=iter([0.0, 0.5, 1.0]).__next__)
    for attempt in range(3):
        backoff.wait(attempt)
    assert slept == [0.0, 0.025, 0.1]


@pytest.mark.parametrize(
    "fault",
    [
        error("AccessDeniedException"),
        error("AccessDenied"),
        error("ResourceNotFoundException"),
        cancelled("ValidationError", "None"),
    ],
)
def test_what_no_retry_helps_is_raised_at_once(log: DynamoDbRunLog, wire: Wire, fault: Fault) -> None:
    wire.next("TransactWriteItems", fault)
    with pytest.raises(ConfigurationInvalid):
        log.create(new_run())
    assert wire.calls == {"TransactWriteItems": 1}


@pytest.mark.parametrize("fault", [error("ThrottlingException"), error("InternalServerError", status=500), lose_reply])
def test_a_read_that_fails_says_try_later(log: DynamoDbRunLog, wire: Wire, fault: Fault) -> None:
    header = log.create(new_run(session="s"))
    reads: dict[str, list[Callable[[], object]]] = {
        "GetItem": [lambda: log.header("acme", header.run_id)],
        "Query": [
            lambda: log.events("acme", header.run_id),
            lambda: log.deltas("acme", header.run_id, 1),
            lambda: log.runs_of_user("acme", "ann", limit=5),
            lambda: log.runs_of_session("acme", "ann", "s", limit=5),
            lambda: log.due_runs(NOW, limit=5),
        ],
        "BatchGetItem": [lambda: log.runs_of_user("acme", "ann", limit=5)],
    }
    for operation, calls in reads.items():
        for call in calls:
            wire.next(operation, fault)
            with pytest.raises(StoreUnavailable):
                call()
            wire.reset()


def test_a_delta_that_can_not_be_stored_is_let_go(log: DynamoDbRunLog, wire: Wire) -> None:
    header = log.create(new_run())
    wire.next("PutItem", error("ThrottlingException"))
    log.write_delta("acme", header.run_id, Delta(seq=2, index=0, part=0, offset=0, text="lost"))
    log.write_delta("acme", header.run_id, Delta(seq=2, index=1, part=0, offset=4, text="kept"))
    assert log.deltas("acme", header.run_id, 2) == []
    assert [d.text for d in log.deltas("acme", header.run_id, 2, from_index=1)] == ["kept"]


def test_headers_that_a_batch_left_unprocessed_are_asked_for_again(
    log: DynamoDbRunLog, wire: Wire, sleeps: Sleeps
) -> None:
    for _ in range(3):
        log.create(new_run())
    wire.next("BatchGetItem", leave_unprocessed, leave_unprocessed)
    assert len(log.runs_of_user("acme", "ann", limit=5)[0]) == 3
    assert len(sleeps) == 2
    wire.next("BatchGetItem", *[leave_unprocessed] * 50)
    with pytest.raises(StoreUnavailable):
        log.runs_of_user("acme", "ann", limit=5)


def test_a_postponement_whose_reply_was_lost_counts_as_done(log: DynamoDbRunLog, wire: Wire) -> None:
    header = log.create(new_run())
    later = NOW + timedelta(minutes=5)

    def sdk_sent_it_before() -> None:
        assert log.postpone(header, later)

    wire.next("PutItem", first(sdk_sent_it_before))
    assert log.postpone(header, later)


def test_a_run_being_appended_to_is_not_postponed(log: DynamoDbRunLog, wire: Wire) -> None:
    header = log.create(new_run())
    wire.next("PutItem", error("TransactionConflictException"))
    assert not log.postpone(header, NOW + timedelta(minutes=5))
    assert log.header("acme", header.run_id) == header


def test_a_reader_stops_in_front_of_a_gap(log: DynamoDbRunLog, aws: Callable[[str], Any]) -> None:
    header = log.create(new_run())
    log.append(header, [cancel(), cancel(), cancel()], at=NOW, outside=True)
    key = {"pk": {"S": f"T#acme#R#{header.run_id}"}, "sk": {"S": "E#00000003"}}
    aws("dynamodb").delete_item(TableName=log._table, Key=key)  # what a query may show of a transaction under way
    assert [e.seq for e in log.events("acme", header.run_id)] == [1, 2]


def test_a_long_log_is_read_over_several_pages(log: DynamoDbRunLog, wire: Wire) -> None:
    header = log.append(log.create(new_run()), [claim()], at=NOW)
    texts = tuple(SessionMessage(role="user", text="x" * 60_000) for _ in range(5))
    for _ in range(5):
        header = log.append(header, [SessionLoaded(messages=texts)], at=NOW)
    wire.calls.clear()
    assert len(log.events("acme", header.run_id)) == 7
    assert wire.calls["Query"] == 2


def test_an_event_that_no_item_can_hold_is_refused_before_anything_is_sent(log: DynamoDbRunLog, wire: Wire) -> None:
    header = log.create(new_run())
    wire.calls.clear()
    huge = SessionLoaded(messages=tuple(SessionMessage(role="user", text="ü" * 50_000) for _ in range(4)))
    with pytest.raises(InputTooLarge, match=r"session\.loaded has more than 380000 bytes"):
        log.append(header, [huge], at=NOW)
    with pytest.raises(InputTooLarge):
        log.create(new_run(text="x" * 400_000))
    large = SessionLoaded(messages=(SessionMessage(role="user", text="x" * 350_000),))
    with pytest.raises(InputTooLarge, match="11 events"):
        log.append(header, [large] * 11, at=NOW)
    assert wire.calls == {}


def test_keys_and_deltas_have_an_end_of_life_and_runs_have_none(log: DynamoDbRunLog, aws: Callable[[str], Any]) -> None:
    header = log.create(new_run(key="secret-key", session="s"))
    log.write_delta("acme", header.run_id, Delta(seq=2, index=0, part=0, offset=0, text="x"))
    items = aws("dynamodb").scan(TableName=log._table)["Items"]
    lives = {i["sk"]["S"][:2]: int(i["expires_at"]["N"]) - NOW.timestamp() for i in items if "expires_at" in i}
    assert lives == {"K#": 24 * 3600, "D#": 3600, "IN": 8 * 24 * 3600, "OP": 8 * 24 * 3600}  # the last two: sets
    assert "secret-key" not in str(items)


def test_what_each_step_costs_in_calls(log: DynamoDbRunLog, wire: Wire) -> None:
    header = log.create(new_run(key="k", session="s"))
    assert wire.calls == {"TransactWriteItems": 1}
    wire.calls.clear()
    log.append(header, [claim(), cancel()], at=NOW)
    assert wire.calls == {"TransactWriteItems": 1}
    wire.calls.clear()
    log.header("acme", header.run_id)
    log.events("acme", header.run_id)
    assert wire.calls == {"GetItem": 1, "Query": 1}
