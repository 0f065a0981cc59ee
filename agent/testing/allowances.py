"""Allowances in memory: the twin of `agent.aws.allowances.DynamoDbAllowances`, held to the same contract suite."""

import threading
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from agent.errors import LogMoved
from agent.limits import Allowance
from agent.ports.limits import LimitBook, Reached, Taking
from agent.testing.limits import MemoryLimitBook

Key = tuple[str, ...]
"""Whose, the tool, the allowance, and the window."""


class MemoryAllowances:
    """`ports.Allowances` for tests: one lock in the place of transactions."""

    def __init__(self, limits: LimitBook | None = None) -> None:
        self._limits = limits or MemoryLimitBook()
        self._lock = threading.Lock()
        self._used: Counter[Key] = Counter()
        self._taken: dict[tuple[str, str, str], Counter[Key] | None] = {}
        """By tenant, run and call; None where it was given back."""

    def take(self, taking: Taking, *, at: datetime) -> Reached | None:
        """See `ports.Allowances`."""
        limits = self._limits.of(taking.tenant_id, taking.user_id)
        call = (taking.tenant_id, taking.run_id, taking.call_id)
        with self._lock:
            if call in self._taken:
                if self._taken[call] is None:
                    raise LogMoved(f"{taking.run_id} is over: what its calls took was given back")
                return None
            taken = Counter[Key]()
            for name, amount in taking.uses.items():
                key = _key(taking.tenant_id, taking.user_id, taking.tool, name, at)
                limit = limits.allowance(taking.tool, name)
                if amount > 0 and self._used[key] + amount > limit:
                    return Reached(name, limit, Allowance.parse(name).renews_at(at))
                taken[key] += amount
            self._used += taken
            self._taken[call] = taken
            return None

    def give_back(self, tenant_id: str, run_id: str, call_id: str, *, at: datetime) -> None:  # noqa: ARG002 - no TTL
        """See `ports.Allowances`."""
        with self._lock:
            taken = self._taken.get((tenant_id, run_id, call_id))
            self._used.subtract(taken or {})
            self._taken[tenant_id, run_id, call_id] = None

    def used(self, tenant_id: str, user_id: str, tool: str, names: Sequence[str], *, at: datetime) -> dict[str, int]:
        """See `ports.Allowances`."""
        with self._lock:
            return {name: self._used[_key(tenant_id, user_id, tool, name, at)] for name in names}


def _key(tenant_id: str, user_id: str, tool: str, name: str, at: datetime) -> Key:
    allowance = Allowance.parse(name)
    whose = (tenant_id, user_id) if allowance.sharer == "user" else (tenant_id,)
    return (*whose, tool, name, allowance.period(at))
