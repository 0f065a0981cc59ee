"""What the core needs from outside, as protocols: `agent.aws` has each on AWS, `agent.testing` in memory.

Every implementation of a port passes the port's suite in tests/contracts. Methods raise `agent.errors` only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, Protocol

from pydantic import JsonValue

from agent.audit import Change
from agent.controls import Board, Controls, Switch, Target
from agent.events import Delta, Event, Payload, Reasoning, Usage
from agent.identity import Principal
from agent.limits import DEFAULT_TENANT_RUNS, DEFAULT_USER_RUNS, LimitName, Limits, LimitScope
from agent.runlog import RunHeader


class Clock(Protocol):
    """Time. The core reads no other clock."""

    def now(self) -> datetime:
        """Return the time in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that only grow, for durations."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...


@dataclass(frozen=True)
class NewRun:
    """A run to be created, once per idempotency key of its user."""

    event: Event
    """Event 1."""
    idempotency_key: str | None
    body_sha256: str
    """Of the request's canonical body: the same key with another body is a conflict."""
    user_runs: int = DEFAULT_USER_RUNS
    """How many runs its user may have in flight, this one included."""
    tenant_runs: int = DEFAULT_TENANT_RUNS
    """And its tenant."""
    is_alone: bool = False
    """Whether it is refused while another run of its session is not over."""

    def in_shard(self, shard: int) -> "NewRun":
        """Return the same run in this part of its tenant's set of runs in flight."""
        data = self.event.data.model_copy(update={"tenant_shard": shard})
        return replace(self, event=self.event.model_copy(update={"data": data}))


