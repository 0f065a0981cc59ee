"""Circuit breakers in the control table, under `BREAKER#<name>`.

The item `STATE` holds the moment an open breaker's time is up, `open_until`; a probe moves it on, on the condition that
it stands as it was seen, so of all callers one wins. Failures are counted in one item a window, with a single write.

What a call costs: a read, unless this process has read the breaker within two seconds; a write where it failed.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from agent.aws.dynamodb import Item, store_errors
from agent.errors import TryLater
from agent.ports.breakers import BreakerRules
from agent.ports.clock import Clock

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

logger = logging.getLogger(__name__)

T = TypeVar("T")

REFRESH_S = 2.0
KEPT_S = 3600
"""How long a window's count stays, for whoever looks; TTL removes it."""


class DynamoDbBreakers:
    """`ports.Breakers` of one process. Times are stored in milliseconds since 1970."""

    def __init__(self, client: "DynamoDBClient", table: str, rules: BreakerRules, clock: Clock) -> None:
        self._client = client
        self._table = table
        self._rules = rules
        self._clock = clock
        self._seen: dict[str, tuple[float, int | None]] = {}
        """By name: when it was read (monotonic), and `open_until`."""
        self._probes: dict[str, int] = {}

    def admits(self, name: str, *, patience_s: float) -> bool:
        """See `ports.Breakers`."""
        until, now = self._open_until(name), self._now_ms()
        if until is None:
            return True
        if now < until:
            return False
        mine = now + round(patience_s * 1000)
        if not self._move(name, until, mine):
            # Another one is the probe; or was, and has closed the breaker since this process looked.
            return self._open_until(name) is None
        self._probes[name] = mine
        return True

    def is_open(self, name: str) -> bool:
        """See `ports.Breakers`."""
        until = self._open_until(name)
        return until is not None and self._now_ms() < until

    def failed(self, name: str) -> None:
        """See `ports.Breakers`."""
        now = self._now_ms()
        opened = now + self._rules.open_s * 1000
        probe = self._probes.pop(name, None)
        if probe is not None:
            self._move(name, probe, opened)
        elif self._count(name, now) >= self._rules.failures:
            self._move(name, None, opened)

    def gave_up(self, name: str) -> None:
        """See `ports.Breakers`."""
        probe = self._probes.pop(name, None)
        if probe is not None:
            self._move(name, probe, self._now_ms())

    def succeeded(self, name: str) -> None:
        """See `ports.Breakers`."""
        probe = self._probes.pop(name, None)
        if probe is not None:
            self._move(name, probe, None)

    def _open_until(self, name: str) -> int | None:
        read_at, until = self._seen.get(name, (float("-inf"), None))
        if self._clock.monotonic() - read_at < REFRESH_S:
            return until

        def read() -> int | None:
            return _to_until(self._client.get_item(TableName=self._table, Key=_key(name, "STATE")).get("Item", {}))

        return self._remember(name, self._patiently(read, until))

    def _count(self, name: str, now: int) -> int:
        """Count a failure and return how many this window has."""
        window = now // 1000 // self._rules.window_s

        def add() -> int:
            answer = self._client.update_item(
                TableName=self._table,
                Key=_key(name, f"FAILED#{window}"),
                UpdateExpression="ADD failures :one SET expires_at = :expires",
                ExpressionAttributeValues={":one": {"N": "1"}, ":expires": {"N": str(now // 1000 + KEPT_S)}},
                ReturnValues="ALL_NEW",
            )
            return int(answer["Attributes"]["failures"]["N"])

        return self._patiently(add, 0)

    def _move(self, name: str, before: int | None, after: int | None) -> bool:
        """Change `open_until`; False where it is not `before` any more."""
        condition = "attribute_not_exists(open_until)" if before is None else "open_until = :before"
        values = {":before": before, ":after": after}
        given: dict[str, Any] = {key: {"N": str(value)} for key, value in values.items() if value is not None}

        def change() -> bool:
            more: Any = {"ExpressionAttributeValues": given} if given else {}
            try:
                self._client.update_item(
                    TableName=self._table,
                    Key=_key(name, "STATE"),
                    UpdateExpression="REMOVE open_until" if after is None else "SET open_until = :after",
                    ConditionExpression=condition,
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                    **more,
                )
            except self._client.exceptions.ConditionalCheckFailedException as refused:
                self._seen.pop(name, None)
                stands: Any = refused.response.get("Item")
                if stands:
                    self._remember(name, _to_until(stands))
                return False
            self._remember(name, after)
            return True

        return self._patiently(change, before is not None)

    def _remember(self, name: str, until: int | None) -> int | None:
        self._seen[name] = (self._clock.monotonic(), until)
        return until

    def _patiently(self, act: Callable[[], T], otherwise: T) -> T:
        """Return what `act` does, or `otherwise` while the table does not answer: calls go on without a breaker."""
        try:
            with store_errors():
                return act()
        except TryLater as trouble:
            logger.warning("a breaker could not be reached", extra={"error": trouble.code})
            return otherwise

    def _now_ms(self) -> int:
        return round(self._clock.now().timestamp() * 1000)


def _to_until(item: Item) -> int | None:
    return int(item["open_until"]["N"]) if "open_until" in item else None


def _key(name: str, item: str) -> dict[str, Any]:
    return {"pk": {"S": f"BREAKER#{name}"}, "sk": {"S": item}}
