"""The ledger in memory: the twin of `agent.aws.ledger.DynamoDbLedger`, held to the same contract suite."""

import threading
from dataclasses import dataclass
from datetime import datetime

from agent.limits import POOLS, Limits, Pool, period
from agent.ports import Balance, Grant, Scope
from agent.runlog import RunHeader

Account = tuple[Pool, str, str]
"""Pool, whose, and the period."""


@dataclass(frozen=True)
class _Taken:
    amount_micros: int
    accounts: tuple[Account, ...]


AMPLE = Limits(10**12, 10**12, 10**12)
"""A million dollars each, for tests about something else."""


class MemoryLedger:
    """`ports.Ledger` for tests: one lock in the place of transactions."""

    def __init__(self, limits: Limits = AMPLE) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._remaining: dict[Account, int] = {}
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
            remaining = [self._remaining.setdefault(a, self.limits.of(a[0])) for a in accounts]
            amount = grant.want_micros if min(remaining) >= grant.want_micros else grant.need_micros
            for account, left in zip(accounts, remaining, strict=True):
                if left < amount:
                    return account[0]
            for account in accounts:
                self._remaining[account] -= amount
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
                    self._remaining[account] += back

    def balances(self, tenant_id: str, user_id: str, *, at: datetime) -> dict[Scope, Balance]:
        """See `ports.Ledger`."""
        with self._lock:
            return {
                account[0]: Balance(
                    self.limits.of(account[0]), self._remaining.get(account, self.limits.of(account[0]))
                )
                for account in _accounts(tenant_id, user_id, at)
            }


def _accounts(tenant_id: str, user_id: str, at: datetime) -> tuple[Account, ...]:
    whose: dict[Pool, str] = {"user": f"{tenant_id}#{user_id}", "tenant": tenant_id, "platform": ""}
    return tuple((pool, whose[pool], period(pool, at)) for pool in POOLS)
