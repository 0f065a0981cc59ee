"""The header of a run: where it stands, as the projection of its events that every door reads. Pure.

It is written in the same transaction as the events it follows from, so whoever needs only "where does this run stand"
reads one item. `extend` is how every store appends; the store itself is a port (`ports.run_log`).

The surprise: an ended run is not finished with until its unspent money has flowed back, so `due_at` stays set from
`run.ended` to `budget.returned`. For the same reason whatever a parked run was waiting for makes it due at once: if
the wake that should follow is lost, the sweeper finds it.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, Field

from agent.contracts import Effect
from agent.endings import ENDED, EndReason, Status
from agent.events import (
    OUTSIDE,
    ApprovalDecided,
    ApprovalRequested,
    BudgetGranted,
    BudgetReturned,
    CancelRequested,
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
    ToolCompleted,
    ToolOutcomeUnknown,
    ToolQueued,
    ToolStarted,
    Verdict,
    WaitingFor,
    WorkerLost,
)
from agent.identity import CallId, RunId, SessionId, TenantId, UserId

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
