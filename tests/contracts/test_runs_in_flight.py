"""The run log's contract about runs in flight: how many a user, a tenant and a session may have, exactly."""

import itertools
from functools import partial

import pytest
from annotated_types import Le

from agent import sessions
from agent.aws import run_sets
from agent.endings import EndReason, Status
from agent.errors import SessionBusy, TooManyRuns
from agent.events import RunEnded
from agent.ports.run_log import NewRun, RunLog
from agent.release import Caps
from agent.run_header import RunHeader
from agent.sweep import LONGEST_BACKOFF
from tests.contracts.facts import NOW, claim, new_run
from tests.contracts.racing import race
from tests.contracts.test_run_log import log

__all__ = ["log"]


def end(log: RunLog, header: RunHeader) -> RunHeader:
    over = RunEnded(status=Status.COMPLETED, reason=EndReason.ANSWERED, message="", answer="a")
    return log.append(log.append(header, [claim()], at=NOW), [over], at=NOW)


def refused(log: RunLog, run: NewRun) -> TooManyRuns:
    with pytest.raises(TooManyRuns) as refusal:
        log.create(run)
    assert log.header("acme", run.event.run_id) is None
    assert log.events("acme", run.event.run_id) == []
    return refusal.value


def test_a_set_outlives_the_longest_run_and_what_the_sweeper_needs_to_end_it() -> None:
    [longest_s] = [bound.le for bound in Caps.model_fields["max_duration_s"].metadata if isinstance(bound, Le)]
    assert longest_s + LONGEST_BACKOFF.total_seconds() < run_sets.SET_LIFE_S


def test_a_user_has_as_many_runs_in_flight_as_allowed_and_the_next_when_one_has_ended(log: RunLog) -> None:
    first, _ = (log.create(new_run(user_runs=2)) for _ in range(2))
    refused(log, new_run(user_runs=2))
    log.create(new_run(user="bob", user_runs=2))
    log.create(new_run(tenant="globex", user_runs=2))
    end(log, first)
    log.create(new_run(user_runs=2))
    refused(log, new_run(user_runs=2))


@pytest.mark.parametrize("most", [1, 5, 11])
def test_a_tenant_has_as_many_runs_in_flight_as_allowed_whoever_asks(log: RunLog, most: int) -> None:
    users = itertools.count()
    runs = [log.create(new_run(user=f"u{next(users)}", tenant_runs=most)) for _ in range(most)]
    refused(log, new_run(user="last", tenant_runs=most))
    log.create(new_run(tenant="globex", tenant_runs=most))
    end(log, runs[most // 2])
    log.create(new_run(user="last", tenant_runs=most))
    refused(log, new_run(user="last", tenant_runs=most))


@pytest.mark.parametrize("limits", [{"user_runs": 0}, {"tenant_runs": 0}])
def test_a_limit_of_none_lets_nobody_in(log: RunLog, limits: dict[str, int]) -> None:
    refused(log, new_run(**limits))


def test_a_repeated_request_finds_its_run_however_many_are_in_flight(log: RunLog) -> None:
    header = log.create(new_run(key="k", user_runs=1, tenant_runs=1))
    assert log.create(new_run(key="k", user_runs=1, tenant_runs=1)) == header
    refused(log, new_run(key="other", user_runs=1, tenant_runs=1))
    end(log, header)
    log.create(new_run(key="other", user_runs=1, tenant_runs=1))


@pytest.mark.parametrize("limits", [{"user_runs": 3}, {"tenant_runs": 3}])
def test_of_many_that_come_at_once_exactly_as_many_are_let_in_as_allowed(log: RunLog, limits: dict[str, int]) -> None:
    attempts = [
        partial(log.create, new_run(user="ann" if "user_runs" in limits else f"u{n}", **limits)) for n in range(12)
    ]
    answers = race(attempts)
    assert sum(isinstance(answer, RunHeader) for answer in answers) == 3
    assert sum(isinstance(answer, TooManyRuns) for answer in answers) == 9


def test_a_run_that_was_ended_twice_at_once_frees_one_place(log: RunLog) -> None:
    first, _ = (log.create(new_run(user_runs=2)) for _ in range(2))
    held = log.append(first, [claim()], at=NOW)
    over = RunEnded(status=Status.COMPLETED, reason=EndReason.ANSWERED, message="", answer="a")
    race([partial(log.append, held, [over], at=NOW) for _ in range(4)])
    log.create(new_run(user_runs=2))
    refused(log, new_run(user_runs=2))


def test_who_is_refused_is_told_when_a_place_is_likely_to_be_free(log: RunLog) -> None:
    log.create(new_run(user_runs=1))
    assert 1 <= refused(log, new_run(user_runs=1)).retry_after_s <= 60


def test_a_session_knows_its_open_runs_in_the_order_in_which_they_came_whatever_their_ids(log: RunLog) -> None:
    runs = [log.create(new_run(session="s", run_id=f"run_{n:026d}")) for n in (3, 1, 2)]
    log.create(new_run(session="other"))
    log.create(new_run(session="s", user="bob"))
    assert log.open_runs_of_session("acme", "ann", "s") == [f"run_{n:026d}" for n in (3, 1, 2)]
    end(log, runs[1])
    assert log.open_runs_of_session("acme", "ann", "s") == [f"run_{n:026d}" for n in (3, 2)]
    log.create(new_run(session="s", run_id=f"run_{0:026d}"))
    assert log.open_runs_of_session("acme", "ann", "s") == [f"run_{n:026d}" for n in (3, 2, 0)]


def test_of_runs_created_at_once_in_a_session_each_sees_those_ahead_of_it_and_no_two_see_the_same(log: RunLog) -> None:
    runs = [new_run(session="s") for _ in range(6)]
    race([partial(log.create, run) for run in runs])
    headers = [header for run in runs if (header := log.header("acme", run.event.run_id))]
    assert sorted(len(sessions.runs_ahead(log, header)) for header in headers) == [0, 1, 2, 3, 4, 5]


def test_a_run_with_a_smaller_id_waits_for_the_run_that_was_created_before_it(log: RunLog) -> None:
    """Two processes create them in the same millisecond, where chance decides which id is the greater."""
    first, second = (log.create(new_run(session="s", run_id=f"run_{n:026d}")) for n in (2, 1))
    assert sessions.runs_ahead(log, first) == []
    assert sessions.runs_ahead(log, second) == [first.run_id]
    end(log, first)
    assert sessions.runs_ahead(log, second) == []


def test_a_run_that_wants_to_be_alone_in_its_session_is_refused_until_it_is(log: RunLog) -> None:
    first = log.create(new_run(session="s", is_alone=True))
    other = new_run(session="s", is_alone=True)
    with pytest.raises(SessionBusy):
        log.create(other)
    assert log.header("acme", other.event.run_id) is None
    log.create(new_run(session="t", is_alone=True))
    end(log, first)
    log.create(other)


def test_of_many_runs_that_want_to_be_alone_at_once_one_is(log: RunLog) -> None:
    answers = race([partial(log.create, new_run(session="s", is_alone=True)) for _ in range(8)])
    assert sum(isinstance(answer, RunHeader) for answer in answers) == 1
    assert sum(isinstance(answer, SessionBusy) for answer in answers) == 7
