"""A whole Keepgate in memory: ask, let time pass, deliver what is due, and look at what came of it.

Every invocation is a process of its own, which a `Strike` may kill. What Lambda, SQS and the schedule do about that is
done here: the on-failure record, the redelivery, the sweep of each minute.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

from agent.admission import Question, Room1, admit
from agent.approving import decide
from agent.decided_call import ToolRoom
from agent.dispatch import Dispatcher
from agent.errors import (
    FactsUnavailable,
    JobPoisoned,
    LogContended,
    ModelUnavailable,
    StoreUnavailable,
    ToolLost,
    TryLater,
)
from agent.events import ApprovalChoice, ApprovalDecided, Event
from agent.execution import ToolJob
from agent.held_run import read_state
from agent.hooks import Hooks
from agent.identity import Principal, Role
from agent.limits import Limits
from agent.loop import hold
from agent.outside import cancel
from agent.pinned_call import Outside
from agent.ports.jobs import JobLines
from agent.ports.limits import Allowances
from agent.ports.model import Model
from agent.ports.money import Ledger
from agent.ports.policy import Policy
from agent.ports.run_log import RunLog
from agent.pricing import Prices
from agent.queued_calls import QueueWorker, give_up, work
from agent.release import Release
from agent.run_header import RunHeader
from agent.run_state import RunState
from agent.runtime import Runtime
from agent.sweep import Sweeper
from agent.testing.allowances import MemoryAllowances
from agent.testing.audit import MemoryAuditTrail
from agent.testing.breakers import STEADY, BreakerItems, MemoryBreakers
from agent.testing.clock import FakeClock
from agent.testing.controls import MemoryControlBook
from agent.testing.crash import Killed, Process, Strike
from agent.testing.directory import MemoryDirectory
from agent.testing.job_lines import MemoryJobLines
from agent.testing.ledger import MemoryLedger
from agent.testing.limits import AMPLE, MemoryLimitBook, ample
from agent.testing.progress import MemoryProgressNotes
from agent.testing.rooms import FixedPolicy, InProcessResourceFacts, InProcessToolRunner, MemoryToolQueue, MemoryWake
from agent.testing.run_log import MemoryRunLog
from agent.testing.tenant_data import MemoryTable, MemoryTenantAccess
from agent.tools import Tool

LEASE = timedelta(seconds=300)
WORKER_MARGIN = timedelta(seconds=30)
"""What the queue's worker has beyond the longest tool's timeout, as on AWS."""
MAX_RECEIVES = 4
"""Deliveries of a job: the last one tells its run that nobody will do it, and then it is a dead letter."""
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
        data: MemoryTable | None = None,
        log: RunLog | None = None,
        lines: JobLines | None = None,
        ledger: Ledger | None = None,
        allowances: Allowances | None = None,
        outside: Outside | None = None,
    ) -> None:
        self.release = release
        self.model = model
        self.strike = strike or Strike()
        self.clock = FakeClock()
        memory = MemoryRunLog()
        self.log: RunLog = log or memory
        self.audit = MemoryAuditTrail()
        self.limits = MemoryLimitBook(ample(tools, limits), clock=self.clock, audit=self.audit)
        self.ledger: Ledger = ledger or MemoryLedger(self.limits)
        self.allowances: Allowances = allowances or MemoryAllowances(self.limits)
        self.queue = MemoryToolQueue()
        self.lines: JobLines = lines or MemoryJobLines(memory)
        self.wake = MemoryWake()
        self.notes = MemoryProgressNotes()
        self.directory = MemoryDirectory()
        self.data = data or MemoryTable()
        access = MemoryTenantAccess(self.data)
        room = ToolRoom(self.log, tools, access, self.clock, self.notes, outside=outside)
        self.tool_runner = InProcessToolRunner(room)
        self.facts = InProcessResourceFacts(room)
        self.breakers = BreakerItems()
        self.controls = MemoryControlBook(self.clock, self.audit)
        self.invocations = 0
        self.listen_every_s = 0.02
        """In real time: how often a holder looks up from a call in progress."""
        self.each_minute: Callable[[], None] = lambda: None
        """What people do while time passes: an approver who looks in, a user who gives up."""
        self.tools = tools
        self.policy = policy or FixedPolicy()
        self._prices = prices
        self._hooks = hooks or Hooks()
        self.dead_letters: list[ToolJob] = []
        self._returned: list[ToolJob] = []
        self._deliveries = Counter[ToolJob]()
        longest_s = max((tool.contract.timeout_s for tool in tools.values()), default=0)
        self.worker_time = timedelta(seconds=longest_s) + WORKER_MARGIN
        """What a worker of the queue has for a job."""
        ids = itertools.count(1)
        self.new_run_id: Callable[[], str] = lambda: f"run_{next(ids):026d}"

    def ask(
        self,
        text: str,
        *,
        user_id: str = "ann",
        session_id: str | None = None,
        tenant_id: str = "acme",
        idempotency_key: str | None = None,
        process: Process | None = None,
    ) -> str:
        """Admit a run and return its id. It is woken, and worked on by `run_until_idle`."""
        principal = Principal(tenant_id=tenant_id, user_id=user_id, roles=frozenset({Role.USER}))
        if self.directory.principal(tenant_id, user_id) is None:
            self.directory.put(principal)
        room = replace(self.room1(process), new_run_id=lambda _: self.new_run_id())
        question = Question(input=text, session_id=session_id)
        return admit(room, principal, question, idempotency_key=idempotency_key).run_id

    def cancel(
        self, run_id: str, *, user_id: str = "ann", tenant_id: str = "acme", process: Process | None = None
    ) -> None:
        """Ask for a run to end."""
        principal = Principal(tenant_id=tenant_id, user_id=user_id, roles=frozenset({Role.USER}))
        cancel(self.room1(process), principal, run_id)

    def approver(self, user_id: str = "bea", *, tenant_id: str = "acme") -> Principal:
        """Return a person who may approve, and is known to the directory."""
        person = Principal(tenant_id=tenant_id, user_id=user_id, roles=frozenset({Role.APPROVER}))
        self.directory.put(person)
        return person

    def decide(
        self,
        approval_id: str,
        decision: ApprovalChoice = "approve",
        *,
        by: Principal | None = None,
        reason: str = "",
        process: Process | None = None,
    ) -> ApprovalDecided:
        """Decide about a call, or say what became of it, as `bea` unless somebody else is named."""
        return decide(self.room1(process), by or self.approver(), approval_id, decision=decision, reason=reason)

    def room1(self, process: Process | None = None) -> Room1:
        """Return what people's requests are answered with."""
        process = process or Process(Strike())
        return Room1(
            log=process.wrap(self.log, LogContended),
            wake=process.wrap(self.wake, StoreUnavailable),
            clock=self.clock,
            limits=process.wrap(self.limits, StoreUnavailable),
            release=self.release,
            controls=process.wrap(self.controls, StoreUnavailable),
            contracts={name: tool.contract for name, tool in self.tools.items()},
        )

    def runtime(self, process: Process | None = None) -> Runtime:
        """Return what an invocation works with; every port of it is the process's."""
        process = process or Process(self.strike)
        return Runtime(
            log=process.wrap(self.log, LogContended),
            ledger=process.wrap(self.ledger, StoreUnavailable),
            allowances=process.wrap(self.allowances, StoreUnavailable),
            limits=process.wrap(self.limits, StoreUnavailable),
            model=process.wrap(self.model, ModelUnavailable),
            tool_runner=process.wrap(self.tool_runner, ToolLost),
            facts=process.wrap(self.facts, FactsUnavailable),
            dispatcher=self.dispatcher(process),
            wake=process.wrap(self.wake, StoreUnavailable),
            breakers=process.wrap(MemoryBreakers(self.breakers, STEADY, self.clock)),
            controls=process.wrap(self.controls, StoreUnavailable),
            policy=self.policy,
            directory=process.wrap(self.directory, StoreUnavailable),
            clock=self.clock,
            random=lambda: 1.0,
            releases=lambda _: self.release,
            tools=self.tools,
            prices=self._prices,
            hooks=self._hooks,
            listen_every_s=self.listen_every_s,
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
            self.deliver()
            if not self.log.due_runs(self.clock.now() + timedelta(days=2), limit=1):
                return
            self.clock.advance(61)
            self.each_minute()
            self.queue.jobs.extend(self._returned)
            self._returned.clear()
            self.sweep()
        raise TimeoutError(f"runs are not over after {MAX_MINUTES} minutes")

    def deliver(self) -> None:
        """Deliver wakes and jobs until there are none; no time passes."""
        while self.wake.runs or self.queue.jobs:
            if self.wake.runs:
                self.invoke(*self.wake.runs.popleft())
            else:
                self.work(self.queue.jobs.popleft())

    def sweep(self) -> None:
        """Let the sweeper look after what is due."""
        self._survive(lambda sweeper: sweeper.sweep(limit=100))

    def bury(self, tenant_id: str, run_id: str, *, owner: str) -> None:
        """Report the death of an invocation, as Lambda does after its timeout."""
        self._survive(lambda sweeper: sweeper.bury(tenant_id, run_id, owner=owner, cause="Timeout"))

    def work(self, job: ToolJob) -> None:
        """Let the queue's worker do a job; one that it returns, or died on, is delivered again after a while.

        So often, and then it is among the dead letters.
        """
        process = Process(self.strike)
        worker = QueueWorker(
            log=process.wrap(self.log, LogContended),
            tool_runner=process.wrap(self.tool_runner, ToolLost),
            wake=process.wrap(self.wake, StoreUnavailable),
            dispatcher=self.dispatcher(process),
            breakers=process.wrap(MemoryBreakers(self.breakers, STEADY, self.clock)),
            notes=process.wrap(self.notes, StoreUnavailable),
            tools=self.tools,
            releases=lambda _: self.release,
            clock=self.clock,
            controls=process.wrap(self.controls, StoreUnavailable),
            agent=self.release.agent,
        )
        self._deliveries[job] += 1
        is_last = self._deliveries[job] == MAX_RECEIVES
        try:
            if is_last:
                give_up(worker, job)
            work(worker, job, until=self.clock.now() + self.worker_time)
        except (Killed, TryLater, JobPoisoned):
            if is_last:
                del self._deliveries[job]
            (self.dead_letters if is_last else self._returned).append(job)

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

    def dispatcher(self, process: Process | None = None) -> Dispatcher:
        """Return what moves the tenants' lines of queued calls."""
        process = process or Process(self.strike)
        return Dispatcher(
            lines=process.wrap(self.lines, StoreUnavailable),
            queue=process.wrap(self.queue, StoreUnavailable),
            limits=process.wrap(self.limits, StoreUnavailable),
            clock=self.clock,
        )

    def sweeper(self, process: Process | None = None) -> Sweeper:
        """Return what looks after runs that nobody holds."""
        process = process or Process(self.strike)
        return Sweeper(
            log=process.wrap(self.log, LogContended),
            ledger=process.wrap(self.ledger, StoreUnavailable),
            allowances=process.wrap(self.allowances, StoreUnavailable),
            wake=process.wrap(self.wake, StoreUnavailable),
            dispatcher=self.dispatcher(process),
            clock=self.clock,
        )

    def _survive(self, act: Callable[[Sweeper], object]) -> None:
        with suppress(Killed, TryLater):
            act(self.sweeper())
