"""The vocabulary of the run log: the closed list of events. `run_header` and `run_state` give them meaning.

It is one file, long as it is, because it is the stored format: whoever changes an event reads the others beside it.
An event is an envelope in clear and a payload. Payloads are versioned by `Event.v`: a reader refuses a version it
does not know rather than guess. Money is in integer micro-dollars, times are UTC.
"""

import hashlib
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from agent.contracts import Effect, IfUnknown
from agent.endings import EndReason, Status
from agent.identity import ApprovalId, CallId, Principal, RunId, SessionId, TenantId, UserId

SCHEMA_VERSION: Literal[1] = 1

Micros = Annotated[int, Field(ge=0)]


class WaitingFor(StrEnum):
    """What a waiting run waits for."""

    TOOL = "tool"
    APPROVAL = "approval"
    SESSION = "session"


class Verdict(StrEnum):
    """What the gate decided about one tool call."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


Mode = Literal["force_review", "read_only"]
"""What operators may demand of every agent: that a person sees each effect first, or that there is none."""


class Fact(BaseModel):
    """What every stored model shares: frozen, and no field that this version doesn't know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Text(Fact):
    """Text the model wrote."""

    kind: Literal["text"] = "text"
    text: str


class ToolUse(Fact):
    """A tool call the model asked for, under Keepgate's own id. `arguments` is None where they were no JSON object."""

    kind: Literal["tool_use"] = "tool_use"
    call_id: CallId
    tool: str
    arguments: dict[str, JsonValue] | None


class Reasoning(Fact):
    """A reasoning block, kept verbatim in the provider's form: valid only for the model that wrote it."""

    kind: Literal["reasoning"] = "reasoning"
    block: dict[str, Any]


Block = Annotated[Text | ToolUse | Reasoning, Field(discriminator="kind")]


class Usage(Fact):
    """Tokens of one model call, as the provider counted them."""

    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)
    cache_read_tokens: int = Field(default=0, ge=0)
    cache_write_tokens: int = Field(default=0, ge=0)


class Decision(Fact):
    """What the gate decided about one call; the arguments it decided are the arguments that run, byte for byte."""

    call_id: CallId
    tool: str
    verdict: Verdict
    code: str
    """`allowed`, `approval_needed`, or why not: `unknown_tool`, `not_in_release`, `invalid_arguments`, …"""
    message: str = ""
    """What the model is told where the verdict is `deny`."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Validated, with defaults filled in, frozen."""
    arguments_sha256: str = ""
    contract_sha256: str = ""
    policy_sha256: str = ""
    policies: tuple[str, ...] = ()
    """The ids of the policies that determined the verdict."""
    queued: bool = False
    """True where the contract sends the call through the queue."""
    effect: Effect | None = None
    """From the contract; None where there is none (an unknown tool)."""
    if_unknown: IfUnknown = "tell_model"
    """From the contract: also where that is gone by the time it counts."""
    shown_to_user: bool = False
    """From the contract: whether arguments and result may stand in the user's event stream."""
    resource: str = ""
    """`Type::id` of what the call acts on."""
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    """What the platform had just read of the resource, where the contract says that policy needs it."""
    facts_sha256: str = ""
    uses: dict[str, int] = Field(default_factory=dict)
    """What the call uses up of its contract's allowances, if it runs."""
    tainted: bool = False
    """Whether text from outside was in the conversation when this was decided."""
    modes: tuple[Mode, ...] = ()
    """The modes that were on: the operators', and `force_review` where a guard of the release asked for it."""


class SessionMessage(Fact):
    """One text of an earlier run in the same session."""

    role: Literal["user", "assistant"]
    text: str


class RunCreated(Fact):
    """Always event 1. Everything a resumed run must see again as it was at admission."""

    type: Literal["run.created"] = "run.created"
    principal: Principal
    input: str
    session_id: SessionId | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    release: str
    deadline_at: AwareDatetime
    """When the run ends whatever happens."""
    limit_micros: Micros
    """What this run may spend."""
    tenant_shard: int = Field(default=0, ge=0)
    """In which part of its tenant's set of runs in flight it stands until its end."""
    traceparent: str | None = None


class RunClaimed(Fact):
    """An agent invocation became the holder. `epoch` rises by one with each claim."""

    type: Literal["run.claimed"] = "run.claimed"
    owner: str
    """The invocation's request id."""
    epoch: int = Field(ge=1)
    lease_until: AwareDatetime


class RunReleased(Fact):
    """The holder let go near the end of its lease, with nothing under way; another invocation goes on at once."""

    type: Literal["run.released"] = "run.released"
    owner: str


class SessionLoaded(Fact):
    """The session's earlier texts, fixed for this run's whole life."""

    type: Literal["session.loaded"] = "session.loaded"
    messages: tuple[SessionMessage, ...]
    tainted: bool = True
    """Whether an earlier run of the session was; one that was loaded before this was recorded counts as tainted."""


