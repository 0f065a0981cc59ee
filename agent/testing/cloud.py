"""A whole Keepgate in memory: ask, let time pass, deliver what is due, and look at what came of it.

Every invocation is a process of its own, which a `Strike` may kill. What Lambda, SQS and the schedule do about that is
done here: the on-failure record, the redelivery, the sweep of each minute.
"""

import itertools
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

from agent.admission import Question, Room1, admit
from agent.errors import LogContended, LogMoved, ModelUnavailable, StoreUnavailable, ToolLost, TryLater
from agent.events import Decision, Event, Payload, ToolCompleted, ToolOutcomeUnknown, ToolStarted
from agent.execution import ToolRoom
from agent.held_run import MAX_MOVES, read_state
from agent.hooks import Hooks
from agent.identity import Principal, Role
from agent.limits import Limits
from agent.loop import hold
from agent.outside import cancel
from agent.ports import Clock, Model, Policy, RunLog
from agent.pricing import Prices
from agent.release import Release
from agent.runlog import RunHeader, RunState
from agent.runtime import Runtime
from agent.sweep import Sweeper
from agent.testing.clock import FakeClock
from agent.testing.crash import Killed, Process, Strike
from agent.testing.ledger import AMPLE, MemoryLedger
from agent.testing.rooms import FixedPolicy, InProcessToolRunner, MemoryToolQueue, MemoryWake
from agent.testing.run_log import MemoryRunLog
from agent.testing.tenant_data import MemoryTable, MemoryTenantAccess
from agent.tools import Tool

LEASE = timedelta(seconds=300)
MAX_MINUTES = 240


