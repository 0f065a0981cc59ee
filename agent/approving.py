"""Calls that need a person, from the side of the person: what an approver of a tenant sees, and how they decide.

An *approval* asks whether a call may run. A *resolution* asks what became of one that was started and whose end nobody
saw; deciding it runs nothing.

What is shown comes from the log and the tools' contracts: the arguments that will run, under the contract's titles, who
asked, and that person's own words, marked as such. The model's prose is not shown: it could argue for its own call.
Approvers see the approval, not the run. Deciding is one outside event, on the condition that nobody was faster.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from agent.admission import Room1, wake
from agent.contracts import Contract, Effect
from agent.errors import (
    AlreadyDecided,
    ApprovalExpired,
    InputInvalid,
    LogContended,
    LogMoved,
    NotFound,
    OwnRun,
    RunOver,
)
from agent.events import (
    FINDINGS,
    ApprovalChoice,
    ApprovalDecided,
    ApprovalKind,
    ApprovalRequested,
    Decision,
    ToolCompleted,
)
from agent.held_run import read_state
from agent.identity import ApprovalId, Principal, RunId, UserId, idempotency_key, run_of_approval
from agent.outside import MAX_TRIES
from agent.run_state import RunState, Turn

_APPROVAL_ID: TypeAdapter[str] = TypeAdapter(ApprovalId)

MAX_PAGE_BYTES = 1_000_000
"""Beyond which a page holds one run's approvals only. A function's answer may have 6 MB, its own quoting included."""

TOO_LATE: dict[ApprovalKind, str] = {
    "approval": "nobody decided in time; the call will not run",
    "resolution": "nobody looked into it in time; its outcome stays unknown",
}


class ShownArgument(BaseModel):
    """One argument, as it will run if the call is approved, or as it was started with."""

    model_config = ConfigDict(frozen=True)

    name: str
    title: str = Field(description="From the tool's contract.")
    description: str | None = Field(description="From the tool's contract.")
    value: JsonValue
    source: Literal["model"] = Field(default="model", description="The model wrote it: compare it with what was asked.")


class UsersWords(BaseModel):
    """What the requester typed."""

    model_config = ConfigDict(frozen=True)

    text: str
    source: Literal["user"] = Field(default="user", description="Nobody has checked it.")


class Approval(BaseModel):
    """A call that waits for a person, rendered by the platform."""

    model_config = ConfigDict(frozen=True)

    approval_id: ApprovalId
    kind: ApprovalKind = Field(
        description="`approval`: may it run? `resolution`: it was started, nobody saw how it ended, and it will not run"
        " again: has it happened?"
    )
    tool: str
    tool_description: str | None = Field(description="From its contract; null where that has changed since.")
    effect: Effect | None
    tainted: bool = Field(
        description="Whether text from outside (documents, customers, other systems) may have led the agent to it."
    )
    idempotency_key: str | None = Field(
        description="Of a resolution: the key the call passed on to whatever it acted on, to look for it there."
    )
    arguments: tuple[ShownArgument, ...]
    resource: str = Field(description="What it acts on, as `Type::id`.")
    facts: dict[str, JsonValue] = Field(
        description="What the platform had read of that when the agent asked; empty where the tool declares nothing."
    )
    requested_by: UserId = Field(description="From this person's sign-in.")
    input: UsersWords
    agent_version: str = Field(description="The release that asks.")
    created_at: AwareDatetime = Field(description="When the run was asked for.")
    expires_at: AwareDatetime


def pending(room: Room1, approver: Principal, *, limit: int, after: str | None) -> tuple[list[Approval], str | None]:
    """Return what this person may decide, oldest run first, and the cursor of the next page.

    Own runs are left out. A new approval may take a second to appear. A page ends early rather than grow too large.
    """
    headers, more = room.log.runs_awaiting_approval(approver.tenant_id, limit=limit, after=after)
    shown: list[Approval] = []
    room_left = MAX_PAGE_BYTES
    for header in headers:
        if header.user_id == approver.user_id or header.cancel_requested:
            continue
        state = read_state(room.log, header.tenant_id, header.run_id)
        of_run = list(_shown(state, room)) if state else []
        room_left -= sum(len(approval.model_dump_json().encode()) for approval in of_run)
        if room_left < 0 and shown:
            return shown, run_of_approval(shown[-1].approval_id)
        shown += of_run
    return shown, more


def decide(
    room: Room1, approver: Principal, approval_id: str, *, decision: ApprovalChoice, reason: str
) -> ApprovalDecided:
    """Approve or reject a call, or say whether one has happened; once; and wake the agent.

    Raises:
        NotFound: there is no such approval in this person's tenant.
        InputInvalid: the decision is none for this question, or a finding comes without a reason.
        OwnRun: this person asked for the call.
        AlreadyDecided: somebody was faster.
        ApprovalExpired: nobody may decide any more.
        RunOver: the run has ended, or is about to.
        LogContended: others kept appending first.
    """
    for _ in range(MAX_TRIES):
        state, turn, asked = _require(room, approver, approval_id)
        _require_open(state, turn, asked, approver)
        if room.clock.now() >= asked.expires_at:
            raise ApprovalExpired(TOO_LATE[asked.kind])
        _require_answer(asked, decision, reason)
        decided = ApprovalDecided(
            approval_id=asked.approval_id,
            call_id=asked.call_id,
            by=approver.user_id,
            decision=decision,
            reason=reason,
        )
        try:
            header = room.log.append(state.header, [decided], at=room.clock.now(), outside=True)
        except LogMoved:
            continue
        wake(room, header)
        return decided
    raise LogContended("the run is being worked on too fast; try again")


def _require(room: Room1, approver: Principal, approval_id: str) -> tuple[RunState, Turn, ApprovalRequested]:
    """Return the run, turn and request an id names; missing and foreign are one answer, by the same calls."""
    try:
        run_id: RunId = run_of_approval(_APPROVAL_ID.validate_python(approval_id))
    except ValidationError:
        state = None  # no key is ever made of a text that is no id
    else:
        state = read_state(room.log, approver.tenant_id, run_id)
    for turn in state.turns if state else ():
        for asked in (*turn.requested.values(), *turn.checks.values()):
            if state and asked.approval_id == approval_id:
                return state, turn, asked
    raise NotFound("there is no approval with this id", field="path.approval_id")


def _require_open(state: RunState, turn: Turn, asked: ApprovalRequested, approver: Principal) -> None:
    if state.created.principal.user_id == approver.user_id:
        raise OwnRun("nobody approves what they asked for themselves; another approver has to decide")
    if asked.call_id in (turn.findings if asked.kind == "resolution" else turn.decided):
        raise AlreadyDecided("this has been decided already")
    if state.is_over or state.header.cancel_requested:
        raise RunOver("the run is over; there is nothing left to decide")
    result = turn.results.get(asked.call_id)
    if asked.kind == "resolution" and isinstance(result, ToolCompleted):
        raise AlreadyDecided("the call's own result has come in; there is nothing left to find out")
    if result is not None:
        raise ApprovalExpired(TOO_LATE[asked.kind])


def _require_answer(asked: ApprovalRequested, decision: ApprovalChoice, reason: str) -> None:
    if (decision in FINDINGS) != (asked.kind == "resolution"):
        fitting = "happened or did_not_happen" if asked.kind == "resolution" else "approve or reject"
        raise InputInvalid(f"this is answered with {fitting}", field="body.decision")
    if decision in FINDINGS and not reason.strip():
        raise InputInvalid("say how you know", field="body.reason")


def _shown(state: RunState, room: Room1) -> Iterator[Approval]:
    decisions = {d.call_id: d for d in state.turn.completed.decisions} if state.turn else {}
    for asked in state.header.approvals:
        if asked.call_id not in decisions or room.clock.now() >= asked.expires_at:
            continue
        decision = decisions[asked.call_id]
        is_resolution = asked.kind == "resolution"
        contract = room.contracts.get(decision.tool)
        if contract is not None and contract.sha256() != decision.contract_sha256:
            contract = None
        yield Approval(
            approval_id=asked.approval_id,
            kind=asked.kind,
            tool=decision.tool,
            tool_description=contract.description if contract else None,
            effect=decision.effect,
            tainted=decision.tainted,
            idempotency_key=idempotency_key(state.header.run_id, decision.call_id) if is_resolution else None,
            arguments=tuple(_arguments(decision, contract)),
            resource=decision.resource,
            facts=decision.facts,
            requested_by=state.created.principal.user_id,
            input=UsersWords(text=state.created.input),
            agent_version=state.header.release,
            created_at=state.header.created_at,
            expires_at=asked.expires_at,
        )


def _arguments(decision: Decision, contract: Contract | None) -> Iterator[ShownArgument]:
    declared: Mapping[str, Any] = contract.schema_.get("properties", {}) if contract else {}
    for name, value in decision.arguments.items():
        about = declared.get(name, {})
        yield ShownArgument(
            name=name, title=about.get("title", name), description=about.get("description"), value=value
        )
