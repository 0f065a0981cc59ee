"""The run log's contract: what every implementation of `ports.RunLog` keeps."""

import itertools
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.aws.dynamodb import Backoff
from agent.aws.run_log import DynamoDbRunLog
from agent.endings import EndReason, Status
from agent.errors import IdempotencyKeyReused, LogMoved
from agent.events import (
    ApprovalDecided,
    Delta,
    FeedbackGiven,
    RunEnded,
    RunWaiting,
    SessionLoaded,
    SessionMessage,
    WaitingFor,
)
from agent.ports.run_log import RunLog
from agent.run_header import MAX_APPEND
from agent.run_state import fold
from agent.testing.clock import FakeClock
from agent.testing.run_log import MemoryRunLog
from agent.testing.tables import create_table
from tests.contracts.facts import NOW, answered, cancel, claim, new_run, requested
from tests.contracts.racing import race

tables = itertools.count()


@pytest.fixture(params=["memory", "dynamodb"])
def log(request: pytest.FixtureRequest) -> RunLog:
    if request.param == "memory":
        return MemoryRunLog()
    aws, backoff = request.getfixturevalue("aws"), request.getfixturevalue("backoff")
    return dynamodb_log(aws, backoff)


def dynamodb_log(aws: Callable[[str], Any], backoff: Backoff) -> DynamoDbRunLog:
    table = f"runs-{next(tables)}"
    create_table(
        aws("dynamodb"),
        table,
        by_user=("user_key", "run_id"),
        by_approval=("approval_key", "run_id"),
        by_due=("due_shard", "due_at"),
    )
    return DynamoDbRunLog(aws("dynamodb"), table, clock=FakeClock(NOW), backoff=backoff, pick=lambda n: 0)


# --- create -----------------------------------------------------------------------------------------------------------


def test_a_created_run_is_read_back_as_it_was_written(log: RunLog) -> None:
    run = new_run(key="k", session="s1", text="ünïcode \u0000 and \U0001f600")
    header = log.create(run)
    assert log.header("acme", header.run_id) == header
    assert log.events("acme", header.run_id) == [run.event]
    assert fold(log.events("acme", header.run_id)).header == header


def test_a_run_of_another_tenant_is_as_missing_as_one_that_never_was(log: RunLog) -> None:
    header = log.create(new_run())
    assert log.header("globex", header.run_id) is None
    assert log.events("globex", header.run_id) == []
    assert log.header("acme", "run_00000000000000000000000000") is None


def test_the_same_idempotency_key_finds_the_same_run(log: RunLog) -> None:
    header = log.create(new_run(key="k"))
    later = log.append(header, [claim()], at=NOW)
    again = new_run(key="k")
    assert log.create(again) == later
    assert log.header("acme", again.event.run_id) is None


def test_an_idempotency_key_with_another_body_is_refused_and_nothing_written(log: RunLog) -> None:
    log.create(new_run(key="k"))
    other = new_run(key="k", body="b2")
    with pytest.raises(IdempotencyKeyReused):
        log.create(other)
    assert log.header("acme", other.event.run_id) is None


@pytest.mark.parametrize(("tenant", "user"), [("acme", "bob"), ("globex", "ann")])
def test_an_idempotency_key_belongs_to_its_user(log: RunLog, tenant: str, user: str) -> None:
    mine = log.create(new_run(key="k"))
    theirs = log.create(new_run(key="k", body="b2", tenant=tenant, user=user))
    assert theirs.run_id != mine.run_id


def test_an_idempotency_key_is_free_again_after_a_day_even_if_nobody_deleted_it(log: RunLog) -> None:
    first = log.create(new_run(key="k"))
    within = new_run(key="k", at=NOW + timedelta(hours=23, minutes=59))
    assert log.create(within).run_id == first.run_id
    after = new_run(key="k", body="b2", at=NOW + timedelta(hours=24))
    assert log.create(after).run_id == after.event.run_id
    with pytest.raises(IdempotencyKeyReused):
        log.create(new_run(key="k", at=NOW + timedelta(hours=25)))


