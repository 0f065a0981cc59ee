"""A run as its user sees it: looked up by one rule, shown as one record.

The record is read off the header alone, so asking for it costs one item. What the model was told or said is not in it.
"""

from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from agent.contracts import Effect
from agent.endings import EndReason, Status
from agent.errors import NotFound
from agent.events import ApprovalKind, WaitingFor
from agent.identity import ApprovalId, Principal, RunId, SessionId, UserId
from agent.ports.run_log import RunLog
from agent.run_header import RunHeader

RiskLevel = Literal["low", "medium", "high"]

_RISK: dict[Effect | None, RiskLevel] = {
    Effect.READ: "low",
    Effect.WRITE: "medium",
    Effect.DESTRUCTIVE: "high",
    Effect.EXTERNAL: "high",
    None: "high",  # an effect nobody declared
}
_RISK_ORDER: tuple[RiskLevel, ...] = ("low", "medium", "high")
_RUN_ID: TypeAdapter[str] = TypeAdapter(RunId)


class PendingApproval(BaseModel):
    """A call that an approver has to decide about, or to find out about; the run's own user can't."""

    model_config = ConfigDict(frozen=True)

    approval_id: ApprovalId
    kind: ApprovalKind
    tool: str
    expires_at: AwareDatetime


class Tokens(BaseModel):
    """What the model's provider counted, over all calls of the run."""

    input: int = Field(ge=0)
    output: int = Field(ge=0)


class RunRecord(BaseModel):
    """Where a run stands and what it has used. Times are UTC."""

    model_config = ConfigDict(frozen=True)

    run_id: RunId
    agent_version: str = Field(description="The release the run is bound to, from its admission to its end.")
    user_id: UserId
    session_id: SessionId | None
    status: Status
    waiting_for: tuple[WaitingFor, ...]
    pending_approvals: tuple[PendingApproval, ...]
    cancel_requested: bool
    reason: EndReason | None = Field(description="Why it ended; null while it has not.")
    message: str | None = Field(description="How it ended, as a sentence for the user; null while it has not.")
    steps_used: int = Field(ge=0, description="Model answers asked for, repeated attempts not counted.")
    tool_calls: int = Field(ge=0, description="Tool calls that were started.")
    tools_called: tuple[str, ...]
    estimated_cost_usd: float = Field(ge=0, description="By the price list the run was settled with; not an invoice.")
    tokens: Tokens
    risk_level: RiskLevel = Field(
        description="By the gravest effect of the tool calls it was allowed; medium at least where a guard fired."
    )
    guards_fired: tuple[str, ...] = Field(description="The release's guards that found something.")
    feedback: Literal["up", "down"] | None
    created_at: AwareDatetime
    updated_at: AwareDatetime
    ended_at: AwareDatetime | None
    deadline_at: AwareDatetime

    @classmethod
    def from_header(cls, header: RunHeader) -> Self:
        """Return the record of the run this header stands for."""
        return cls(
            run_id=header.run_id,
            agent_version=header.release,
            user_id=header.user_id,
            session_id=header.session_id,
            status=header.status,
            waiting_for=header.waiting_for,
            pending_approvals=tuple(
                PendingApproval(
                    approval_id=asked.approval_id, kind=asked.kind, tool=asked.tool, expires_at=asked.expires_at
                )
                for asked in header.approvals
            ),
            cancel_requested=header.cancel_requested,
            reason=header.reason,
            message=header.message or None,
            steps_used=header.turns,
            tool_calls=header.tool_calls,
            tools_called=header.tools_called,
            estimated_cost_usd=header.spent_micros / 1_000_000,
            tokens=Tokens(input=header.input_tokens, output=header.output_tokens),
            risk_level=_risk(header),
            guards_fired=header.guards_fired,
            feedback=header.feedback,
            created_at=header.created_at,
            updated_at=header.updated_at,
            ended_at=header.ended_at,
            deadline_at=header.deadline_at,
        )


def _risk(header: RunHeader) -> RiskLevel:
    of_guards: list[RiskLevel] = ["medium"] if header.guards_fired else []
    return max([*(_RISK[effect] for effect in header.effects), *of_guards], key=_RISK_ORDER.index, default="low")


def require_own_run(log: RunLog, principal: Principal, run_id: str) -> RunHeader:
    """Return the run's header if it is this person's.

    Missing, another tenant's and a colleague's are one answer, reached by the same calls: the tenant is part of the
    key that is read, and the user is compared on what was read.

    Raises:
        NotFound: there is no such run for this principal.
    """
    try:
        _RUN_ID.validate_python(run_id)
    except ValidationError:
        header = None  # no key is ever made of a text that is no id
    else:
        header = log.header(principal.tenant_id, run_id)
    if header is None or header.user_id != principal.user_id:
        raise NotFound("there is no run with this id", field="path.run_id")
    return header
