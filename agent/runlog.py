"""What a run's events mean: `advance` keeps the header, `fold` gives the whole state. Both are pure.

The header is a projection that is written in the same transaction as the events it follows from, so whoever needs
only "where does this run stand" reads one item. The state is read by the holder alone, from the log. Appending is a
port (`ports.RunLog`); nothing here touches a store.

The surprise: an ended run is not finished with until its unspent money has flowed back, so `due_at` stays set from
`run.ended` to `budget.returned`. For the same reason whatever a parked run was waiting for makes it due at once: if
the wake that should follow is lost, the sweeper finds it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, Field

from agent.events import (
    ENDED,
    FINDINGS,
    OUTSIDE,
    ApprovalDecided,
    ApprovalRequested,
    BudgetGranted,
    BudgetReturned,
    CancelRequested,
    Decision,
    EndReason,
    Event,
    Fact,
    FeedbackGiven,
    GuardFired,
    Micros,
    ModelCompleted,
    ModelFailed,
    ModelStarted,
    Payload,
    RunClaimed,
    RunCreated,
    RunEnded,
    RunReleased,
    RunWaiting,
    SessionLoaded,
    SessionMessage,
    Status,
    ToolCompleted,
    ToolOutcomeUnknown,
    ToolQueued,
    ToolStarted,
    ToolUse,
    Verdict,
    WaitingFor,
    WorkerLost,
)
from agent.identity import CallId, RunId, SessionId, TenantId, UserId
from agent.tools import Effect

END: dict[EndReason, tuple[Status, str]] = {
    EndReason.ANSWERED: (Status.COMPLETED, "The agent answered."),
    EndReason.MAX_TURNS: (
        Status.FAILED,
        "The agent stopped because it needed more steps than it is allowed. Try a narrower question.",
    ),
    EndReason.MAX_TOOL_CALLS: (
        Status.FAILED,
        "The agent stopped because it needed more tool calls than it is allowed. Try a narrower question.",
    ),
    EndReason.MAX_DURATION: (
        Status.FAILED,
        "The agent stopped because it ran longer than it is allowed. Try a narrower question, or ask again later.",
    ),
    EndReason.BUDGET_RUN: (
        Status.FAILED,
        "The agent stopped because this question used up the money one question may cost. Try a narrower question.",
    ),
    EndReason.BUDGET_USER: (
        Status.FAILED,
        "The agent stopped because your budget is spent. It is renewed daily; ask again tomorrow.",
    ),
    EndReason.BUDGET_TENANT: (
        Status.FAILED,
        "The agent stopped because your organisation's budget is spent. Ask your operator to raise it.",
    ),
    EndReason.BUDGET_PLATFORM: (
        Status.FAILED,
        "The agent stopped because the service's budget is spent. Ask again later.",
    ),
    EndReason.CANCELLED: (Status.CANCELLED, "The run was cancelled."),
    EndReason.DENIED_TOO_OFTEN: (
        Status.FAILED,
        "The agent stopped because it kept trying what it may not do, or could not put it right. Ask in another way.",
    ),
    EndReason.MODEL_UNAVAILABLE: (Status.FAILED, "The model is not available at the moment. Ask again in a minute."),
    EndReason.MODEL_REFUSED: (Status.FAILED, "The model declined to answer this. Try to ask in another way."),
    EndReason.ANSWER_TRUNCATED: (
        Status.FAILED,
        "The answer grew longer than it may be and was cut off. Ask for a shorter one.",
    ),
    EndReason.ANSWER_EMPTY: (Status.FAILED, "The model gave no answer. Ask again."),
    EndReason.INPUT_BLOCKED: (
        Status.FAILED,
        "This question was not passed on, by a rule of this service. Ask in another way, or ask a person.",
    ),
    EndReason.ANSWER_BLOCKED: (
        Status.FAILED,
        "The answer was held back by a rule of this service. Ask in another way, or ask a person.",
    ),
    EndReason.POLICY_UNAVAILABLE: (
        Status.FAILED,
        "The agent stopped because its rules could not be checked. Ask again later.",
    ),
    EndReason.RELEASE_UNAVAILABLE: (
        Status.FAILED,
        "The agent stopped because the version this run began with is not available any more. Ask again.",
    ),
    EndReason.SWITCHED_OFF: (
        Status.FAILED,
        "The agent was stopped by its operators. Nothing is wrong with your question; ask again later.",
    ),
    EndReason.WAIT_EXPIRED: (Status.EXPIRED, "The run waited too long for something and ended. Ask again."),
    EndReason.INTERNAL_ERROR: (
        Status.FAILED,
        "Something went wrong on our side and the run ended. Ask again; if it happens again, quote the run's id.",
    ),
}
"""Each reason's status and its sentence: what happened and what to do."""

