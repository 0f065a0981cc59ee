"""Allowances on DynamoDB, in the ledger's table. `agent.testing.allowances.MemoryAllowances` is the twin.

Taking is one transaction: it raises a counter for each allowance, on the condition that the limit is not exceeded, and
puts the call's own item, on the condition that there is none. So a call takes everything or nothing, and once. What a
counter must not exceed is computed here from the limit of the moment, so a changed limit holds with the next taking.

A tenant's counter is one item, not spread over shards: a call of a tool that is counted costs one transaction, as often
as a run of the same tenant asks for money, and holds the item for some milliseconds. From a few dozen such calls a
second on, transactions begin to meet and are repeated, with jitter and a bound: a tenant that needs more declares no
tenant-wide allowance for that tool.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ulid import ULID

from agent.aws.dynamodb import Backoff, Item, batch_get, transact
from agent.errors import LogMoved
from agent.limits import Allowance
from agent.ports.limits import LimitBook, Reached, Taking

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

CALL_LIFE = timedelta(days=30)
"""Far beyond the longest run."""
COUNTER_LIFE = timedelta(days=60)
"""Longer than a call's item: what it took can be given back to where it came from."""

CALL = 0
"""The position of the call's own item in its transaction, before the counters."""


@dataclass(frozen=True)
class _Counter:
    """One item that counts: what is used up of an allowance in one window."""

    name: str
    pk: str
    sk: str
    amount: int

    @property
    def key(self) -> dict[str, Any]:
        return {"pk": {"S": self.pk}, "sk": {"S": self.sk}}


class DynamoDbAllowances:
    """`ports.Allowances` on the ledger's table."""

    def __init__(
        self, client: "DynamoDBClient", table: str, limits: LimitBook, *, backoff: Backoff | None = None
    ) -> None:
        self._client = client
        self._table = table
        self._limits = limits
        self._backoff = backoff or Backoff()

    def take(self, taking: Taking, *, at: datetime) -> Reached | None:
        """See `ports.Allowances`. One call."""
        limits = self._limits.of(taking.tenant_id, taking.user_id)
        counters = [
            _counter(taking.tenant_id, taking.user_id, taking.tool, name, at, amount)
            for name, amount in taking.uses.items()
            if amount > 0
        ]
        room = [limits.allowance(taking.tool, counter.name) - counter.amount for counter in counters]
        raised = [self._raise(counter, most, at) for counter, most in zip(counters, room, strict=True)]
        refused = self._commit([self._put_call(taking, counters, at), *raised])
        if CALL in refused:
            if "given_back" in refused[CALL]:
                raise LogMoved(f"{taking.run_id} is over: what its calls took was given back")
            return None
        if not refused:
            return None
        name = counters[min(refused) - 1].name
        return Reached(name, limits.allowance(taking.tool, name), Allowance.parse(name).renews_at(at))

    def give_back(self, tenant_id: str, run_id: str, call_id: str, *, at: datetime) -> None:
        """See `ports.Allowances`. One call for what was never taken, two for what was."""
        closing = {**_call_key(tenant_id, run_id, call_id), "given_back": {"BOOL": True}, "expires_at": _life(at)}
        found = self._commit([self._put_new(closing)]).get(CALL)
        if found is None or "given_back" in found:
            return
        close = {
            "TableName": self._table,
            "Key": _call_key(tenant_id, run_id, call_id),
            "UpdateExpression": "SET given_back = :yes",
            "ConditionExpression": "attribute_not_exists(given_back)",  # else somebody was faster
            "ExpressionAttributeValues": {":yes": {"BOOL": True}},
        }
        self._commit([{"Update": close}, *(self._lower(taken["M"]) for taken in found["counters"]["L"])])

    def used(self, tenant_id: str, user_id: str, tool: str, names: Sequence[str], *, at: datetime) -> dict[str, int]:
        """See `ports.Allowances`. One call."""
        counters = [_counter(tenant_id, user_id, tool, name, at) for name in names]
        rows = batch_get(self._client, self._table, [c.key for c in counters], backoff=self._backoff)
        used = {(row["pk"]["S"], row["sk"]["S"]): int(row["used"]["N"]) for row in rows}
        return {counter.name: used.get((counter.pk, counter.sk), 0) for counter in counters}

    def _raise(self, counter: _Counter, room: int, at: datetime) -> dict[str, Any]:
        # A call that exceeds the limit by itself must not pass as the first of its window.
        fits = "used <= :room" if room < 0 else "attribute_not_exists(used) OR used <= :room"
        return {
            "Update": {
                "TableName": self._table,
                "Key": counter.key,
                "UpdateExpression": "SET used = if_not_exists(used, :zero) + :amount, "
                "expires_at = if_not_exists(expires_at, :expires)",
                "ConditionExpression": fits,
                "ExpressionAttributeValues": {
                    ":zero": {"N": "0"},
                    ":amount": {"N": str(counter.amount)},
                    ":room": {"N": str(room)},
                    ":expires": {"N": str(int((at + COUNTER_LIFE).timestamp()))},
                },
            }
        }

    def _lower(self, taken: Item) -> dict[str, Any]:
        return {
            "Update": {
                "TableName": self._table,
                "Key": {"pk": taken["pk"], "sk": taken["sk"]},
                "UpdateExpression": "SET used = used - :amount",
                "ExpressionAttributeValues": {":amount": taken["amount"]},
            }
        }

    def _put_call(self, taking: Taking, counters: Sequence[_Counter], at: datetime) -> dict[str, Any]:
        taken = [{"M": {**counter.key, "amount": {"N": str(counter.amount)}}} for counter in counters]
        key = _call_key(taking.tenant_id, taking.run_id, taking.call_id)
        return self._put_new({**key, "counters": {"L": taken}, "expires_at": _life(at)})

    def _put_new(self, item: dict[str, Any]) -> dict[str, Any]:
        put = {"TableName": self._table, "Item": item, "ConditionExpression": "attribute_not_exists(pk)"}
        return {"Put": {**put, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}}

    def _commit(self, writes: Sequence[Any]) -> dict[int, Item]:
        return transact(self._client, writes, token=str(ULID()), backoff=self._backoff)


def _counter(tenant_id: str, user_id: str, tool: str, name: str, at: datetime, amount: int = 0) -> _Counter:
    allowance = Allowance.parse(name)
    whose = f"user#{tenant_id}#{user_id}" if allowance.sharer == "user" else f"tenant#{tenant_id}"
    pk = f"A#{whose}#{tool}.{allowance.what}"
    return _Counter(name, pk, f"{allowance.window}#{allowance.period(at)}", amount)


def _call_key(tenant_id: str, run_id: str, call_id: str) -> dict[str, Any]:
    return {"pk": {"S": f"A#run#{tenant_id}#{run_id}"}, "sk": {"S": call_id}}


def _life(at: datetime) -> dict[str, str]:
    return {"N": str(int((at + CALL_LIFE).timestamp()))}