class BudgetGranted(Fact):
    """The run's slice grew by money taken from user, tenant and platform."""

    type: Literal["budget.granted"] = "budget.granted"
    grant: int = Field(ge=1)
    amount_micros: Micros


class BudgetReturned(Fact):
    """After the end: what was left of the slice flowed back."""

    type: Literal["budget.returned"] = "budget.returned"
    amount_micros: Micros


class ModelStarted(Fact):
    """A model call begins; its reservation is taken from the slice in the same transaction."""

    type: Literal["model.started"] = "model.started"
    turn: int = Field(ge=1)
    attempt: int = Field(ge=1)
    message_id: str
    model_id: str
    reserved_micros: Micros


class ModelCompleted(Fact):
    """A model call ended well; the reservation is settled, and every call it asked for is decided."""

    type: Literal["model.completed"] = "model.completed"
    turn: int
    attempt: int
    model_id: str
    content: tuple[Block, ...]
    stop_reason: str
    usage: Usage | None
    """None where the provider reported none: then `cost_micros` is the whole reservation and `assumed` is true."""
    cost_micros: Micros
    assumed: bool = False
    duration_ms: int = Field(ge=0)
    decisions: tuple[Decision, ...] = ()
    replacement: str | None = None
    """What everybody gets in place of the text that a guard held back, "" for nothing; None where the text stands.

    The text itself stays in the log for the audit, and no reading of the log shows it.
    """

    def shown_texts(self) -> tuple[str, ...]:
        """Return the answer's texts as they may be shown."""
        if self.replacement is not None:
            return (self.replacement,) if self.replacement else ()
        return tuple(block.text for block in self.content if isinstance(block, Text))


class ModelFailed(Fact):
    """A model call ended badly, or its holder died; settled at what was used, or assumed at the whole reservation."""

    type: Literal["model.failed"] = "model.failed"
    turn: int
    attempt: int
    model_id: str
    error: str
    retryable: bool
    usage: Usage | None = None
    cost_micros: Micros
    assumed: bool = False
    shown: bool = False
    """Whether any of its text may have reached the user: then no other model takes over."""


ApprovalKind = Literal["approval", "resolution"]
"""May the call run? Or: has it happened?"""

ApprovalChoice = Literal["approve", "reject", "happened", "did_not_happen"]
"""What a person decides about an approval (the first two), or finds about a resolution."""

FINDINGS: frozenset[ApprovalChoice] = frozenset({"happened", "did_not_happen"})


class ApprovalRequested(Fact):
    """A call waits for a person. What the approval binds besides (hashes, arguments) stands in the call's decision.

    Approvers see it until it is decided or `expires_at` passes. A *resolution* asks for no leave: it asks what became
    of a call that was started and whose end was not seen.
    """

    type: Literal["approval.requested"] = "approval.requested"
    kind: ApprovalKind = "approval"
    approval_id: ApprovalId
    call_id: CallId
    tool: str
    release_sha256: str
    """Of the release's file and prompt as they were: a release under the same name may be another one later."""
    expires_at: AwareDatetime


class ApprovalDecided(Fact):
    """A person decided about a call. The first decision stands.

    An approval is used up by the start of the call. A finding starts nothing: it is what the model is told.
    """

    type: Literal["approval.decided"] = "approval.decided"
    approval_id: ApprovalId
    call_id: CallId
    by: UserId
    decision: ApprovalChoice
    reason: str = ""
    """The approver's words, for the model and the user."""


class ToolStarted(Fact):
    """The effect of a call may happen from here on."""

    type: Literal["tool.started"] = "tool.started"
    call_id: CallId
    tool: str
    attempt: int = Field(default=1, ge=1)
    approval_id: ApprovalId | None = None
    """The approval that this start consumes; a repeated start under the same key carries it on."""


class ToolQueued(Fact):
    """A call goes through the queue; a result is due by `due_at`."""

    type: Literal["tool.queued"] = "tool.queued"
    call_id: CallId
    tool: str
    due_at: AwareDatetime
    approval_id: ApprovalId | None = None
    """The approval that queueing consumes: the queue's worker starts the call and can judge no approval."""


MAX_PROGRESS_NOTES = 20
"""Of one start of a call."""

MAX_PROGRESS_CHARACTERS = 200


class ToolProgress(Fact):
    """How far a call of the queue has come, in its tool's words. For whoever watches; the model never reads it."""

    type: Literal["tool.progress"] = "tool.progress"
    call_id: CallId
    attempt: int = Field(ge=1)
    """Of the `tool.started` it belongs to."""
    index: int = Field(ge=0, lt=MAX_PROGRESS_NOTES)
    text: str = Field(max_length=MAX_PROGRESS_CHARACTERS)


class ToolCompleted(Fact):
    """A call's one result."""

    type: Literal["tool.completed"] = "tool.completed"
    call_id: CallId
    tool: str
    outcome: Literal["ok", "error"]
    content: str
    """JSON text; for an error `{"error": code, "message": sentence}`."""
    trusted: bool = False
    """Whether these are the platform's own words; all else is marked as data for the model, and taints the session."""
    object_key: str | None = None
    """Where the whole result lies when `content` is only its head."""
    duration_ms: int = Field(ge=0)
    did_not_run: bool = False
    """Whether the platform knows that this start of the call did nothing: a tool can't claim it."""


