"""What may be used: limits as operators set them, and the allowances that the calls of a tool use up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from agent.limits import LimitName, Limits, LimitScope


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