def test_a_run_id_is_used_once(log: RunLog) -> None:
    header = log.create(new_run())
    with pytest.raises(LogMoved):
        log.create(new_run(run_id=header.run_id))


def test_of_many_creates_with_one_key_at_once_one_run_remains(log: RunLog) -> None:
    runs = [new_run(key="k") for _ in range(12)]
    made = [header.run_id for header in race([partial(log.create, run) for run in runs])]
    assert len(made) == 12
    assert [h.run_id for h in log.runs_of_user("acme", "ann", limit=50)[0]] == list(set(made))


# --- append -----------------------------------------------------------------------------------------------------------


def test_appended_events_follow_without_a_gap_and_lead_to_the_stored_header(log: RunLog) -> None:
    header = log.create(new_run())
    header = log.append(header, [claim(), SessionLoaded(messages=(SessionMessage(role="user", text="hi"),))], at=NOW)
    header = log.append(header, [answered()], at=NOW + timedelta(microseconds=123_457))
    events = log.events("acme", header.run_id)
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert [event.type for event in events] == ["run.created", "run.claimed", "session.loaded", "model.completed"]
    assert fold(events).header == header == log.header("acme", header.run_id)
    assert header.epoch == 1


def test_a_holder_that_lost_the_run_to_another_is_told_and_writes_nothing(log: RunLog) -> None:
    created = log.create(new_run())
    mine = log.append(created, [claim(1, owner="a")], at=NOW)
    theirs = log.append(mine, [claim(2, owner="b")], at=NOW)
    with pytest.raises(LogMoved):
        log.append(mine, [answered()], at=NOW)
    assert log.header("acme", created.run_id) == theirs
    assert len(log.events("acme", created.run_id)) == 3


def test_an_old_epoch_is_refused_even_at_the_right_number(log: RunLog) -> None:
    header = log.append(log.create(new_run()), [claim(1)], at=NOW)
    stale = header.model_copy(update={"epoch": 0})
    with pytest.raises(LogMoved):
        log.append(stale, [answered()], at=NOW)
    assert len(log.events("acme", header.run_id)) == 2


def test_an_outside_event_needs_no_epoch_and_carries_none(log: RunLog) -> None:
    header = log.append(log.create(new_run()), [claim(1)], at=NOW)
    stranger = header.model_copy(update={"epoch": 0})
    after = log.append(stranger, [cancel()], at=NOW, outside=True)
    assert after.cancel_requested
    assert log.events("acme", header.run_id, after=2)[0].epoch == 0
    with pytest.raises(LogMoved):
        log.append(header, [answered()], at=NOW)


def test_an_outside_event_also_waits_its_turn(log: RunLog) -> None:
    created = log.create(new_run())
    log.append(created, [claim(1)], at=NOW)
    with pytest.raises(LogMoved):
        log.append(created, [cancel()], at=NOW, outside=True)


def test_only_the_holder_may_append_what_is_no_outside_event(log: RunLog) -> None:
    created = log.create(new_run())
    with pytest.raises(ValueError, match="only the holder"):
        log.append(created, [cancel(), claim(1)], at=NOW, outside=True)
    assert log.header("acme", created.run_id) == created


def test_an_append_takes_as_many_events_as_one_transaction_and_no_more(log: RunLog) -> None:
    header = log.create(new_run())
    with pytest.raises(ValueError, match="events"):
        log.append(header, [], at=NOW)
    with pytest.raises(ValueError, match="events"):
        log.append(header, [cancel()] * (MAX_APPEND + 1), at=NOW, outside=True)
    header = log.append(header, [cancel()] * MAX_APPEND, at=NOW, outside=True)
    assert len(log.events("acme", header.run_id)) == MAX_APPEND + 1


def test_reading_on_gives_what_follows_and_no_more_than_asked(log: RunLog) -> None:
    header = log.create(new_run())
    log.append(header, [cancel()] * 30, at=NOW, outside=True)
    assert [e.seq for e in log.events("acme", header.run_id, after=10, limit=5)] == [11, 12, 13, 14, 15]
    assert log.events("acme", header.run_id, after=31) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=24))
