"""The tenants' lines of queued calls, on the runs table. `agent.testing.job_lines.MemoryJobLines` is the twin.

A tenant has a partition: a row for each call that is not sent, in the order in which they came, and one item with the
slots: the set of calls that are in the queue, or about to be. Rows and slots move in the run log's transactions
(`moves`), so a call that has its result holds neither. Taking a slot marks the row; the row goes once its job is sent.
So a taker that dies in between leaves a marked row, and whoever looks next sends it.
"""

import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ulid import ULID

from agent.aws.dynamodb import Backoff, Item, store_errors, transact
from agent.errors import StoreUnavailable
from agent.events import at_utc
from agent.ports.jobs import JobLine, WaitingJob
from agent.run_header import RunHeader

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

LINE_SHARDS = 4
LOOK_AGAIN = timedelta(seconds=60)
RESEND_AFTER = timedelta(seconds=10)
"""How long sending a job takes at most; sending it twice is harmless."""
PAGE = 25
"""Jobs taken in one go; whoever ends one takes the next."""
MAX_TRIES = 6
"""How often a taker tries again because others took first."""
SLOTS = {"S": "SLOTS"}


def moves(table: str, before: RunHeader, after: RunHeader) -> list[dict[str, Any]]:
    """Return the writes that belong into an append between these headers: calls get in line, or leave line and slot."""
    come, gone = after.jobs.keys() - before.jobs.keys(), before.jobs.keys() - after.jobs.keys()
    if not (come or gone):
        return []
    pk, changes, values = _line_key(after.tenant_id), [], dict[str, Any]()
    if come:
        changes.append("SET due_shard = :shard, due_at = :due")
        values |= _due(after.tenant_id, after.updated_at + LOOK_AGAIN)
    if gone:
        changes.append("DELETE ids :gone")
        values[":gone"] = {"SS": [f"{before.run_id}/{call_id}" for call_id in gone]}
    slots = {
        "TableName": table,
        "Key": {"pk": pk, "sk": SLOTS},
        "UpdateExpression": " ".join(changes),
        "ExpressionAttributeValues": values,
    }
    rows = [{"Put": {"TableName": table, "Item": _row(after, call_id)}} for call_id in come]
    ends = [
        {"Delete": {"TableName": table, "Key": {"pk": pk, "sk": _place(before.jobs[call_id], before.run_id, call_id)}}}
        for call_id in gone
    ]
    return [{"Update": slots}, *rows, *ends]


