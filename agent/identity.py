"""Who a run belongs to, and the shapes of every id. Claims become a `Principal` in the doors, not here."""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

TenantId = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
UserId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@+-]{1,128}$")]
RunId = Annotated[str, Field(pattern=r"^run_[0-9A-HJKMNP-TV-Z]{26}$")]
SessionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(pattern=r"^call_[0-9]{1,4}_[0-9]{1,3}$")]
ApprovalId = Annotated[str, Field(pattern=r"^(apr|res)_[0-9A-HJKMNP-TV-Z]{26}_[0-9]{1,4}_[0-9]{1,3}$")]
"""Of an approval, or of a resolution: one call may need first the one, and later the other."""


class Role(StrEnum):
    """What a signed-in person may be, as the group's name in the user pool. The platform operator is none of these."""

    USER = "user"
    APPROVER = "approver"
    OPERATOR = "operator"


class Principal(BaseModel):
    """A person of a tenant, from verified claims only; stored on the run and never shown to the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant_id: TenantId
    user_id: UserId
    roles: frozenset[Role]


def call_id(turn: int, index: int) -> str:
    """Return Keepgate's own id of a tool call (providers repeat theirs): `call_<turn>_<index>`."""
    return f"call_{turn}_{index}"


def idempotency_key(run_id: str, call_id: str) -> str:
    """Return the key under which a call acts on the world, however often it is started: `run_id/call_id`."""
    return f"{run_id}/{call_id}"


def approval_id(run_id: str, call_id: str) -> str:
    """Return the id of a call's approval, which names run and call: `apr_<of the run>_<turn>_<index>`."""
    return f"apr_{run_id.removeprefix('run_')}_{call_id.removeprefix('call_')}"


def resolution_id(run_id: str, call_id: str) -> str:
    """Return the id of the question what became of a call: as `approval_id`, with `res` in front."""
    return f"res_{run_id.removeprefix('run_')}_{call_id.removeprefix('call_')}"


def run_of_approval(approval_id: str) -> str:
    """Return the run that an approval's or a resolution's id names. The id must have been validated."""
    return f"run_{approval_id.split('_')[1]}"


def message_id(turn: int, attempt: int) -> str:
    """Return the id of an answer's message; a repeated attempt is another message: `msg_<turn>_<attempt>`."""
    return f"msg_{turn}_{attempt}"
