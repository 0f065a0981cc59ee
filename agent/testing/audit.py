"""The audit in memory: the twin of `agent.aws.audit.DynamoDbAuditTrail`, held to the same contract suite."""

import threading

from agent.audit import Change


class MemoryAuditTrail:
    """`ports.AuditTrail` for tests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes: dict[str, Change] = {}
        self._versions: dict[str, int] = {}

    def changes(self, tenant_id: str, *, limit: int, before: str | None = None) -> tuple[list[Change], str | None]:
        """See `ports.AuditTrail`."""
        with self._lock:
            mine = sorted((c for c in self._changes.values() if c.tenant_id == tenant_id), key=lambda c: c.id)
        older = [change for change in reversed(mine) if before is None or change.id < before]
        return older[:limit], older[limit - 1].id if len(older) > limit else None

    def note(self, change: Change) -> None:
        """See `ports.AuditTrail`."""
        with self._lock:
            self._changes.setdefault(change.id, change)

    def next_version(self, kept_under: str) -> int:
        """Return the number of the next change of what is kept under this key."""
        with self._lock:
            self._versions[kept_under] = self._versions.get(kept_under, 0) + 1
            return self._versions[kept_under]
