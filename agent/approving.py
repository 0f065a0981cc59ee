"""Calls that need a person, from the side of the person: what an approver of a tenant sees, and how they decide.

What is shown comes from the log and the tools' contracts: the arguments that will run, under the contract's titles, who
asked, and that person's own words, marked as such. The model's prose is not shown: it could argue for its own call.
Approvers see the approval, not the run. Deciding is one outside event, on the condition that nobody was faster.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from agent.admission import Room1, wake
from agent.errors import AlreadyDecided, ApprovalExpired, LogContended, LogMoved, NotFound, OwnRun, RunOver
from agent.events import ApprovalDecided, ApprovalRequested, Decision
from agent.held_run import read_state
from agent.identity import ApprovalId, Principal, RunId, UserId, run_of_approval
from agent.outside import MAX_TRIES
from agent.runlog import RunState, Turn
from agent.tools import Contract, Effect

_APPROVAL_ID: TypeAdapter[str] = TypeAdapter(ApprovalId)


class ShownArgument(BaseModel):
    """One argument, as it will run if the call is approved."""

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
    tool: str
    tool_description: str | None = Field(description="From its contract; null where that has changed since.")
    effect: Effect | None
    arguments: tuple[ShownArgument, ...]
    requested_by: UserId = Field(description="From this person's sign-in.")
    input: UsersWords
    agent_version: str = Field(description="The release that asks.")
    created_at: AwareDatetime = Field(description="When the run was asked for.")
    expires_at: AwareDatetime


def pending(room: Room1, approver: Principal, *, limit: int, after: str | None) -> tuple[list[Approval], str | None]:
    """Return what this person may decide, oldest run first, and the cursor of the next page.

    Own runs are left out. A new approval may take a second to appear.
    """
    headers, more = room.log.runs_awaiting_approval(approver.tenant_id, limit=limit, after=after)
    shown: list[Approval] = []
    for header in headers:
        if header.user_id == approver.user_id or header.cancel_requested:
            continue
        state = read_state(room.log, header.tenant_id, header.run_id)
        if state is not None:
            shown += _shown(state, room)
    return shown, more


def decide(
    room: Room1, approver: Principal, approval_id: str, *, decision: Literal["approve", "reject"], reason: str
) -> ApprovalDecided:
    """Approve or reject a call, once, and wake the agent.

    Raises:
        NotFound: there is no such approval in this person's tenant.
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
            raise ApprovalExpired("nobody decided in time; the call will not run")
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
        for asked in turn.requested.values():
            if state and asked.approval_id == approval_id:
                return state, turn, asked
    raise NotFound("there is no approval with this id", field="path.approval_id")


def _require_open(state: RunState, turn: Turn, asked: ApprovalRequested, approver: Principal) -> None:
    if state.created.principal.user_id == approver.user_id:
        raise OwnRun("nobody approves what they asked for themselves; another approver has to decide")
    if asked.call_id in turn.decided:
        raise AlreadyDecided("this has been decided already")
    if state.is_over or state.header.cancel_requested:
        raise RunOver("the run is over; there is nothing left to decide")
    if asked.call_id in turn.results:
        raise ApprovalExpired("nobody decided in time; the call will not run")


def _shown(state: RunState, room: Room1) -> Iterator[Approval]:
    decisions = {d.call_id: d for d in state.turn.completed.decisions} if state.turn else {}
    for asked in state.header.approvals:
        if asked.call_id not in decisions or room.clock.now() >= asked.expires_at:
            continue
        decision = decisions[asked.call_id]
        contract = room.contracts.get(decision.tool)
        if contract is not None and contract.sha256() != decision.contract_sha256:
            contract = None
        yield Approval(
            approval_id=asked.approval_id,
            tool=decision.tool,
            tool_description=contract.description if contract else None,
            effect=decision.effect,
            arguments=tuple(_arguments(decision, contract)),
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
