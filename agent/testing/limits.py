"""Limits in memory: the twin of `agent.aws.limits.DynamoDbLimitBook`, held to the same contract suite."""

import threading
from collections.abc import Mapping

from agent.limits import LimitName, Limits, LimitScope, scopes

AMPLE = Limits(10**12, 10**12, 10**12, user_runs=10_000, tenant_runs=10_000, tenant_jobs=10_000)
"""A million dollars each, for tests about something else."""


class MemoryLimitBook:
    """`ports.LimitBook` for tests: what is changed holds at once."""

    def __init__(self, defaults: Limits = AMPLE) -> None:
        self.defaults = defaults
        self._lock = threading.Lock()
        self._overrides: dict[LimitScope, dict[LimitName, int]] = {}

    def of(self, tenant_id: str, user_id: str = "") -> Limits:
        """See `ports.LimitBook`."""
        with self._lock:
            return self.defaults.overridden(self._overrides.get(scope, {}) for scope in scopes(tenant_id, user_id))

    def overrides(self, scope: LimitScope) -> Mapping[LimitName, int]:
        """See `ports.LimitBook`."""
        with self._lock:
            return dict(self._overrides.get(scope, {}))

    def change(self, scope: LimitScope, name: LimitName, value: int | None) -> None:
        """See `ports.LimitBook`."""
        scope.require(name, value)
        with self._lock:
            own = self._overrides.setdefault(scope, {})
            if value is None:
                own.pop(name, None)
            else:
                own[name] = value
