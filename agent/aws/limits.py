"""Limits in the control table: an item for each scope that operators have set something for.

`agent.testing.limits.MemoryLimitBook` is the twin, held to the same contract suite. What is read is kept for `CACHE_S`
seconds, so a change holds everywhere that much later, and a busy function reads one batch in that time, not one a run.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agent import audit
from agent.audit import Change
from agent.aws.audit import DynamoDbAuditTrail
from agent.aws.dynamodb import Backoff, Item, batch_get
from agent.limits import NAMES, LimitName, Limits, LimitScope, own_scopes, require_below, scopes
from agent.ports.clock import Clock

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

CACHE_S = 5.0
MAX_CACHED = 1_000
SORT_KEY = {"S": "LIMITS"}


class DynamoDbLimitBook:
    """`ports.LimitBook` on the control table."""

    def __init__(
        self,
        client: "DynamoDBClient",
        table: str,
        defaults: Limits,
        *,
        clock: Clock,
        backoff: Backoff | None = None,
    ) -> None:
        self._client = client
        self._table = table
        self._defaults = defaults
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._audit = DynamoDbAuditTrail(client, table, backoff=self._backoff)
        self._known: dict[tuple[str, str], tuple[float, Limits]] = {}

    def of(self, tenant_id: str, user_id: str = "") -> Limits:
        """See `ports.LimitBook`. One call in five seconds for each user."""
        now = self._clock.monotonic()
        read_at, limits = self._known.get((tenant_id, user_id), (now - CACHE_S, self._defaults))
        if now - read_at < CACHE_S:
            return limits
        asked, own = scopes(tenant_id, user_id), own_scopes(tenant_id, user_id)
        rows = batch_get(self._client, self._table, [_key(scope) for scope in (*asked, *own)], backoff=self._backoff)
        found = {row["pk"]["S"]: _to_overrides(row) for row in rows}
        limits = self._defaults.overridden(found.get(scope.key, {}) for scope in asked)
        limits = limits.capped(found.get(scope.key, {}) for scope in own)
        if len(self._known) >= MAX_CACHED:
            self._known.clear()
        self._known[tenant_id, user_id] = now, limits
        return limits

    def overrides(self, scope: LimitScope) -> Mapping[LimitName, int]:
        """See `ports.LimitBook`."""
        return next(map(_to_overrides, batch_get(self._client, self._table, [_key(scope)], backoff=self._backoff)), {})

    def change(self, scope: LimitScope, name: LimitName, value: int | None, *, by: str, reason: str) -> None:
        """See `ports.LimitBook`."""
        scope.require(name, value, known=self._defaults)
        if scope.by_tenant and value is not None:
            asked = scopes(scope.tenant_id, scope.user_id)
            rows = batch_get(self._client, self._table, [_key(wider) for wider in asked], backoff=self._backoff)
            found = {row["pk"]["S"]: _to_overrides(row) for row in rows}
            require_below(self._defaults.overridden(found.get(wider.key, {}) for wider in asked), name, value)
        now = self._clock.now()

        def edit(row: Item, version: int) -> tuple[dict[str, Any], Change]:
            before = _to_overrides(row)
            after = {other: number for other, number in {**before, name: value}.items() if number is not None}
            change = audit.of_limit(scope, name, before.get(name), value, by=by, reason=reason, at=now)
            attributes = {str(other): {"N": str(number)} for other, number in after.items()}
            return attributes, change.model_copy(update={"version": version})

        self._audit.alter(_key(scope), edit)
        self._known.clear()


def _key(scope: LimitScope) -> dict[str, dict[str, str]]:
    return {"pk": {"S": scope.key}, "sk": SORT_KEY}


def _to_overrides(row: Item) -> dict[LimitName, int]:
    return {name: int(value["N"]) for name, value in row.items() if name in NAMES or "." in name}