START_GRACE = timedelta(seconds=60)
"""How long a created run may lie unclaimed before the sweeper wakes it again."""

RETURN_GRACE = timedelta(seconds=60)
"""How long the holder of an ended run may take to settle it and return its money before the sweeper does."""


class RunHeader(Fact):
    """A run at a glance: the projection of its events that every door reads. Times UTC, money in micro-dollars."""

    tenant_id: TenantId
    run_id: RunId
    user_id: UserId
    session_id: SessionId | None
    release: str
    status: Status
    waiting_for: tuple[WaitingFor, ...] = ()
    reason: EndReason | None = None
    message: str = ""
    next_seq: int
    epoch: int = 0
    owner: str | None = None
    lease_until: AwareDatetime | None = None
    due_at: AwareDatetime | None
    created_at: AwareDatetime
    updated_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    end_seq: int | None = None
    deadline_at: AwareDatetime
    cancel_requested: bool = False
    traceparent: str | None = None
    limit_micros: Micros
    grants: int = 0
    granted_micros: Micros = 0
    slice_micros: Micros = 0
    """Granted, and neither spent, reserved nor returned."""
    reserved_micros: Micros = 0
    spent_micros: Micros = 0
    turns: int = 0
    tool_calls: int = 0
    tools_called: tuple[str, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    effects: tuple[Effect | None, ...] = ()
    """Of the calls that were not denied, each once."""
    feedback: Literal["up", "down"] | None = None
    approvals: tuple[ApprovalRequested, ...] = ()
    """Those that nobody has decided yet."""
    guards_fired: tuple[str, ...] = ()
    """Names of guards that found something, each once."""
    guards_ask: bool = False
    """Whether one of them wants a person to decide about every further effect."""
    tenant_shard: int = 0
    tainted: bool = True
    """Whether text from outside is in the conversation, from this run's tools or an earlier run of its session.

    It never becomes false again. A header from before this was recorded counts as tainted.
    """
    jobs: dict[CallId, AwareDatetime] = Field(default_factory=dict)
    """Queued calls without a result, and since when: each waits for a slot in the queue, or has one."""

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.status in ENDED

    def has_live_holder(self, now: datetime) -> bool:
        """Whether an agent invocation may still be working on this run."""
        return self.owner is not None and self.lease_until is not None and self.lease_until > now


def advance(header: RunHeader | None, event: Event) -> RunHeader:
    """Return the header after `event`. `header` is None only for event 1.

    Raises:
        ValueError: the event does not follow the header.
    """
    data = event.data
    if header is None:
        if event.seq != 1 or not isinstance(data, RunCreated):
            raise ValueError(f"a log begins with event 1, run.created, not with {event.seq}, {event.type}")
        return RunHeader(
            tenant_id=event.tenant_id,
            run_id=event.run_id,
            user_id=data.principal.user_id,
            session_id=data.session_id,
            release=data.release,
            status=Status.QUEUED,
            next_seq=2,
            due_at=event.at + START_GRACE,
            created_at=event.at,
            updated_at=event.at,
            deadline_at=data.deadline_at,
            limit_micros=data.limit_micros,
            traceparent=data.traceparent,
            tenant_shard=data.tenant_shard,
            tainted=False,
        )
    if event.seq != header.next_seq:
        raise ValueError(f"event {event.seq} does not follow event {header.next_seq - 1}")
    changes = {"approvals": _pending(header.approvals, data), **_changes(header, event)}
    changes["jobs"] = _jobs(header, event)
    changes["tainted"] = header.tainted or _taints(data)
    return header.model_copy(update={"next_seq": event.seq + 1, "updated_at": event.at, **changes})


def _pending(approvals: tuple[ApprovalRequested, ...], data: Payload) -> tuple[ApprovalRequested, ...]:
    match data:
        case ApprovalRequested():
            return (*approvals, data)
        case ApprovalDecided(call_id=call_id) | ToolCompleted(call_id=call_id) | ToolOutcomeUnknown(call_id=call_id):
            return tuple(approval for approval in approvals if approval.call_id != call_id)
        case RunEnded():
            return ()
        case _:
            return approvals


def _taints(data: Payload) -> bool:
    """Whether an event brings text from outside into the conversation.

    What the gate denied brings none, and neither does a call whose end nobody saw: their sentences are the platform's.
    """
    match data:
        case SessionLoaded(tainted=tainted):
            return tainted
        case ToolCompleted(trusted=trusted):
            return not trusted
        case _:
            return False


MAX_APPEND = 90
"""Events in one append: DynamoDB takes 100 items in a transaction, and the header is one."""


def extend(
    header: RunHeader, payloads: Sequence[Payload], *, at: datetime, nonce: str, outside: bool = False
) -> tuple[list[Event], RunHeader]:
    """Return the events that carry these payloads after `header`, and the header they lead to.

    Raises:
        ValueError: `outside` with an event only a holder may append, or a number of events that no append takes.
    """
    if not 1 <= len(payloads) <= MAX_APPEND:
        raise ValueError(f"an append takes 1 to {MAX_APPEND} events, not {len(payloads)}")
    if outside and not OUTSIDE.issuperset(payload.type for payload in payloads):
        raise ValueError("only the holder may append this")
    events = []
    for payload in payloads:
        event = Event(
            tenant_id=header.tenant_id,
            run_id=header.run_id,
            seq=header.next_seq,
            at=at,
            epoch=0 if outside else header.epoch,
            nonce=nonce,
            release=header.release,
            data=payload,
        )
        header = advance(header, event)
        events.append(event)
    return events, header


def _changes(header: RunHeader, event: Event) -> dict[str, object]:
    match event.data:
        case RunClaimed(owner=owner, epoch=epoch, lease_until=lease):
            return {
                "status": Status.RUNNING,
                "waiting_for": (),
                "owner": owner,
                "epoch": epoch,
                "lease_until": lease,
                "due_at": lease,
            }
        case RunWaiting(waiting_for=waiting_for, due_at=due_at):
            return {
                "status": Status.WAITING,
                "waiting_for": waiting_for,
                "owner": None,
                "lease_until": None,
                "due_at": due_at,
            }
        case WorkerLost(owner=owner) | RunReleased(owner=owner) if owner == header.owner:
            return {"owner": None, "lease_until": None, "due_at": event.at}
        case CancelRequested():
            return {"cancel_requested": True, "due_at": header.due_at if header.owner else event.at}
        case ToolCompleted() | ToolOutcomeUnknown() | ApprovalDecided() if header.status is Status.WAITING:
            return {"due_at": event.at}
        case FeedbackGiven(rating=rating):
            return {"feedback": rating}
        case GuardFired(guard=guard, response=response):
            return {
                "guards_fired": tuple(dict.fromkeys((*header.guards_fired, guard))),
                "guards_ask": header.guards_ask or response == "ask",
            }
        case RunEnded(status=status, reason=reason, message=message):
            return {
                "status": status,
                "waiting_for": (),
                "reason": reason,
                "message": message,
                "owner": None,
                "lease_until": None,
                "ended_at": event.at,
                "end_seq": event.seq,
                "due_at": event.at + RETURN_GRACE,
            }
        case _:
            return _spending(header, event)


def _jobs(header: RunHeader, event: Event) -> dict[CallId, datetime]:
    match event.data:
        case ToolQueued(call_id=call_id):
            return {**header.jobs, call_id: event.at}
        case ToolCompleted(call_id=call_id) | ToolOutcomeUnknown(call_id=call_id):
            return {waiting: since for waiting, since in header.jobs.items() if waiting != call_id}
        case RunEnded():
            return {}
        case _:
            return header.jobs


def _spending(header: RunHeader, event: Event) -> dict[str, object]:
    match event.data:
        case BudgetGranted(grant=grant, amount_micros=amount):
            return {
                "grants": grant,
                "granted_micros": header.granted_micros + amount,
                "slice_micros": header.slice_micros + amount,
            }
        case BudgetReturned(amount_micros=amount):
            return {"slice_micros": header.slice_micros - amount, "due_at": None}
        case ModelStarted(turn=turn, reserved_micros=reserved):
            return {
                "turns": turn,
                "slice_micros": header.slice_micros - reserved,
                "reserved_micros": header.reserved_micros + reserved,
            }
        case ModelCompleted() | ModelFailed() as ended:
            usage = ended.usage
            decided = ended.decisions if isinstance(ended, ModelCompleted) else ()
            effects = [decision.effect for decision in decided if decision.verdict is not Verdict.DENY]
            return {
                "effects": tuple(dict.fromkeys((*header.effects, *effects))),
                "reserved_micros": 0,
                # A provider may bill above the bound once in a while: the slice never goes below zero, spent is true.
                "slice_micros": max(0, header.slice_micros + header.reserved_micros - ended.cost_micros),
                "spent_micros": header.spent_micros + ended.cost_micros,
                "input_tokens": header.input_tokens + (usage.input_tokens if usage else 0),
                "output_tokens": header.output_tokens + (usage.output_tokens if usage else 0),
            }
        case ToolStarted(tool=tool, attempt=1):
            return {
                "tool_calls": header.tool_calls + 1,
                "tools_called": tuple(dict.fromkeys((*header.tools_called, tool))),
            }
        case _:
            return {}


Result = ToolCompleted | ToolOutcomeUnknown


@dataclass(frozen=True)
class Turn:
    """One model answer and what became of its calls."""

    number: int
    completed: ModelCompleted
    started: dict[str, tuple[ToolStarted, int]] = field(default_factory=dict)
    """By call id: the newest start, and the epoch that wrote it (0 from the queue's worker)."""
    queued: dict[str, ToolQueued] = field(default_factory=dict)
    requested: dict[str, ApprovalRequested] = field(default_factory=dict)
    decided: dict[str, ApprovalDecided] = field(default_factory=dict)
    unknown: dict[str, ToolOutcomeUnknown] = field(default_factory=dict)
    """Calls that a person is asked about, or was."""
    checks: dict[str, ApprovalRequested] = field(default_factory=dict)
    """The resolutions asked for; `requested` has the approvals."""
    findings: dict[str, ApprovalDecided] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)

    @property
    def uses(self) -> tuple[ToolUse, ...]:
        """The calls this answer asked for, in call order."""
        return tuple(block for block in self.completed.content if isinstance(block, ToolUse))

    def is_cleared(self, decision: Decision) -> bool:
        """Whether a call may run: it was allowed, or its approval was given and consumed by its start."""
        if decision.verdict is not Verdict.ASK:
            return decision.verdict is Verdict.ALLOW
        requested, decided = self.requested.get(decision.call_id), self.decided.get(decision.call_id)
        if requested is None or decided is None or decided.decision != "approve":
            return False
        started, _ = self.started.get(decision.call_id, (None, 0))
        consumer = self.queued.get(decision.call_id) if decision.queued else started
        return consumer is not None and consumer.approval_id == requested.approval_id == decided.approval_id

    def is_closed(self, call_id: str) -> bool:
        """Whether a call must not run (again): it has its result, or nobody but a person can say what became of it."""
        return call_id in self.results or call_id in self.unknown

    @property
    def is_settled(self) -> bool:
        """Whether each call has its one result; a denied one needs no event, the decision is its result."""
        return all(d.verdict is Verdict.DENY or d.call_id in self.results for d in self.completed.decisions)