class MemoryCloud:
    """One agent's release and tools, a model, and everything around them."""

    def __init__(
        self,
        release: Release,
        tools: Mapping[str, Tool[Any]],
        model: Model,
        *,
        prices: Prices,
        policy: Policy | None = None,
        limits: Limits = AMPLE,
        hooks: Hooks | None = None,
        strike: Strike | None = None,
    ) -> None:
        self.release = release
        self.model = model
        self.strike = strike or Strike()
        self.clock = FakeClock()
        self.log = MemoryRunLog()
        self.ledger = MemoryLedger(limits)
        self.queue = MemoryToolQueue()
        self.wake = MemoryWake()
        self.tool_runner = InProcessToolRunner(ToolRoom(self.log, tools, MemoryTenantAccess(MemoryTable()), self.clock))
        self.invocations = 0
        self._tools = tools
        self._policy = policy or FixedPolicy()
        self._prices = prices
        self._hooks = hooks or Hooks()
        self._ids = itertools.count(1)

    def ask(self, text: str, *, user_id: str = "ann", session_id: str | None = None, tenant_id: str = "acme") -> str:
        """Admit a run and return its id. It is woken, and worked on by `run_until_idle`."""
        principal = Principal(tenant_id=tenant_id, user_id=user_id, roles=frozenset({Role.USER}))
        room = Room1(
            log=self.log,
            wake=self.wake,
            clock=self.clock,
            release=self.release,
            new_run_id=lambda _: f"run_{next(self._ids):026d}",
        )
        return admit(room, principal, Question(input=text, session_id=session_id), idempotency_key=None).run_id

    def cancel(self, run_id: str, *, user_id: str = "ann", tenant_id: str = "acme") -> None:
        """Ask for a run to end."""
        principal = Principal(tenant_id=tenant_id, user_id=user_id, roles=frozenset({Role.USER}))
        cancel(Room1(log=self.log, wake=self.wake, clock=self.clock, release=self.release), principal, run_id)

    def runtime(self, process: Process | None = None) -> Runtime:
        """Return what an invocation works with; every port of it is the process's."""
        process = process or Process(self.strike)
        return Runtime(
            log=process.wrap(self.log, LogContended),
            ledger=process.wrap(self.ledger, StoreUnavailable),
            model=process.wrap(self.model, ModelUnavailable),
            tool_runner=process.wrap(self.tool_runner, ToolLost),
            tool_queue=process.wrap(self.queue, StoreUnavailable),
            wake=process.wrap(self.wake, StoreUnavailable),
            policy=self._policy,
            clock=self.clock,
            random=lambda: 1.0,
            releases=lambda _: self.release,
            tools=self._tools,
            prices=self._prices,
            hooks=self._hooks,
            listen_every_s=0.02,
            drain_s=0.1,
        )

    def invoke(self, tenant_id: str, run_id: str) -> RunHeader | None:
        """Invoke the agent on a run, as a wake does. A failed invocation is reported, as Lambda does."""
        self.invocations += 1
        owner = f"request-{self.invocations}"
        lease_until = self.clock.now() + LEASE
        try:
            return hold(self.runtime(), tenant_id, run_id, owner=owner, lease_until=lease_until)
        except (Killed, TryLater) as death:
            cause = type(death).__name__
            self._survive(lambda sweeper: sweeper.bury(tenant_id, run_id, owner=owner, cause=cause))
            return None

    def run_until_idle(self) -> None:
        """Deliver wakes and jobs, and let minutes pass, until every run is over and its money returned."""
        for _ in range(MAX_MINUTES):
            while self.wake.runs or self.queue.jobs:
                if self.wake.runs:
                    self.invoke(*self.wake.runs.popleft())
                else:
                    self.work(self.queue.jobs.popleft())
            if not self.log.due_runs(self.clock.now() + timedelta(days=2), limit=1):
                return
            self.clock.advance(61)
            self._survive(lambda sweeper: sweeper.sweep(limit=100))
        raise TimeoutError(f"runs are not over after {MAX_MINUTES} minutes")

    def work(self, job: tuple[str, str, str]) -> None:
        """Work on a job of the queue, as the queue's worker does; a job that is not done is delivered again."""
        tenant_id, run_id, call_id = job
        process = Process(self.strike)
        log = process.wrap(self.log, LogContended)
        try:
            state = read_state(log, tenant_id, run_id)
            turn = state.turn if state and not state.is_over else None
            if turn and call_id not in turn.results:
                decision = next(d for d in turn.completed.decisions if d.call_id == call_id)
                started, _ = turn.started.get(call_id, (None, 0))
                _append_outside(log, self.clock, job, self._worked_on(process, log, job, decision, started))
            process.wrap(self.wake, StoreUnavailable).wake(tenant_id, run_id, traceparent=None)
        except (Killed, TryLater, ToolLost):
            self.queue.jobs.append(job)

    def _worked_on(
        self, process: Process, log: RunLog, job: tuple[str, str, str], decision: Decision, started: ToolStarted | None
    ) -> Payload:
        contract = self._tools[decision.tool].contract
        if started and contract.mode == "once":
            return ToolOutcomeUnknown(call_id=decision.call_id, tool=decision.tool, cause="redelivered")
        attempt = started.attempt + 1 if started else 1
        start = ToolStarted(call_id=decision.call_id, tool=decision.tool, attempt=attempt)
        _append_outside(log, self.clock, job, start)
        runner = process.wrap(self.tool_runner, ToolLost)
        reply = runner.run(*job, timeout_s=contract.timeout_s, traceparent=None)
        return ToolCompleted(
            call_id=decision.call_id,
            tool=decision.tool,
            outcome=reply.outcome,
            content=reply.content,
            object_key=reply.object_key,
            duration_ms=reply.duration_ms,
        )

    def state(self, run_id: str, *, tenant_id: str = "acme") -> RunState:
        """Return a run's state.

        Raises:
            KeyError: there is no such run.
        """
        state = read_state(self.log, tenant_id, run_id)
        if state is None:
            raise KeyError(run_id)
        return state

    def events(self, run_id: str, *, tenant_id: str = "acme") -> list[Event]:
        """Return a run's log."""
        return self.log.events(tenant_id, run_id)

    def types(self, run_id: str) -> list[str]:
        """Return the kinds of a run's events, in order."""
        return [event.type for event in self.events(run_id)]

    def _survive(self, act: Callable[[Sweeper], object]) -> None:
        process = Process(self.strike)
        sweeper = Sweeper(
            log=process.wrap(self.log, LogContended),
            ledger=process.wrap(self.ledger, StoreUnavailable),
            wake=process.wrap(self.wake, StoreUnavailable),
            clock=self.clock,
        )
        with suppress(Killed, TryLater):
            act(sweeper)


def _append_outside(log: RunLog, clock: Clock, job: tuple[str, str, str], payload: Payload) -> None:
    """Append a queued call's fact, unless the run is over or the call has its result."""
    tenant_id, run_id, call_id = job
    for _ in range(MAX_MOVES):
        state = read_state(log, tenant_id, run_id)
        if state is None or state.turn is None or state.is_over or call_id in state.turn.results:
            return
        try:
            log.append(state.header, [payload], at=clock.now(), outside=True)
        except LogMoved:
            continue
        return
    raise LogContended(f"{run_id} moved {MAX_MOVES} times in a row")
