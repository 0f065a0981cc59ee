"""The ledger in memory: the twin of `agent.aws.ledger.DynamoDbLedger`, held to the same contract suite."""

import threading
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from agent.limits import POOLS, Pool, period
from agent.ports.limits import LimitBook
from agent.ports.money import Balance, Grant, Scope
from agent.run_header import RunHeader
from agent.testing.limits import MemoryLimitBook

Account = tuple[Pool, str, str]
"""Pool, whose, and the period."""


@dataclass(frozen=True)
class _Taken:
    amount_micros: int
    accounts: tuple[Account, ...]


class MemoryLedger:
    """`ports.Ledger` for tests: one lock in the place of transactions."""

    def __init__(self, limits: LimitBook | None = None) -> None:
        self._limits = limits or MemoryLimitBook()
        self._lock = threading.Lock()
        self._spent: Counter[Account] = Counter()
        self._grants: dict[tuple[str, str], list[_Taken]] = {}
        self._closed: set[tuple[str, str]] = set()

    def grant(self, grant: Grant, *, at: datetime) -> int | Scope:
        """See `ports.Ledger`."""
        with self._lock:
            taken = self._grants.setdefault((grant.tenant_id, grant.run_id), [])
            if grant.number <= len(taken):
                return taken[grant.number - 1].amount_micros
            if (grant.tenant_id, grant.run_id) in self._closed:
                return 0
            if grant.number != len(taken) + 1:
                raise ValueError(f"grant {grant.number} before grant {len(taken) + 1}")
            accounts = _accounts(grant.tenant_id, grant.user_id, at)
            limits = self._limits.of(grant.tenant_id, grant.user_id)
            remaining = [limits.of(account[0]) - self._spent[account] for account in accounts]
            amount = grant.want_micros if min(remaining) >= grant.want_micros else grant.need_micros
            for account, left in zip(accounts, remaining, strict=True):
                if left < amount:
                    return account[0]
            for account in accounts:
                self._spent[account] += amount
            taken.append(_Taken(amount, accounts))
            return amount

    def give_back(self, header: RunHeader, *, at: datetime) -> None:  # noqa: ARG002 - the port's; no TTL here
        """See `ports.Ledger`."""
        run = (header.tenant_id, header.run_id)
        with self._lock:
            if run in self._closed:
                return
            self._closed.add(run)
            taken = self._grants.get(run, [])
            used = header.granted_micros - header.slice_micros
            left = sum(t.amount_micros for t in taken) - used
            for grant in reversed(taken):
                back = max(0, min(left, grant.amount_micros))
                left -= back
                for account in grant.accounts:
                    self._spent[account] -= back

    def own_balances(self, tenant_id: str, user_id: str, *, at: datetime) -> dict[Scope, Balance]:
        """See `ports.Accounts`."""
        found = self.balances(tenant_id, user_id, at=at)
        return {scope: found[scope] for scope in (("user", "tenant") if user_id else ("tenant",))}

    def balances(self, tenant_id: str, user_id: str, *, at: datetime) -> dict[Scope, Balance]:
        """See `ports.Ledger`."""
        limits = self._limits.of(tenant_id, user_id)
        with self._lock:
            return {
                account[0]: Balance(limits.of(account[0]), max(0, limits.of(account[0]) - self._spent[account]))
                for account in _accounts(tenant_id, user_id, at)
            }


def _accounts(tenant_id: str, user_id: str, at: datetime) -> tuple[Account, ...]:
    whose: dict[Pool, str] = {"user": f"{tenant_id}#{user_id}", "tenant": tenant_id, "platform": ""}
    return tuple((pool, whose[pool], period(pool, at)) for pool in POOLS)