@dataclass(frozen=True)
class OpenModelCall:
    """A model call's beginning, where it stands in the log, and the epoch that wrote it."""

    started: ModelStarted
    seq: int
    epoch: int


@dataclass(frozen=True)
class RunState:
    """Everything a holder needs to go on, folded from the log alone."""

    header: RunHeader
    created: RunCreated
    history: tuple[SessionMessage, ...] | None = None
    """None until `session.loaded`."""
    turns: tuple[Turn, ...] = ()
    open_model: OpenModelCall | None = None
    """A model call that has begun and not ended."""
    failures: tuple[ModelFailed, ...] = ()
    """Attempts of the turn under way that have failed, on whichever model."""
    idle_claims: int = 0
    """How often in a row a holder claimed the run and recorded nothing: something kills whoever works on it."""
    guards_fired: tuple[GuardFired, ...] = ()
    ended: RunEnded | None = None
    feedback: tuple[FeedbackGiven, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.ended is not None

    @property
    def turn(self) -> Turn | None:
        """The newest turn whose model answer is complete."""
        return self.turns[-1] if self.turns else None


def fold(events: Iterable[Event]) -> RunState:
    """Return the state of the run whose log this is, from event 1 on.

    Raises:
        ValueError: the events are not a gapless log from event 1.
    """
    state: RunState | None = None
    for event in events:
        state = step(state, event)
    if state is None:
        raise ValueError("an empty log has no state")
    return state


def step(state: RunState | None, event: Event) -> RunState:
    """Return the state after one more event.

    Raises:
        ValueError: the event does not follow the state.
    """
    header = advance(state.header if state else None, event)
    data = event.data
    if state is None:
        assert isinstance(data, RunCreated)  # noqa: S101 - `advance` has just raised otherwise
        return RunState(header=header, created=data)
    state = replace(state, header=header, idle_claims=_idle_claims(state, data))
    match data:
        case SessionLoaded(messages=messages):
            return replace(state, history=messages)
        case ModelStarted():
            return replace(state, open_model=OpenModelCall(data, event.seq, event.epoch))
        case ModelFailed():
            return replace(state, open_model=None, failures=(*state.failures, data))
        case ModelCompleted():
            turn = Turn(number=data.turn, completed=data)
            return replace(state, open_model=None, failures=(), turns=(*state.turns, turn))
        case (
            ApprovalRequested()
            | ApprovalDecided()
            | ToolStarted()
            | ToolQueued()
            | ToolCompleted()
            | ToolOutcomeUnknown()
        ):
            return _in_turn(state, data, event.epoch)
        case GuardFired():
            return replace(state, guards_fired=(*state.guards_fired, data))
        case FeedbackGiven():
            return replace(state, feedback=(*state.feedback, data))
        case RunEnded():
            return replace(state, ended=data)
        case _:
            return state


def _idle_claims(state: RunState, data: Payload) -> int:
    match data:
        case RunClaimed():
            return state.idle_claims + 1
        case WorkerLost() | RunReleased():
            return state.idle_claims
        case _:
            return 0


InTurn = ApprovalRequested | ApprovalDecided | ToolStarted | ToolQueued | Result


def _in_turn(state: RunState, data: InTurn, epoch: int) -> RunState:
    turn = state.turn
    if turn is None:
        raise ValueError("a tool event before any model answer")
    call_id = data.call_id
    match data:
        case ApprovalRequested(kind="resolution"):
            turn = replace(turn, checks={**turn.checks, call_id: data})
        case ApprovalRequested():
            turn = replace(turn, requested={**turn.requested, call_id: data})
        case ToolStarted():
            turn = replace(turn, started={**turn.started, call_id: (data, epoch)})
        case ToolQueued():
            turn = replace(turn, queued={**turn.queued, call_id: data})
        # The first decision stands, and the first result: a late duplicate changes nothing.
        case ApprovalDecided(decision=decision) if decision in FINDINGS:
            turn = replace(turn, findings={call_id: data, **turn.findings})
        case ApprovalDecided():
            turn = replace(turn, decided={call_id: data, **turn.decided})
        case ToolOutcomeUnknown(asks_person=True):
            turn = replace(turn, unknown={call_id: data, **turn.unknown})
        case ToolCompleted() | ToolOutcomeUnknown():
            turn = replace(turn, results={call_id: data, **turn.results})
    return replace(state, turns=(*state.turns[:-1], turn))
