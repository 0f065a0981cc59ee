"""The queue's worker: one result for each queued call, whatever deliveries, losses and other writers do."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from agent.contracts import Effect
from agent.endings import EndReason, Status
from agent.errors import CallNotDecided, LogContended, LogMoved, StoreUnavailable, ToolLost, TryLater
from agent.events import (
    CancelRequested,
    RunEnded,
    RunWaiting,
    ToolCompleted,
    ToolOutcomeUnknown,
    ToolStarted,
    Verdict,
    WaitingFor,
)
from agent.execution import ToolJob
from agent.ports.run_log import RunLog
from agent.ports.tool_room import ToolReply
from agent.queued_calls import MAX_MOVES, QueueWorker, give_up, work
from agent.run_header import RunHeader
from agent.testing.breakers import STEADY, BreakerItems, MemoryBreakers
from agent.testing.decided_run import CALL, RUN, DecidedRun
from agent.testing.rooms import InProcessToolRunner, MemoryWake
from agent.testing.run_log import MemoryRunLog
from agent.tools import Arguments, Tool, ToolContext, tool
from tests import sample_agent

JOB = ToolJob(tenant_id="acme", run_id=RUN, call_id=CALL)


class Count(Arguments):
    to: int


class Counted(BaseModel):
    to: int


@tool(
    effect=Effect.WRITE,
    mode="idempotent",
    resource="Counter::all",
    queued=True,
    timeout_s=100,
    data_actions=("dynamodb:PutItem",),
)
def count(args: Count, context: ToolContext) -> Counted:
    """Count up to a number, slowly, for the tests."""
    context.data.put("count", "1", {"to": args.to})
    return Counted(to=args.to)


once = replace(count, contract=count.contract.model_copy(update={"mode": "once"}))


@dataclass
class Runner:
    """Room 3 with losses planned ahead: before the call ran, or after it."""

    room: InProcessToolRunner
    plan: list[Callable[[], None]] = field(default_factory=list)
    after: list[Callable[[], None]] = field(default_factory=list)
    calls: int = 0

    def run(self, tenant_id: str, run_id: str, call_id: str, **how: Any) -> ToolReply:
        self.calls += 1
        if self.plan:
            self.plan.pop(0)()
        reply = self.room.run(tenant_id, run_id, call_id, **how)
        if self.after:
            self.after.pop(0)()
        return reply


def lost() -> None:
    raise ToolLost("gone")


class Queue(DecidedRun):
    """A run with one queued call, and the worker."""

    def __init__(self, tested: Tool[Any] = count) -> None:
        super().__init__(tested)
        self.runner = Runner(InProcessToolRunner(self.room))
        self.wake = MemoryWake()
        self.worker = QueueWorker(
            self.log,
            self.runner,
            self.wake,
            self.dispatcher(),
            MemoryBreakers(BreakerItems(), STEADY, self.clock),
            self.notes,
            self.room.tools,
            self.clock,
            self.controls,
            "sample",
            releases=lambda _: sample_agent.release(),
        )

    def queued(self, **changes: Any) -> "Queue":
        self.decide({"to": 3}, **changes)
        self.queue()
        return self

    def work(self, job: ToolJob = JOB, *, time_s: float = 900) -> str:
        return work(self.worker, job, until=self.clock.now() + timedelta(seconds=time_s))

    @property
    def after_queued(self) -> list[Any]:
        return [data for data in self.payloads() if data.type != "tool.queued"]

    @property
    def results(self) -> list[Any]:
        return [data for data in self.payloads() if isinstance(data, ToolCompleted | ToolOutcomeUnknown)]


def test_a_queued_call_is_started_run_completed_and_its_run_woken() -> None:
    desk = Queue().queued()
    assert desk.work() == "completed"
    started, completed = desk.after_queued
    assert isinstance(started, ToolStarted)
    assert json.loads(completed.content) == {"to": 3}
    assert list(desk.wake.runs) == [("acme", RUN)]


def test_a_second_delivery_runs_nothing_and_wakes_again() -> None:
    desk = Queue().queued()
    desk.work()
    assert desk.work() == "dropped"
    assert desk.runner.calls == 1
    assert len(desk.results) == 1
    assert len(desk.wake.runs) == 2


@pytest.mark.parametrize(
    "job",
    [
        JOB.model_copy(update={"tenant_id": "globex"}),
        JOB.model_copy(update={"run_id": RUN[:-1] + "1"}),
        JOB.model_copy(update={"call_id": "call_1_1"}),
    ],
)
def test_a_job_for_a_call_that_is_not_there_is_dropped(job: ToolJob) -> None:
    desk = Queue().queued()
    assert desk.work(job) == "dropped"
    assert desk.after_queued == []
    assert desk.runner.calls == 0


@pytest.mark.parametrize("verdict", [Verdict.DENY, Verdict.ASK])
def test_a_job_for_an_undecided_call_is_dropped_and_never_runs(verdict: Verdict) -> None:
    desk = Queue().queued(verdict=verdict)
    assert desk.work() == "dropped"
    assert desk.after_queued == []
    assert desk.runner.calls == 0


def test_a_job_for_an_allowed_call_that_was_not_queued_is_dropped() -> None:
    desk = Queue()
    desk.decide({"to": 3})
    assert desk.work() == "dropped"
    assert desk.runner.calls == 0


def test_a_job_of_a_run_that_is_over_or_cancelled_is_dropped() -> None:
    cancelled = Queue().queued()
    cancelled.append(CancelRequested(by="u-1"))
    assert cancelled.work() == "dropped"
    cancelled.append(RunEnded(status=Status.CANCELLED, reason=EndReason.CANCELLED, message="."))
    assert cancelled.work() == "dropped"
    assert cancelled.runner.calls == 0


def test_a_call_that_came_too_late_does_not_begin() -> None:
    desk = Queue().queued()
    desk.clock.advance(600)
    assert desk.work() == "dropped"
    assert desk.runner.calls == 0


def test_a_call_that_another_worker_may_be_at_goes_back_to_the_queue() -> None:
    for tested in (count, once):
        desk = Queue(tested).queued()
        desk.start()
        desk.clock.advance(109)
        with pytest.raises(TryLater):
            desk.work()
        assert len(desk.after_queued) == 1
        assert desk.runner.calls == 0


def test_an_idempotent_call_whose_worker_died_runs_again_under_the_same_key() -> None:
    desk = Queue().queued()
    desk.start()
    desk.clock.advance(110)
    assert desk.work() == "completed"
    assert [data.attempt for data in desk.after_queued if isinstance(data, ToolStarted)] == [1, 2]
    assert len(desk.results) == 1


def test_a_once_call_whose_worker_died_is_unknown_and_never_runs_again() -> None:
    desk = Queue(once).queued()
    desk.start()
    desk.clock.advance(110)
    assert desk.work() == "unknown"
    assert desk.runner.calls == 0
    assert [type(data) for data in desk.results] == [ToolOutcomeUnknown]
    assert list(desk.wake.runs) == [("acme", RUN)]


def test_an_idempotent_call_lost_under_this_worker_runs_again_at_once() -> None:
    desk = Queue().queued()
    desk.runner.plan = [lost]
    assert desk.work() == "completed"
    assert desk.runner.calls == 2


def test_an_idempotent_call_that_is_lost_three_times_is_unknown() -> None:
    desk = Queue().queued()
    desk.runner.plan = [lost] * 5
    assert desk.work() == "unknown"
    assert desk.runner.calls == 3


@pytest.mark.parametrize("when", ["plan", "after"])
def test_a_once_call_lost_under_this_worker_is_unknown(when: str) -> None:
    desk = Queue(once).queued()
    setattr(desk.runner, when, [lost])
    assert desk.work() == "unknown"
    assert desk.runner.calls == 1


def test_a_call_for_which_no_time_is_left_goes_back_without_a_start() -> None:
    desk = Queue().queued()
    with pytest.raises(TryLater):
        desk.work(time_s=109)
    assert desk.after_queued == []


def test_a_lost_call_for_which_no_time_is_left_goes_back_without_a_result() -> None:
    def lost_slowly() -> None:
        desk.clock.advance(50)
        lost()

    desk = Queue().queued()
    desk.runner.plan = [lost_slowly]
    with pytest.raises(TryLater):
        desk.work(time_s=111)
    assert desk.runner.calls == 1
    assert desk.results == []


def test_a_refused_call_gets_a_result_that_says_so() -> None:
    def refuse() -> None:
        raise CallNotDecided("no")

    desk = Queue().queued()
    desk.runner.plan = [refuse]
    assert desk.work() == "completed"
    assert json.loads(desk.results[0].content)["error"] == "call_refused"


def test_a_changed_contract_is_a_result_before_the_start_and_unknown_after_it() -> None:
    fresh = Queue().queued(contract_sha256="another")
    assert fresh.work() == "completed"
    assert json.loads(fresh.results[0].content)["error"] == "contract_changed"
    begun = Queue().queued(contract_sha256="another")
    begun.start()
    assert begun.work() == "unknown"
    assert fresh.runner.calls == begun.runner.calls == 0


class Moving(MemoryRunLog):
    """A log where others append first: before every `moves`-th append of the worker an outside event lands."""

    def __init__(self, inner: RunLog, moves: int) -> None:
        self._inner = inner
        self._moves = moves
        self.events = inner.events  # type: ignore[method-assign] # one log, two faces
        self.header = inner.header  # type: ignore[method-assign] # as above

    def append(self, header: RunHeader, payloads: Any, *, at: datetime, outside: bool = False) -> RunHeader:
        if self._moves:
            self._moves -= 1
            raise LogMoved("somebody was faster")
        return self._inner.append(header, payloads, at=at, outside=outside)


@pytest.mark.parametrize("moves", range(1, 6))
def test_a_moving_log_is_read_again_and_the_tool_runs_once(moves: int) -> None:
    desk = Queue().queued()
    desk.worker = replace(desk.worker, log=Moving(desk.log, moves))
    assert desk.work() == "completed"
    assert desk.runner.calls == 1


def test_a_log_that_keeps_moving_ends_in_a_bounded_number_of_tries() -> None:
    desk = Queue().queued()
    desk.worker = replace(desk.worker, log=Moving(desk.log, MAX_MOVES))
    with pytest.raises(LogContended):
        desk.work()
    assert desk.runner.calls == 0


def test_events_that_land_while_the_tool_works_do_not_cost_its_result() -> None:
    desk = Queue().queued()
    desk.runner.after = [lambda: desk.append(CancelRequested(by="u-1"))]
    assert desk.work() == "completed"
    assert len(desk.results) == 1


def test_a_result_of_a_run_that_ended_meanwhile_is_dropped() -> None:
    desk = Queue().queued()
    end = RunEnded(status=Status.EXPIRED, reason=EndReason.WAIT_EXPIRED, message=".")
    desk.runner.after = [lambda: desk.append(end)]
    assert desk.work() == "dropped"
    assert desk.results == []


def test_a_result_that_somebody_else_wrote_first_stands() -> None:
    desk = Queue().queued()
    expired = ToolOutcomeUnknown(call_id=CALL, tool="count", cause="expired")
    desk.runner.after = [lambda: desk.append(expired)]
    assert desk.work() == "dropped"
    assert desk.results == [expired]


class Meanwhile(MemoryBreakers):
    """A breaker that lets no call through; while it is asked, another worker, its probe, begins the call."""

    def __init__(self, desk: Queue) -> None:
        super().__init__(BreakerItems(), STEADY, desk.clock)
        self._desk = desk

    def admits(self, name: str, *, patience_s: float) -> bool:
        self._desk.start()
        return False


def test_that_a_call_did_not_run_is_not_said_once_another_worker_has_begun_it() -> None:
    desk = Queue(once).queued()
    desk.worker = replace(desk.worker, breakers=Meanwhile(desk))
    with pytest.raises(TryLater):
        desk.work()
    assert desk.results == []


def test_a_last_delivery_leaves_a_call_to_the_worker_that_has_just_begun_it() -> None:
    desk = Queue(once).queued()
    log = Moving(desk.log, 0)
    desk.worker = replace(desk.worker, log=log)
    events, reads = log.events, 0

    def begin_after_the_first_read(*ids: Any, **how: Any) -> Any:
        nonlocal reads
        reads += 1
        found = events(*ids, **how)
        if reads == 1:
            desk.start()
        return found

    log.events = begin_after_the_first_read  # type: ignore[method-assign] # a worker beside this one
    with pytest.raises(TryLater):
        give_up(desk.worker, JOB)
    assert desk.results == []


def test_a_wake_that_fails_brings_the_job_back_and_only_the_wake_is_repeated() -> None:
    class Deaf(MemoryWake):
        def wake(self, tenant_id: str, run_id: str, *, traceparent: str | None) -> None:
            raise StoreUnavailable("no")

    desk = Queue().queued()
    desk.worker = replace(desk.worker, wake=Deaf())
    with pytest.raises(StoreUnavailable):
        desk.work()
    desk.worker = replace(desk.worker, wake=desk.wake)
    assert desk.work() == "dropped"
    assert (desk.runner.calls, len(desk.results), len(desk.wake.runs)) == (1, 1, 1)


def test_the_run_is_due_at_once_when_its_result_is_in_though_the_wake_is_lost() -> None:
    desk = Queue().queued()
    desk.append(RunWaiting(waiting_for=(WaitingFor.TOOL,), due_at=desk.clock.now() + timedelta(minutes=10)))
    desk.work()
    assert [header.run_id for header in desk.log.due_runs(desk.clock.now(), limit=1)] == [RUN]
