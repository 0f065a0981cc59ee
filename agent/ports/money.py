"""The ledger of what users, tenants and the platform may spend."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from agent.run_header import RunHeader

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