UNRESOLVED = "unresolved"
"""The cause of an outcome that stays unknown because nobody looked into it in time."""


class ToolOutcomeUnknown(Fact):
    """A call was started, its end was not seen, and it must not run again.

    It is the call's one result, unless a person is asked: then what they find is, or one more of these.
    """

    type: Literal["tool.outcome_unknown"] = "tool.outcome_unknown"
    call_id: CallId
    tool: str
    cause: str
    asks_person: bool = False
    """Whether the holder puts the question before the approvers. Nothing runs meanwhile, nor afterwards."""


class GuardFired(Fact):
    """A guard of the release, or the model's service, found something: what it was, never its text."""

    type: Literal["guard.fired"] = "guard.fired"
    at: Literal["input", "tool_output", "answer"]
    guard: str
    """Its name in the release."""
    kinds: tuple[str, ...]
    response: Literal["block", "flag", "ask", "fall_back"]
    release_sha256: str
    """Of the release's file and prompt as they were."""
    turn: int = Field(default=0, ge=0)
    call_id: CallId | None = None
    """Of the call whose result it was about."""


class RunWaiting(Fact):
    """The run parked, without compute, until something outside happens or `due_at` passes."""

    type: Literal["run.waiting"] = "run.waiting"
    waiting_for: tuple[WaitingFor, ...]
    due_at: AwareDatetime


class CancelRequested(Fact):
    """The user asked for the run to end."""

    type: Literal["cancel.requested"] = "cancel.requested"
    by: UserId


class WorkerLost(Fact):
    """The invocation `owner` is proven dead; its lease no longer holds."""

    type: Literal["worker.lost"] = "worker.lost"
    owner: str
    cause: str


class FeedbackGiven(Fact):
    """The user's judgement of the run; may come after the end."""

    type: Literal["feedback.given"] = "feedback.given"
    by: UserId
    rating: Literal["up", "down"]
    comment: str = ""


class RunEnded(Fact):
    """The run is over.

    What may follow: `model.failed`, which settles a call that the end interrupted, `budget.returned`, `feedback.given`.
    """

    type: Literal["run.ended"] = "run.ended"
    status: Status
    reason: EndReason
    message: str
    """For the user: what happened and what to do."""
    answer: str | None = None


Payload = Annotated[
    RunCreated
    | RunClaimed
    | RunReleased
    | SessionLoaded
    | BudgetGranted
    | BudgetReturned
    | ModelStarted
    | ModelCompleted
    | ModelFailed
    | ApprovalRequested
    | ApprovalDecided
    | ToolStarted
    | ToolQueued
    | ToolProgress
    | ToolCompleted
    | ToolOutcomeUnknown
    | GuardFired
    | RunWaiting
    | CancelRequested
    | WorkerLost
    | FeedbackGiven
    | RunEnded,
    Field(discriminator="type"),
]

OUTSIDE = frozenset(
    {
        "cancel.requested",
        "approval.decided",
        "tool.started",
        "tool.progress",
        "tool.completed",
        "tool.outcome_unknown",
        "guard.fired",
        "worker.lost",
        "feedback.given",
        "budget.returned",
    }
)
"""What others than the holder may append: people's wishes, and the queue worker's facts about a queued call."""


class Event(Fact):
    """One entry of a run's log: the envelope in clear, and the payload."""

    v: Literal[1] = SCHEMA_VERSION
    tenant_id: TenantId
    run_id: RunId
    seq: int = Field(ge=1)
    at: AwareDatetime
    epoch: int = Field(ge=0)
    """The holder's epoch; 0 for an outside event."""
    nonce: str
    """Unique per append, so that a writer whose reply was lost recognises its own event."""
    release: str
    data: Payload

    @property
    def type(self) -> str:
        """The payload's kind, such as `model.started`."""
        return self.data.type

    def payload_json(self) -> str:
        """Return the payload as it is stored and hashed."""
        return self.data.model_dump_json(exclude_defaults=False)

    def payload_sha256(self) -> str:
        """Return the hash that keeps the envelope meaningful after the payload is sealed or erased."""
        return hashlib.sha256(self.payload_json().encode()).hexdigest()


class Delta(Fact):
    """A piece of streamed text, short-lived: characters `offset` onwards of `part` of the message begun at `seq`."""

    seq: int = Field(ge=1)
    """The sequence number of the `model.started` it belongs to."""
    index: int = Field(ge=0)
    """Position among the deltas of that message."""
    part: int = Field(ge=0)
    """Which text block of the message."""
    offset: int = Field(ge=0)
    """In characters, within the part."""
    text: str


def at_utc(moment: datetime) -> str:
    """Return the stored form of a time: ISO 8601, UTC, milliseconds, sortable as text."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