class RunLog(Protocol):
    """The run log's store. Every read is strongly consistent unless said otherwise."""

    def create(self, run: NewRun) -> RunHeader:
        """Write event 1, the header, the idempotency key and the session's entry in one transaction.

        In the same transaction the run joins the runs in flight of its user, its tenant and its session, which it
        leaves in the one that ends it. A repeated call with the same key and body returns the header of the run that
        exists, however many are in flight.

        Raises:
            IdempotencyKeyReused: the key exists with another body.
            TooManyRuns: user or tenant have as many runs in flight as allowed; nothing is written.
            SessionBusy: the run wants to be alone in its session and is not; nothing is written.
            LogContended: not written within the bounded retries.
        """
        ...

    def header(self, tenant_id: str, run_id: str) -> RunHeader | None:
        """Return a run's header, or None."""
        ...

    def events(self, tenant_id: str, run_id: str, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """Return at most `limit` events after sequence number `after`, contiguous: it stops before any gap."""
        ...

    def append(
        self, header: RunHeader, payloads: Sequence[Payload], *, at: datetime, outside: bool = False
    ) -> RunHeader:
        """Append events after `header.next_seq - 1` and write the header they lead to, in one transaction.

        The holder's append also demands that the header's epoch is still its own. `outside` is for events of
        `events.OUTSIDE` only. Transaction conflicts, throttling and lost replies are retried here, with jitter and
        a bound; an append whose reply was lost is recognised by its nonce and counts as done.

        Raises:
            LogMoved: somebody else appended first.
            LogContended: not written within the bounded retries.
            ValueError: `outside` with an event only a holder may append, or more events than one transaction takes.
        """
        ...

    def write_delta(self, tenant_id: str, run_id: str, delta: Delta) -> None:
        """Store a piece of streamed text for about an hour. Losing one is harmless: `model.completed` has it all."""
        ...

    def deltas(self, tenant_id: str, run_id: str, seq: int, *, from_index: int = 0) -> list[Delta]:
        """Return the contiguous pieces streamed after the `model.started` at `seq`, in order, from `from_index` on."""
        ...

    def runs_of_user(
        self, tenant_id: str, user_id: str, *, limit: int, before: str | None = None
    ) -> tuple[list[RunHeader], str | None]:
        """Return a user's newest runs (eventually consistent), older than run id `before`, and the next `before`."""
        ...

    def runs_of_session(self, tenant_id: str, user_id: str, session_id: str, *, limit: int) -> list[RunHeader]:
        """Return the newest ended-or-not runs of a session, oldest first."""
        ...

    def runs_awaiting_approval(
        self, tenant_id: str, *, limit: int, after: str | None = None
    ) -> tuple[list[RunHeader], str | None]:
        """Return a tenant's runs with approvals to decide, oldest first, behind run id `after`, and the next `after`.

        Eventually consistent; a run that has none any more is left out.
        """
        ...

    def open_runs_of_session(self, tenant_id: str, user_id: str, session_id: str) -> list[str]:
        """Return the ids of a session's runs that are not over, in the order in which they were created.

        That order is the store's, not that of the ids: who was created later sees all who were created before.
        """
        ...

    def due_runs(self, now: datetime, *, limit: int) -> list[RunHeader]:
        """Return runs whose `due_at` has passed (eventually consistent), from all shards, at most `limit`."""
        ...

    def postpone(self, header: RunHeader, due_at: datetime) -> bool:
        """Move `due_at` of an unchanged header; False where the run has moved on meanwhile."""
        ...


@dataclass(frozen=True)
class WaitingJob:
    """A queued call that has its slot and is to be sent."""

    tenant_id: str
    run_id: str
    call_id: str
    since: datetime
    traceparent: str | None


@dataclass(frozen=True)
class JobLine:
    """A tenant's line that somebody should look at: calls may wait in it though slots are free."""

    tenant_id: str
    due_at: datetime


class JobLines(Protocol):
    """Each tenant's queued calls, first come first served, and the slots that bound how many are in the queue at once.

    A call gets in line with `tool.queued`, and leaves line and slot with its result or its run's end, in the run log's
    own transactions: what waits here and what the logs say can't differ.
    """

    def take(self, tenant_id: str, *, slots: int, at: datetime) -> list[WaitingJob]:
        """Give the free slots to those that wait longest, and return what is to be sent now.

        A job that somebody took a while ago and never called `sent` for is returned again.

        Raises:
            StoreUnavailable: not done within the bounded retries.
        """
        ...

    def sent(self, job: WaitingJob) -> None:
        """Note that a job is in the queue. Its slot stays taken."""
        ...

    def due_lines(self, now: datetime, *, limit: int) -> list[JobLine]:
        """Return lines that got longer a minute ago or more and were not looked after since (eventually consistent)."""
        ...

    def looked_after(self, line: JobLine, *, at: datetime) -> None:
        """Let a line be due again in a minute where calls still wait in it, and else when one comes."""
        ...


Scope = Literal["run", "user", "tenant", "platform"]


@dataclass(frozen=True)
class Grant:
    """Money asked for one run: taken from user, tenant and platform at once, or not at all."""

    tenant_id: str
    user_id: str
    run_id: str
    number: int
    """1, 2, …: asking again for the same number changes nothing and gives the same answer."""
    want_micros: int
    """What the run would like (its slice)."""
    need_micros: int
    """The least that lets it go on."""


@dataclass(frozen=True)
class Balance:
    """What a scope has left and has spent in the current period, in micro-dollars."""

    limit_micros: int
    remaining_micros: int


class Accounts(Protocol):
    """What users and tenants have left, for those who may only look."""

    def own_balances(self, tenant_id: str, user_id: str, *, at: datetime) -> dict[Scope, Balance]:
        """Return what a user, where one is named, and a tenant have left.

        Raises:
            StoreUnavailable: no answer within the bounded retries.
        """
        ...


class Ledger(Protocol):
    """Budgets of users (a UTC day), tenants and the platform (a UTC month). It never lets `remaining` go below zero."""

    def grant(self, grant: Grant, *, at: datetime) -> int | Scope:
        """Take `want_micros`, or else `need_micros`, and return the amount; or the scope that has too little.

        Raises:
            StoreUnavailable: not decided within the bounded retries (fail closed: no money).
        """
        ...

    def give_back(self, header: RunHeader, *, at: datetime) -> None:
        """Return `header.slice_micros` of an ended run to where its grants came from, once however often called.

        Raises:
            StoreUnavailable: not done within the bounded retries.
        """
        ...

    def balances(self, tenant_id: str, user_id: str, *, at: datetime) -> dict[Scope, Balance]:
        """Return what user, tenant and platform have left."""
        ...


class LimitBook(Protocol):
    """What users, tenants and the platform may use: a stage's defaults, and what operators have set instead."""

    def of(self, tenant_id: str, user_id: str = "") -> Limits:
        """Return what holds for a user of a tenant, at most 5 s old. Without a user: for the tenant as a whole.

        Raises:
            StoreUnavailable: not known (fail closed).
        """
        ...

    def overrides(self, scope: LimitScope) -> Mapping[LimitName, int]:
        """Return what operators have set for exactly this scope."""
        ...

    def change(self, scope: LimitScope, name: LimitName, value: int | None, *, by: str, reason: str) -> None:
        """Set a limit of this scope, or with None let the wider scope's hold again; with an entry in the audit.

        Raises:
            InputInvalid: this scope has no such limit, or the value is out of bounds, or above the platform's.
            StoreUnavailable: perhaps not done; doing it again is harmless.
        """
        ...


class AuditTrail(Protocol):
    """What operators have changed."""

    def changes(self, tenant_id: str, *, limit: int, before: str | None = None) -> tuple[list[Change], str | None]:
        """Return the newest changes for a tenant, or with an empty id for everybody, and the next `before`.

        Raises:
            StoreUnavailable: no answer within the bounded retries.
        """
        ...

    def note(self, change: Change) -> None:
        """Write an entry about what was changed elsewhere, once however often called with the same id.

        Raises:
            StoreUnavailable: perhaps not written.
        """
        ...


class ControlBook(Protocol):
    """What operators have switched off, or made stricter."""

    @property
    def audit(self) -> AuditTrail:
        """Where its changes are told, and those of limits."""
        ...

    def switches(self, board: Board) -> tuple[Switch, ...]:
        """Return the switches of a board that are on.

        Raises:
            StoreUnavailable: not known.
        """
        ...

    def switch_on(self, board: Board, switch: Switch) -> None:
        """Put a switch on a board, in place of one with the same target, and its entry in the audit.

        Raises:
            InputInvalid: it is not bounded in time, or the board is full.
            StoreUnavailable: perhaps not done; doing it again is harmless.
        """
        ...

    def switch_off(self, board: Board, target: Target, *, by: str, reason: str) -> None:
        """Take a switch off a board, with an entry in the audit.

        Raises:
            NotFound: there is none with this target.
            StoreUnavailable: perhaps not done.
        """
        ...

    def effective(self, tenant_id: str, user_id: str, *, release: str, agent: str) -> Controls:
        """Return what holds for the runs of a user under an agent's release, at most 2 s old.

        Raises:
            StoreUnavailable: not known (fail closed: no new run, no new model call, no new tool call).
        """
        ...


@dataclass(frozen=True)
class Taking:
    """What one call uses up before it may start."""

    tenant_id: str
    user_id: str
    run_id: str
    call_id: str
    tool: str
    uses: Mapping[str, int]
    """By allowance, as the call's decision has it."""


@dataclass(frozen=True)
class Reached:
    """The allowance that a call would exceed."""

    name: str
    limit: int
    renews_at: datetime


class Allowances(Protocol):
    """What the calls of a tool may use up over runs: rates and sums, in windows that stand fixed in UTC.

    The sum of what was taken in a window never exceeds the limit that held at the last taking.
    """

    def take(self, taking: Taking, *, at: datetime) -> Reached | None:
        """Take all that a call uses up, or nothing; then return the first allowance that has too little left.

        Taking again for the same run and call changes nothing and is as good as the first time, whatever the limits are
        by then.

        Raises:
            LogMoved: what the call took was given back; its run is over.
            StoreUnavailable: not decided within the bounded retries (fail closed); it may or may not have been taken.
        """
        ...

    def give_back(self, tenant_id: str, run_id: str, call_id: str, *, at: datetime) -> None:
        """Return what a call took, if anything, once however often called. From then on it can't take any more.

        Raises:
            StoreUnavailable: not done within the bounded retries.
        """
        ...

    def used(self, tenant_id: str, user_id: str, tool: str, names: Sequence[str], *, at: datetime) -> dict[str, int]:
        """Return how much of each of a tool's allowances is used up in the window that a moment lies in.

        Raises:
            StoreUnavailable: no answer within the bounded retries.
        """
        ...


@dataclass(frozen=True)
class ToolSpec:
    """A tool as the model is told of it."""

    name: str
    description: str
    schema: dict[str, Any]
    """JSON Schema of the arguments."""


@dataclass(frozen=True)
class ModelRequest:
    """One model call. `messages` are in the Converse form, roles alternating, the first and the last from the user."""

    model_id: str
    system: str
    messages: list[dict[str, Any]]
    tools: tuple[ToolSpec, ...]
    max_tokens: int
    temperature: float | None = None


@dataclass(frozen=True)
class TextDelta:
    """A piece of text of the block at `block`."""

    block: int
    text: str


@dataclass(frozen=True)
class ToolAsked:
    """A whole tool call, as the model wrote it. `arguments_json` is unparsed: it may be anything."""

    block: int
    provider_id: str
    tool: str
    arguments_json: str


@dataclass(frozen=True)
class ReasoningDone:
    """A whole reasoning block."""

    block: int
    reasoning: Reasoning


@dataclass(frozen=True)
class ModelStopped:
    """The model ended its answer: `end_turn`, `tool_use`, `max_tokens`, `content_filtered` or another."""

    stop_reason: str


@dataclass(frozen=True)
class UsageReported:
    """Arrives last, if at all."""

    usage: Usage


@dataclass(frozen=True)
class GuardrailTold:
    """What a guardrail of the model's service found in question or answer, as kinds; never its text."""

    kinds: tuple[str, ...]


ModelPart = TextDelta | ToolAsked | ReasoningDone | ModelStopped | UsageReported | GuardrailTold


class Model(Protocol):
    """A language model that streams. One attempt, no retries of its own."""

    def stream(self, request: ModelRequest, *, timeout_s: float) -> Iterator[ModelPart]:
        """Yield the answer's parts as they come. Closing the iterator abandons the call.

        Raises:
            ModelError: one of its subclasses, at the call or from the iterator.
        """
        ...


@dataclass(frozen=True)
class ToolReply:
    """What a tool call came to."""

    outcome: Literal["ok", "error"]
    content: str
    """JSON text, already within the contract's byte cap."""
    object_key: str | None = None
    duration_ms: int = 0


class ToolRunner(Protocol):
    """Runs one decided tool call in the room that has the tenant's data. Ids travel, never decisions or identities."""

    def run(self, tenant_id: str, run_id: str, call_id: str, *, timeout_s: float, traceparent: str | None) -> ToolReply:
        """Run the call and return what it came to.

        Raises:
            CallNotDecided: the log does not show the call as allowed, started and open.
            ToolUnreached: nothing was sent, so nothing began.
            ToolLost: it died or timed out; what it did is not known.
        """
        ...


class ResourceFacts(Protocol):
    """Finds out, in the room that has the tenant's data, what a resource is that a call would act on."""

    def of(self, tenant_id: str, run_id: str, *, tool: str, resource: str) -> Mapping[str, JsonValue] | None:
        """Return what the tool's contract declares of the resource `Type::id`; None where there is no such resource.

        Raises:
            FactsUnavailable: not known (fail closed: nothing is decided on a guess).
        """
        ...


class ProgressNotes(Protocol):
    """What tools of the queue tell while they work, on its way from the tool's room into the run's log."""

    def write(self, tenant_id: str, run_id: str, call_id: str, *, attempt: int, index: int, text: str) -> None:
        """Keep note number `index` (from 0, below `events.MAX_PROGRESS_NOTES`) of a start, for about an hour.

        Raises:
            StoreUnavailable: perhaps not kept.
        """
        ...

    def read(self, tenant_id: str, run_id: str, call_id: str, *, attempt: int, from_index: int) -> list[str]:
        """Return the notes of a start from an index on, in order.

        Raises:
            StoreUnavailable: no answer within the bounded retries.
        """
        ...


class ToolQueue(Protocol):
    """Takes calls whose contract is `queued`."""

    def send(self, tenant_id: str, run_id: str, call_id: str, *, traceparent: str | None) -> None:
        """Enqueue a call; sending one twice is harmless.

        Raises:
            StoreUnavailable: not sent within the bounded retries.
        """
        ...


class Directory(Protocol):
    """Who people are now. The claims of a run or a request are what they were when their token was made."""

    def principal(self, tenant_id: str, user_id: str) -> Principal | None:
        """Return a person of a tenant with today's roles; None where there is none, or who may not sign in any more.

        Raises:
            StoreUnavailable: no answer within the bounded retries.
        """
        ...


@dataclass(frozen=True)
class BreakerRules:
    """When a breaker opens, and for how long."""

    failures: int
    """This many within one window open it. The windows stand fixed in time."""
    window_s: int
    open_s: int
    """After which one call, the probe, is let through. Not shorter than a window, or old failures would count again."""

    def __post_init__(self) -> None:
        if not 0 < self.window_s <= self.open_s or self.failures < 1:
            raise ValueError(f"no rules for a breaker: {self}")


class Breakers(Protocol):
    """Circuit breakers, shared by all processes: closed, open, half-open. Names are `model#<id>` and `tool#<name>`.

    A breaker protects, it permits nothing: one that can't be read counts as closed, and no method raises for trouble of
    the store. What others did is seen after two seconds at most.
    """

    def admits(self, name: str, *, patience_s: float) -> bool:
        """Tell whether a call may be made now.

        When the breaker's time is up, exactly one caller is let through, as the probe; the next, should it never tell
        what came of it, after `patience_s`.
        """
        ...

    def is_open(self, name: str) -> bool:
        """Tell whether no call may be made, without becoming the probe."""
        ...

    def failed(self, name: str) -> None:
        """Count a failure. A failed probe opens the breaker anew."""
        ...

    def gave_up(self, name: str) -> None:
        """Tell that nothing will be known of a call: if it was the probe, the next caller is. Else it costs nothing."""
        ...

    def succeeded(self, name: str) -> None:
        """Tell of a success: a probe's closes the breaker; any other changes nothing, and costs nothing."""
        ...


class Wake(Protocol):
    """Starts the agent on a run. Waking any number of times, at any time, is harmless."""

    def wake(self, tenant_id: str, run_id: str, *, traceparent: str | None) -> None:
        """Ask for the run to be worked on, soon and asynchronously.

        Raises:
            StoreUnavailable: not asked; the sweeper will, once `due_at` has passed.
        """
        ...


@dataclass(frozen=True)
class PolicyQuery:
    """May this principal do this, with these arguments, to this resource?"""

    principal: Principal
    tool: str
    arguments: dict[str, Any]
    resource: str
    """`Type::id` of what the call acts on, from the contract, within the principal's tenant."""
    tainted: bool = False
    """Whether text from outside is in the conversation."""
    force_review: bool = False
    read_only: bool = False
    facts: Mapping[str, JsonValue] = field(default_factory=dict)
    """Attributes of the resource, as the platform has just read them."""


@dataclass(frozen=True)
class PolicyDecision:
    """The verdict, and what it rests on."""

    verdict: Literal["allow", "ask", "deny"]
    policies: tuple[str, ...]
    policy_sha256: str
    reason: str = ""


class Policy(Protocol):
    """Decides tool calls. Fails closed: an evaluation error is a deny."""

    def decide(self, query: PolicyQuery) -> PolicyDecision:
        """Return the verdict; never raises for a query it can't evaluate, it denies."""
        ...
