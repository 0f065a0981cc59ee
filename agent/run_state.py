"""The state of a run: everything its holder needs to go on, folded from the log alone. Pure.

What an event does to the header is `run_header`'s to say; here is what it does to the turns and their calls.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from agent.events import (
    FINDINGS,
    ApprovalDecided,
    ApprovalRequested,
    Decision,
    Event,
    FeedbackGiven,
    GuardFired,
    ModelCompleted,
    ModelFailed,
    ModelStarted,
    Payload,
    RunClaimed,
    RunCreated,
    RunEnded,
    RunReleased,
    SessionLoaded,
    SessionMessage,
    ToolCompleted,
    ToolOutcomeUnknown,
    ToolQueued,
    ToolStarted,
    ToolUse,
    Verdict,
    WorkerLost,
)
from agent.run_header import RunHeader, advance

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