def test_two_writers_in_any_order_write_one_gapless_log(log: RunLog, steps: list[tuple[str, bool]]) -> None:
    """Each step, one of them reads again or appends on what it read last; whoever is behind is refused."""
    created = log.create(new_run())
    seen = {"a": created, "b": created}
    written = ["run.created"]
    epoch = 0
    for who, reads in steps:
        if reads:
            current = log.header("acme", created.run_id)
            assert current is not None
            seen[who] = current
            continue
        outside = who == "b"
        payload = cancel() if outside else claim(seen[who].epoch + 1, owner=who)
        if seen[who].next_seq == len(written) + 1:
            seen[who] = log.append(seen[who], [payload], at=NOW, outside=outside)
            written.append(payload.type)
            epoch += not outside
        else:
            with pytest.raises(LogMoved):
                log.append(seen[who], [payload], at=NOW, outside=outside)
    events = log.events("acme", created.run_id)
    assert [event.type for event in events] == written
    assert fold(events).header == log.header("acme", created.run_id)
    assert fold(events).header.epoch == epoch


def test_of_many_holders_claiming_at_once_one_wins(log: RunLog) -> None:
    created = log.create(new_run())
    answers = race([partial(log.append, created, [claim(1, owner=f"owner-{n}")], at=NOW) for n in range(12)])
    [header] = [answer for answer in answers if not isinstance(answer, LogMoved)]
    assert log.header("acme", created.run_id) == header


# --- deltas -----------------------------------------------------------------------------------------------------------


def test_deltas_are_read_in_order_up_to_the_first_that_is_missing(log: RunLog) -> None:
    header = log.create(new_run())
    pieces = [Delta(seq=3, index=n, part=0, offset=n * 4, text=f"{n:4}") for n in range(15)]
    for piece in reversed(pieces):
        if piece.index != 12:
            log.write_delta("acme", header.run_id, piece)
    assert log.deltas("acme", header.run_id, 3) == pieces[:12]
    assert log.deltas("acme", header.run_id, 3, from_index=10) == pieces[10:12]
    assert log.deltas("acme", header.run_id, 3, from_index=12) == []
    assert log.deltas("acme", header.run_id, 30) == []


def test_deltas_are_no_events(log: RunLog) -> None:
    header = log.create(new_run())
    log.write_delta("acme", header.run_id, Delta(seq=1, index=0, part=0, offset=0, text="x"))
    log.append(header, [claim()], at=NOW)
    assert [event.seq for event in log.events("acme", header.run_id)] == [1, 2]


# --- lists ------------------------------------------------------------------------------------------------------------


def test_a_users_runs_come_newest_first_page_by_page(log: RunLog) -> None:
    headers = [log.create(new_run(run_id=f"run_0000000000000000000000000{n}")) for n in range(5)]
    log.create(new_run(user="bob"))
    log.create(new_run(tenant="globex"))
    newest = list(reversed(headers))
    page, more = log.runs_of_user("acme", "ann", limit=2)
    assert (page, more) == (newest[:2], newest[1].run_id)
    page, more = log.runs_of_user("acme", "ann", limit=2, before=more)
    assert (page, more) == (newest[2:4], newest[3].run_id)
    page, more = log.runs_of_user("acme", "ann", limit=2, before=more)
    assert (page, more) == (newest[4:], None)
    assert log.runs_of_user("acme", "ann", limit=5) == (newest, None)


def test_more_runs_than_one_batch_holds_are_read_whole(log: RunLog) -> None:
    made = {log.create(new_run()).run_id for _ in range(105)}
    page, more = log.runs_of_user("acme", "ann", limit=105)
    assert {header.run_id for header in page} == made
    assert more is None


def test_a_sessions_newest_runs_come_oldest_first(log: RunLog) -> None:
    of_session = [log.create(new_run(session="s1", run_id=f"run_0000000000000000000000000{n}")) for n in range(4)]
    log.create(new_run(session="s11"))
    log.create(new_run())
    log.create(new_run(session="s1", user="bob"))
    moved = log.append(of_session[3], [claim()], at=NOW)
    assert log.runs_of_session("acme", "ann", "s1", limit=3) == [*of_session[1:3], moved]
    assert log.runs_of_session("acme", "ann", "s2", limit=3) == []


