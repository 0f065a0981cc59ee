"""The run log on DynamoDB. `agent.testing.run_log.MemoryRunLog` is its twin, held to the same contract suite.

An append is one transaction: the events, each on the condition that its number is free, and the whole header on the
condition that it has not moved. Whoever loses reads again; nobody waits on a lock. AWS calls: one for an append, a
create and a header, and no more than one a megabyte for reading events.
"""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from ulid import ULID

from agent.aws import job_lines, run_sets
from agent.aws import run_log_items as items
from agent.aws.clock import SystemClock
from agent.aws.dynamodb import Backoff, Item, batch_get, store_errors, transact
from agent.errors import (
    IdempotencyKeyReused,
    LogContended,
    LogMoved,
    SessionBusy,
    StoreUnavailable,
    TooManyRuns,
)
from agent.events import Delta, Event, Payload, at_utc
from agent.in_flight import patience_s
from agent.ports.clock import Clock
from agent.ports.run_log import NewRun
from agent.run_header import RunHeader, advance, extend

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

logger = logging.getLogger(__name__)

IS_NEW = "attribute_not_exists(pk)"
MAX_PLACES = 6
"""How often a new run looks for another part of its tenant's set because others were faster."""


class DynamoDbRunLog:
    """`ports.RunLog` on one table with the indexes `by_user`, `by_approval` and `by_due`."""

    def __init__(
        self,
        client: "DynamoDBClient",
        table: str,
        *,
        clock: Clock | None = None,
        backoff: Backoff | None = None,
        new_nonce: Callable[[], str] = lambda: str(ULID()),
        pick: Callable[[int], int] = random.randrange,
    ) -> None:
        self._client = client
        self._table = table
        self._clock = clock or SystemClock()
        self._backoff = backoff or Backoff()
        self._new_nonce = new_nonce
        self._pick = pick

    def create(self, run: NewRun) -> RunHeader:
        """See `ports.RunLog`."""
        parts = [n for n in range(run_sets.SHARDS) if run_sets.share(run.tenant_runs, n)] or [0]
        for _ in range(MAX_PLACES):
            shard = parts[self._pick(len(parts))]
            header, writes = self._creation(run.in_shard(shard))
            done = self._commit(list(writes.values()), token=f"{run.event.nonce}-{shard}")
            refused = {name: done[n] for n, name in enumerate(writes) if n in done}
            if not refused or refused.get("event", {}).get("nonce") == {"S": run.event.nonce}:
                return header
            if refused.get("key"):
                return self._created_before(run, refused["key"])
            if "event" in refused:
                raise LogMoved(f"{run.event.run_id} exists")
            if "session" in refused:
                raise SessionBusy("an earlier run of this session is not over; wait for it or cancel it")
            if "user" in refused:
                raise _too_many("you have", run_sets.members(refused["user"]), run)
            parts = self._parts_with_room(header.tenant_id, run)
        raise LogContended(f"no place among the tenant's runs in {MAX_PLACES} attempts")

    def _creation(self, run: NewRun) -> tuple[RunHeader, dict[str, dict[str, Any]]]:
        """Return the new run's header and the writes of its transaction, each by what its refusal means."""
        header, event = advance(None, run.event), run.event
        tenant, user, run_id = header.tenant_id, header.user_id, header.run_id

        def join(key: run_sets.Key, most: int | None) -> dict[str, Any]:
            return run_sets.join(self._table, key, run_id, most=most, at=event.at)

        writes = {
            "event": self._put(items.event_item(event), IS_NEW, tell=True),
            "header": self._put(items.header_item(header)),
            "user": join(run_sets.user_set(tenant, user), run.user_runs),
            "tenant": join(
                run_sets.tenant_set(tenant, header.tenant_shard),
                run_sets.share(run.tenant_runs, header.tenant_shard),
            ),
        }
        if header.session_id is not None:
            writes["entry"] = self._put(items.session_item(header, header.session_id))
            session = run_sets.session_set(tenant, user, header.session_id)
            writes["session"] = run_sets.in_order(join(session, 1 if run.is_alone else None), run_id)
        if run.idempotency_key is not None:
            # DynamoDB deletes what has expired when it likes; until then an expired key must count as absent.
            key = self._put(items.idempotency_item(run, user), f"{IS_NEW} OR expires_at <= :now", tell=True)
            key["Put"]["ExpressionAttributeValues"] = {":now": {"N": str(int(event.at.timestamp()))}}
            writes["key"] = key
        return header, writes

    def _parts_with_room(self, tenant_id: str, run: NewRun) -> list[int]:
        """Return the parts of a tenant's set that the run could stand in.

        Raises:
            TooManyRuns: there is none.
        """
        keys = [run_sets.tenant_set(tenant_id, n) for n in range(run_sets.SHARDS)]
        rows = batch_get(self._client, self._table, keys, backoff=self._backoff)
        sets = {row["pk"]["S"]: run_sets.members(row) for row in rows}
        parts = [
            n for n, key in enumerate(keys) if len(sets.get(key["pk"]["S"], [])) < run_sets.share(run.tenant_runs, n)
        ]
        if not parts:
            raise _too_many("your organisation has", [run_id for part in sets.values() for run_id in part], run)
        return parts

    def _created_before(self, run: NewRun, key: Item) -> RunHeader:
        if key["body_sha256"]["S"] != run.body_sha256:
            raise IdempotencyKeyReused("this Idempotency-Key came with another body before; use a new key")
        header = self.header(run.event.tenant_id, key["run_id"]["S"])
        if header is None:
            raise StoreUnavailable("the run of this Idempotency-Key is gone")
        return header

    def header(self, tenant_id: str, run_id: str) -> RunHeader | None:
        """See `ports.RunLog`."""
        with store_errors():
            answer = self._client.get_item(
                TableName=self._table,
                Key={"pk": {"S": items.run_key(tenant_id, run_id)}, "sk": {"S": items.HEADER_KEY}},
                ConsistentRead=True,
            )
        return items.to_header(answer["Item"]) if "Item" in answer else None

    def events(self, tenant_id: str, run_id: str, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """See `ports.RunLog`."""
        first, last = items.event_key(after + 1), items.event_key(after + limit)
        rows = self._range(items.run_key(tenant_id, run_id), first, last)
        # A query is not isolated from transactions: it may see an event before it sees the one in front of it.
        numbered = zip(count(after + 1), map(items.to_event, rows))
        return [event for _, event in takewhile(lambda pair: pair[0] == pair[1].seq, numbered)]

    def append(
        self, header: RunHeader, payloads: Sequence[Payload], *, at: datetime, outside: bool = False
    ) -> RunHeader:
        """See `ports.RunLog`."""
        nonce = self._new_nonce()
        events, after = extend(header, payloads, at=at, nonce=nonce, outside=outside)
        first, *rest = items.event_items(events)
        unmoved = self._put(items.header_item(after), "next_seq = :seq" + ("" if outside else " AND epoch = :epoch"))
        unmoved["Put"]["ExpressionAttributeValues"] = {":seq": {"N": str(header.next_seq)}} | (
            {} if outside else {":epoch": {"N": str(header.epoch)}}
        )
        writes = [self._put(first, tell=True), *map(self._put, rest), unmoved]
        writes += job_lines.moves(self._table, header, after)
        if after.is_over and not header.is_over:
            writes += run_sets.leave_all(self._table, after)
        refused = self._commit(writes, token=nonce)
        # Our own event under our own condition: an earlier attempt was committed and its reply lost.
        if refused and refused.get(0, {}).get("nonce") != {"S": nonce}:
            raise LogMoved(f"{header.run_id} is not at {header.next_seq} any more")
        return after

    def write_delta(self, tenant_id: str, run_id: str, delta: Delta) -> None:
        """See `ports.RunLog`."""
        try:
            with store_errors():
                self._client.put_item(
                    TableName=self._table, Item=items.delta_item(tenant_id, run_id, delta, now=self._clock.now())
                )
        except StoreUnavailable as error:
            logger.warning("a delta was not stored", extra={"run_id": run_id, "error": str(error)})

    def deltas(self, tenant_id: str, run_id: str, seq: int, *, from_index: int = 0) -> list[Delta]:
        """See `ports.RunLog`."""
        first, last = items.delta_key(seq, from_index), items.delta_key(seq, 999_999)
        numbered = zip(
            count(from_index), map(items.to_delta, self._range(items.run_key(tenant_id, run_id), first, last))
        )
        return [delta for _, delta in takewhile(lambda pair: pair[0] == pair[1].index, numbered)]

    def runs_of_user(
        self, tenant_id: str, user_id: str, *, limit: int, before: str | None = None
    ) -> tuple[list[RunHeader], str | None]:
        """See `ports.RunLog`."""
        condition, values = "user_key = :user", {":user": {"S": items.user_key(tenant_id, user_id)}}
        if before is not None:
            condition, values = f"{condition} AND run_id < :before", {**values, ":before": {"S": before}}
        rows = self._index("by_user", condition, values, limit=limit + 1, newest_first=True)
        headers = self._headers([row["pk"]["S"] for row in rows[:limit]])
        more = rows[limit - 1]["run_id"]["S"] if len(rows) > limit else None
        return sorted(headers, key=lambda header: header.run_id, reverse=True), more

    def runs_of_session(self, tenant_id: str, user_id: str, session_id: str, *, limit: int) -> list[RunHeader]:
        """See `ports.RunLog`."""
        with store_errors():
            answer = self._client.query(
                TableName=self._table,
                KeyConditionExpression="pk = :pk AND begins_with(sk, :session)",
                ExpressionAttributeValues={
                    ":pk": {"S": items.user_key(tenant_id, user_id)},
                    ":session": {"S": items.session_key(session_id)},
                },
                ConsistentRead=True,
                ScanIndexForward=False,
                Limit=limit,
            )
        keys = [items.run_key(tenant_id, item["run_id"]["S"]) for item in answer["Items"]]
        return sorted(self._headers(keys), key=lambda header: header.run_id)

    def runs_awaiting_approval(
        self, tenant_id: str, *, limit: int, after: str | None = None
    ) -> tuple[list[RunHeader], str | None]:
        """See `ports.RunLog`."""
        condition, values = "approval_key = :tenant", {":tenant": {"S": items.approval_key(tenant_id)}}
        if after is not None:
            condition, values = f"{condition} AND run_id > :after", {**values, ":after": {"S": after}}
        rows = self._index("by_approval", condition, values, limit=limit + 1, newest_first=False)
        headers = self._readable_headers([row["pk"]["S"] for row in rows[:limit]])
        waiting = [header for header in headers if header.approvals]
        more = rows[limit - 1]["run_id"]["S"] if len(rows) > limit else None
        return sorted(waiting, key=lambda header: header.run_id), more

    def open_runs_of_session(self, tenant_id: str, user_id: str, session_id: str) -> list[str]:
        """See `ports.RunLog`."""
        with store_errors():
            answer = self._client.get_item(
                TableName=self._table,
                Key=run_sets.session_set(tenant_id, user_id, session_id),
                ConsistentRead=True,
            )
        return run_sets.members_in_order(answer.get("Item", {}))

    def due_runs(self, now: datetime, *, limit: int) -> list[RunHeader]:
        """See `ports.RunLog`. Seventeen calls: each shard of the index, and the headers."""
        due: list[tuple[str, str]] = []
        for number in range(items.DUE_SHARDS):
            values = {":shard": {"S": items.due_shard(number)}, ":now": {"S": at_utc(now)}}
            rows = self._index(
                "by_due", "due_shard = :shard AND due_at <= :now", values, limit=limit, newest_first=False
            )
            due += ((row["due_at"]["S"], row["pk"]["S"]) for row in rows)
        headers = self._readable_headers([key for _, key in sorted(due)[:limit]])
        still_due = [(header.due_at, header) for header in headers if header.due_at and header.due_at <= now]
        return [header for _, header in sorted(still_due, key=lambda pair: pair[0])]

    def postpone(self, header: RunHeader, due_at: datetime) -> bool:
        """See `ports.RunLog`."""
        if header.due_at is None:
            return False
        item = items.header_item(header.model_copy(update={"due_at": due_at}))
        put = self._put(item, "next_seq = :seq AND due_at = :due", tell=True)["Put"]
        values = {":seq": {"N": str(header.next_seq)}, ":due": {"S": at_utc(header.due_at)}}
        with store_errors():
            try:
                self._client.put_item(**put, ExpressionAttributeValues=values)
            except self._client.exceptions.TransactionConflictException:
                return False  # somebody is appending: the run moves by itself
            except self._client.exceptions.ConditionalCheckFailedException as refused:
                # Equal to what we meant to write: the SDK repeated a write whose reply was lost.
                return refused.response.get("Item") == item
        return True

    def _commit(self, writes: Sequence[Any], *, token: str) -> dict[int, Item]:
        try:
            return transact(self._client, writes, token=token, backoff=self._backoff)
        except StoreUnavailable as error:
            raise LogContended(str(error)) from error

    def _put(self, item: dict[str, Any], condition: str = IS_NEW, *, tell: bool = False) -> dict[str, Any]:
        put = {"TableName": self._table, "Item": item, "ConditionExpression": condition}
        if tell:
            put["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        return {"Put": put}

    def _range(self, partition: str, first: str, last: str) -> Iterator[Item]:
        """Yield the items between two sort keys, both included, page by page."""
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            ExpressionAttributeValues={":pk": {"S": partition}, ":first": {"S": first}, ":last": {"S": last}},
            ConsistentRead=True,
        )
        with store_errors():
            for page in pages:
                yield from page["Items"]

    def _index(
        self, index: str, condition: str, values: dict[str, Any], *, limit: int, newest_first: bool
    ) -> list[Item]:
        """Return at most `limit` rows of an index: keys, and not yet perhaps the newest ones."""
        found: list[Item] = []
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            IndexName=index,
            KeyConditionExpression=condition,
            ExpressionAttributeValues=values,
            ScanIndexForward=not newest_first,
            PaginationConfig={"MaxItems": limit},
        )
        with store_errors():
            for page in pages:
                found += page["Items"]
        return found

    def _headers(self, partitions: Sequence[str]) -> list[RunHeader]:
        """Return the headers of these runs, in no order; a run that is gone meanwhile is left out."""
        return [items.to_header(item) for item in self._header_items(partitions)]

    def _readable_headers(self, partitions: Sequence[str]) -> list[RunHeader]:
        """Do the same, also without those that another version wrote: everybody's runs, and one must not hide all."""
        found: list[RunHeader] = []
        for item in self._header_items(partitions):
            try:
                found.append(items.to_header(item))
            except ValidationError:
                logger.error("a header can't be read", extra={"run_id": item["run_id"]["S"]})  # noqa: TRY400 - the message quotes it
        return found

    def _header_items(self, partitions: Sequence[str]) -> list[Item]:
        keys = [{"pk": {"S": partition}, "sk": {"S": items.HEADER_KEY}} for partition in partitions]
        return batch_get(self._client, self._table, keys, backoff=self._backoff)


def _too_many(who: str, run_ids: list[str], run: NewRun) -> TooManyRuns:
    sentence = f"{who} {len(run_ids)} runs in flight, as many as allowed; ask again when one has ended"
    return TooManyRuns(sentence, retry_after_s=patience_s(run_ids, run.event.at))