class DynamoDbJobLines:
    """`ports.JobLines` beside the run log."""

    def __init__(self, client: "DynamoDBClient", table: str, *, backoff: Backoff | None = None) -> None:
        self._client = client
        self._table = table
        self._backoff = backoff or Backoff()

    def take(self, tenant_id: str, *, slots: int, at: datetime) -> list[WaitingJob]:
        """See `ports.JobLines`. Two calls where there is room for all that wait."""
        rows = self._rows(tenant_id, limit=slots + PAGE)
        to_resend = [row for row in rows if "taken_at" in row and row["taken_at"]["S"] <= at_utc(at - RESEND_AFTER)]
        waiting = [row for row in rows if "taken_at" not in row]
        return [_to_job(tenant_id, row) for row in (*to_resend, *self._take(tenant_id, waiting, slots, at))]

    def _take(self, tenant_id: str, waiting: Sequence[Item], slots: int, at: datetime) -> Sequence[Item]:
        """Take slots for the first of these rows, as many as there are."""
        room = min(slots, PAGE)
        for _ in range(MAX_TRIES):
            chosen = waiting[:room]
            if not chosen:
                return []
            writes = [self._fill(tenant_id, chosen, slots), *(self._mark(row, at) for row in chosen)]
            refused = transact(self._client, writes, token=str(ULID()), backoff=self._backoff)
            if not refused:
                return chosen
            if 0 in refused:
                # Below zero where the limit was lowered: as a bound of the slice it would count from the end.
                room = max(0, slots - len(refused[0].get("ids", {}).get("SS", [])))
            lost = {chosen[n - 1]["sk"]["S"] for n in refused if n > 0}
            waiting = [row for row in waiting if row["sk"]["S"] not in lost]
        raise StoreUnavailable(f"no slot was taken in {MAX_TRIES} attempts")

    def sent(self, job: WaitingJob) -> None:
        """See `ports.JobLines`."""
        key = {"pk": _line_key(job.tenant_id), "sk": _place(job.since, job.run_id, job.call_id)}
        with store_errors():
            self._client.delete_item(TableName=self._table, Key=key)

    def due_lines(self, now: datetime, *, limit: int) -> list[JobLine]:
        """See `ports.JobLines`. One call for each shard."""
        found: list[Item] = []
        for number in range(LINE_SHARDS):
            with store_errors():
                answer = self._client.query(
                    TableName=self._table,
                    IndexName="by_due",
                    KeyConditionExpression="due_shard = :shard AND due_at <= :now",
                    ExpressionAttributeValues={":shard": {"S": f"LINE#{number}"}, ":now": {"S": at_utc(now)}},
                    Limit=limit,
                )
            found += answer["Items"]
        due = sorted((row["due_at"]["S"], row["pk"]["S"].split("#")[1]) for row in found)
        return [JobLine(tenant_id, datetime.fromisoformat(due_at)) for due_at, tenant_id in due[:limit]]

    def looked_after(self, line: JobLine, *, at: datetime) -> None:
        """See `ports.JobLines`. A line that got longer meanwhile has another `due_at` and is left as it is."""
        still = self._rows(line.tenant_id, limit=1)
        values = _due(line.tenant_id, at + LOOK_AGAIN) if still else {}
        with store_errors():
            try:
                self._client.update_item(
                    TableName=self._table,
                    Key={"pk": _line_key(line.tenant_id), "sk": SLOTS},
                    UpdateExpression="SET due_shard = :shard, due_at = :due" if still else "REMOVE due_shard, due_at",
                    ConditionExpression="due_at = :seen",
                    ExpressionAttributeValues={**values, ":seen": {"S": at_utc(line.due_at)}},
                )
            except self._client.exceptions.ConditionalCheckFailedException:
                pass
            except self._client.exceptions.TransactionConflictException:
                pass  # somebody is moving it

    def _rows(self, tenant_id: str, *, limit: int) -> list[Item]:
        with store_errors():
            answer = self._client.query(
                TableName=self._table,
                KeyConditionExpression="pk = :pk AND begins_with(sk, :row)",
                ExpressionAttributeValues={":pk": _line_key(tenant_id), ":row": {"S": "W#"}},
                ConsistentRead=True,
                Limit=limit,
            )
        return list(answer["Items"])

    def _fill(self, tenant_id: str, rows: Sequence[Item], slots: int) -> dict[str, Any]:
        return {
            "Update": {
                "TableName": self._table,
                "Key": {"pk": _line_key(tenant_id), "sk": SLOTS},
                "UpdateExpression": "ADD ids :ids",
                "ConditionExpression": "attribute_not_exists(ids) OR size(ids) <= :room",
                "ExpressionAttributeValues": {
                    ":ids": {"SS": [f"{row['run_id']['S']}/{row['call_id']['S']}" for row in rows]},
                    ":room": {"N": str(slots - len(rows))},
                },
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
        }

    def _mark(self, row: Item, at: datetime) -> dict[str, Any]:
        return {
            "Update": {
                "TableName": self._table,
                "Key": {"pk": row["pk"], "sk": row["sk"]},
                "UpdateExpression": "SET taken_at = :at",
                "ConditionExpression": "attribute_exists(pk) AND attribute_not_exists(taken_at)",
                "ExpressionAttributeValues": {":at": {"S": at_utc(at)}},
            }
        }


def _row(header: RunHeader, call_id: str) -> dict[str, Any]:
    row = {
        "pk": _line_key(header.tenant_id),
        "sk": _place(header.jobs[call_id], header.run_id, call_id),
        "run_id": {"S": header.run_id},
        "call_id": {"S": call_id},
        "since": {"S": header.jobs[call_id].isoformat()},
    }
    return row | ({"traceparent": {"S": header.traceparent}} if header.traceparent else {})


def _to_job(tenant_id: str, row: Item) -> WaitingJob:
    return WaitingJob(
        tenant_id=tenant_id,
        run_id=row["run_id"]["S"],
        call_id=row["call_id"]["S"],
        since=datetime.fromisoformat(row["since"]["S"]),
        traceparent=row["traceparent"]["S"] if "traceparent" in row else None,
    )


def _due(tenant_id: str, due_at: datetime) -> dict[str, Any]:
    shard = zlib.crc32(tenant_id.encode()) % LINE_SHARDS
    return {":shard": {"S": f"LINE#{shard}"}, ":due": {"S": at_utc(due_at)}}


def _line_key(tenant_id: str) -> dict[str, str]:
    return {"S": f"T#{tenant_id}#JOBS"}


def _place(since: datetime, run_id: str, call_id: str) -> dict[str, str]:
    return {"S": f"W#{at_utc(since)}#{run_id}#{call_id}"}