# --- due --------------------------------------------------------------------------------------------------------------


def test_a_tenants_pending_approvals_come_oldest_first_page_by_page(log: RunLog) -> None:
    created = [log.create(new_run()) for _ in range(5)]
    log.create(new_run(tenant="globex"))
    waiting = [log.append(log.append(h, [claim()], at=NOW), [answered(), requested(h.run_id)], at=NOW) for h in created]
    oldest = sorted(waiting, key=lambda header: header.run_id)
    page, more = log.runs_awaiting_approval("acme", limit=2)
    assert (page, more) == (oldest[:2], oldest[1].run_id)
    page, more = log.runs_awaiting_approval("acme", limit=2, after=more)
    assert (page, more) == (oldest[2:4], oldest[3].run_id)
    assert log.runs_awaiting_approval("acme", limit=2, after=more) == (oldest[4:], None)
    assert log.runs_awaiting_approval("globex", limit=2) == ([], None)


def test_a_run_whose_approvals_are_decided_or_that_is_over_is_no_longer_listed(log: RunLog) -> None:
    first, second = (log.append(log.create(new_run()), [claim()], at=NOW) for _ in range(2))
    first, second = (log.append(h, [answered(), requested(h.run_id)], at=NOW) for h in (first, second))
    decided = ApprovalDecided(
        approval_id=first.approvals[0].approval_id, call_id="call_1_0", by="bea", decision="approve"
    )
    log.append(first, [decided], at=NOW, outside=True)
    assert log.runs_awaiting_approval("acme", limit=5) == ([second], None)
    ended = RunEnded(status=Status.CANCELLED, reason=EndReason.CANCELLED, message="over")
    log.append(second, [ended], at=NOW)
    assert log.runs_awaiting_approval("acme", limit=5) == ([], None)


def test_due_runs_are_those_whose_time_has_passed_the_longest_due_first(log: RunLog) -> None:
    headers = [log.create(new_run(tenant=f"t{n}", at=NOW - timedelta(seconds=n))) for n in range(20)]
    assert log.due_runs(NOW + timedelta(seconds=30), limit=50) == []
    due = log.due_runs(NOW + timedelta(seconds=50), limit=50)
    assert due == list(reversed(headers[10:]))
    assert log.due_runs(NOW + timedelta(seconds=50), limit=3) == due[:3]


def test_a_parked_run_is_due_when_its_wait_is_over(log: RunLog) -> None:
    header = log.append(log.create(new_run()), [claim()], at=NOW)
    until = NOW + timedelta(hours=20)
    log.append(header, [RunWaiting(waiting_for=(WaitingFor.TOOL,), due_at=until)], at=NOW)
    assert log.due_runs(until - timedelta(seconds=1), limit=5) == []
    assert [h.run_id for h in log.due_runs(until, limit=5)] == [header.run_id]


def test_a_postponed_run_is_due_later_and_its_log_is_untouched(log: RunLog) -> None:
    header = log.create(new_run())
    later = NOW + timedelta(minutes=5)
    assert log.postpone(header, later)
    assert log.due_runs(later - timedelta(seconds=1), limit=5) == []
    [due] = log.due_runs(later, limit=5)
    assert due == header.model_copy(update={"due_at": later})
    assert log.append(due, [claim()], at=NOW).next_seq == 3


def test_a_run_that_moved_on_is_not_postponed(log: RunLog) -> None:
    header = log.create(new_run())
    moved = log.append(header, [claim()], at=NOW)
    assert not log.postpone(header, NOW + timedelta(hours=1))
    assert log.header("acme", header.run_id) == moved


def test_of_two_sweepers_one_postpones(log: RunLog) -> None:
    header = log.create(new_run())
    assert log.postpone(header, NOW + timedelta(minutes=5))
    assert not log.postpone(header, NOW + timedelta(minutes=6))


def test_feedback_may_follow_at_any_time(log: RunLog) -> None:
    header = log.create(new_run())
    after = log.append(header, [FeedbackGiven(by="ann", rating="up")], at=NOW, outside=True)
    assert log.header("acme", header.run_id) == after
