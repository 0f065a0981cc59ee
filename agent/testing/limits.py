"""Limits in memory: the twin of `agent.aws.limits.DynamoDbLimitBook`, held to the same contract suite."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent import audit
from agent.limits import LimitName, Limits, LimitScope, own_scopes, require_below, scopes
from agent.ports.clock import Clock
from agent.testing.audit import MemoryAuditTrail
from agent.testing.clock import FakeClock
from agent.tools import Tool

AMPLE = Limits(10**12, 10**12, 10**12, user_runs=10_000, tenant_runs=10_000, tenant_jobs=10_000)
"""A million dollars each, for tests about something else."""


def ample(tools: Mapping[str, Tool[Any]], limits: Limits = AMPLE) -> Limits:
    """Return these limits, with more than enough of each allowance of the tools that they say nothing about."""
    declared = [f"{name}.{allowance}" for name, tool in tools.items() for allowance in tool.contract.allowances]
    return replace(limits, allowances={**dict.fromkeys(declared, 10**12), **limits.allowances})


class MemoryLimitBook:
    """`ports.LimitBook` for tests: what is changed holds at once."""

    def __init__(
        self, defaults: Limits = AMPLE, *, clock: Clock | None = None, audit: MemoryAuditTrail | None = None
    ) -> None:
        self.defaults = defaults
        self.clock = clock or FakeClock()
        self.audit = audit or MemoryAuditTrail()
        self._lock = threading.Lock()
        self._overrides: dict[LimitScope, dict[LimitName, int]] = {}

    def of(self, tenant_id: str, user_id: str = "") -> Limits:
        """See `ports.LimitBook`."""
        with self._lock:
            own = [self._overrides.get(scope, {}) for scope in own_scopes(tenant_id, user_id)]
            return self._ceilings(tenant_id, user_id).capped(own)

    def _ceilings(self, tenant_id: str, user_id: str) -> Limits:
        return self.defaults.overridden(self._overrides.get(scope, {}) for scope in scopes(tenant_id, user_id))

    def overrides(self, scope: LimitScope) -> Mapping[LimitName, int]:
        """See `ports.LimitBook`."""
        with self._lock:
            return dict(self._overrides.get(scope, {}))

    def change(
        self,
        scope: LimitScope,
        name: LimitName,
        value: int | None,
        *,
        by: str = "somebody",
        reason: str = "for a test",
    ) -> None:
        """See `ports.LimitBook`."""
        scope.require(name, value, known=self.defaults)
        with self._lock:
            if scope.by_tenant and value is not None:
                require_below(self._ceilings(scope.tenant_id, scope.user_id), name, value)
            own = self._overrides.setdefault(scope, {})
            before = own.pop(name, None)
            if value is not None:
                own[name] = value
            change = audit.of_limit(scope, name, before, value, by=by, reason=reason, at=self.clock.now())
            version = self.audit.next_version(scope.key)
        self.audit.note(change.model_copy(update={"version": version}))
