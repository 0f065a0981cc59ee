"""Limits in the control table: an item for each scope that operators have set something for.

`agent.testing.limits.MemoryLimitBook` is the twin, held to the same contract suite. What is read is kept for `CACHE_S`
seconds, so a change holds everywhere that much later, and a busy function reads one batch in that time, not one a run.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from agent.aws.dynamodb import Backoff, Item, batch_get, store_errors
from agent.limits import NAMES, LimitName, Limits, LimitScope, scopes
from agent.ports import Clock

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
        self._known: dict[tuple[str, str], tuple[float, Limits]] = {}

    def of(self, tenant_id: str, user_id: str = "") -> Limits:
        """See `ports.LimitBook`. One call in five seconds for each user."""
        now = self._clock.monotonic()
        read_at, limits = self._known.get((tenant_id, user_id), (now - CACHE_S, self._defaults))
        if now - read_at < CACHE_S:
            return limits
        asked = scopes(tenant_id, user_id)
        rows = batch_get(self._client, self._table, [_key(scope) for scope in asked], backoff=self._backoff)
        found = {row["pk"]["S"]: _to_overrides(row) for row in rows}
        limits = self._defaults.overridden(found.get(scope.key, {}) for scope in asked)
        if len(self._known) >= MAX_CACHED:
            self._known.clear()
        self._known[tenant_id, user_id] = now, limits
        return limits

    def overrides(self, scope: LimitScope) -> Mapping[LimitName, int]:
        """See `ports.LimitBook`."""
        return next(map(_to_overrides, batch_get(self._client, self._table, [_key(scope)], backoff=self._backoff)), {})

    def change(self, scope: LimitScope, name: LimitName, value: int | None) -> None:
        """See `ports.LimitBook`."""
        scope.require(name, value)
        with store_errors():
            if value is None:
                self._client.update_item(
                    TableName=self._table,
                    Key=_key(scope),
                    UpdateExpression="REMOVE #name",
                    ExpressionAttributeNames={"#name": name},
                )
            else:
                self._client.update_item(
                    TableName=self._table,
                    Key=_key(scope),
                    UpdateExpression="SET #name = :value",
                    ExpressionAttributeNames={"#name": name},
                    ExpressionAttributeValues={":value": {"N": str(value)}},
                )


def _key(scope: LimitScope) -> dict[str, dict[str, str]]:
    return {"pk": {"S": scope.key}, "sk": SORT_KEY}


def _to_overrides(row: Item) -> dict[LimitName, int]:
    return {name: int(row[name]["N"]) for name in NAMES if name in row}
