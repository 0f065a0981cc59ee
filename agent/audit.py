"""The audit of what operators change: one entry for each change of a switch or a limit, and for each new release.

An entry is written in the transaction that makes the change, so there is neither without the other, and never changed.
What happens in runs (decisions, effects, approvals) stands in their logs, not here.
"""

from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from ulid import ULID

from agent.controls import Board, Switch, Target
from agent.events import at_utc
from agent.limits import LimitScope

Side = Literal["platform", "tenant"]

Action = Literal["switch_on", "switch_off", "set_limit", "unset_limit", "deploy"]

MAX_REASON = 500
MAX_PAGE = 100
ID = r"^[0-9TZ:.-]{24}_[0-9A-Z]{26}$"
"""What an id looks like, and so where a page can begin."""


class Change(BaseModel):
    """One entry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    """Sorts by time; a cursor for reading on."""
    at: AwareDatetime
    tenant_id: str = ""
    """Whose runs it is for; empty: everybody's."""
    by: str
    """Who did it: of a tenant's operators the user id, of the platform's the ARN that AWS vouches for."""
    side: Side
    action: Action
    subject: str = Field(max_length=300)
    """What was changed, such as `tool:issue_refund` or `user_runs of ann`."""
    reason: str = Field(default="", max_length=MAX_REASON)
    before: str | None = None
    """As JSON; None where there was nothing."""
    after: str | None = None
    version: int = 0
    """Of the switches or limits that were changed, after it: counts up by one with each change."""


def new_id(at: datetime) -> str:
    """Return the id of a change made at a time."""
    return f"{at_utc(at)}_{ULID()}"


def key(tenant_id: str) -> str:
    """Return where a tenant's changes, or with an empty id the platform's, are kept."""
    return f"AUDIT#T#{tenant_id}" if tenant_id else "AUDIT#PLATFORM"


def of_switch(
    board: Board, target: Target, before: Switch | None, after: Switch | None, *, by: str, reason: str, at: datetime
) -> Change:
    """Return the entry about a switch that was put on a board, or with None taken off it."""
    return Change(
        id=new_id(at),
        at=at,
        tenant_id=board.tenant_id,
        by=by,
        side="tenant" if board.by_tenant else "platform",
        action="switch_on" if after else "switch_off",
        subject=target.id,
        reason=reason,
        before=before.model_dump_json() if before else None,
        after=after.model_dump_json() if after else None,
    )


def of_limit(
    scope: LimitScope, name: str, before: int | None, after: int | None, *, by: str, reason: str, at: datetime
) -> Change:
    """Return the entry about a limit that was set for a scope, or with None unset."""
    return Change(
        id=new_id(at),
        at=at,
        tenant_id=scope.tenant_id,
        by=by,
        side="tenant" if scope.by_tenant else "platform",
        action="set_limit" if after is not None else "unset_limit",
        subject=f"{name} of {scope.user_id}" if scope.user_id else name,
        reason=reason,
        before=None if before is None else str(before),
        after=None if after is None else str(after),
    )
