"""The run log's items: which key and which attributes each has in the runs table. No call to AWS here.

An event keeps its envelope in clear attributes and its payload as JSON text, so that the payload can be sealed or
erased later and the sequence stays whole. A header keeps itself as JSON text, beside the few attributes that
conditions and indexes need. Deltas have a prefix of their own, so that reading events does not pay for them.
"""

import hashlib
import json
import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from agent.aws.dynamodb import Item
from agent.errors import InputTooLarge
from agent.events import Delta, Event, at_utc
from agent.ports.run_log import NewRun
from agent.run_header import RunHeader

DUE_SHARDS = 16
MAX_ITEM_BYTES = 380_000
"""DynamoDB takes 400 KB; the rest is for keys and attribute names."""
MAX_TRANSACTION_BYTES = 3_800_000
"""DynamoDB takes 4 MB, keys and headers included."""
KEY_LIFE_S = 24 * 3600
"""How long an idempotency key is remembered."""
DELTA_LIFE_S = 3600

HEADER_KEY = "RUN"


def run_key(tenant_id: str, run_id: str) -> str:
    """Return the partition of a run."""
    return f"T#{tenant_id}#R#{run_id}"


def user_key(tenant_id: str, user_id: str) -> str:
    """Return the partition of a user's idempotency keys and sessions; also the key of the index `by_user`."""
    return f"T#{tenant_id}#U#{user_id}"


def approval_key(tenant_id: str) -> str:
    """Return the partition of a tenant in the index `by_approval`."""
    return f"T#{tenant_id}"


def event_key(seq: int) -> str:
    """Return the sort key of an event."""
    return f"E#{seq:08d}"


def delta_key(seq: int, index: int) -> str:
    """Return the sort key of a piece of streamed text."""
    return f"D#{seq:08d}~{index:06d}"


def session_key(session_id: str, run_id: str = "") -> str:
    """Return the sort key of a session's entry, or the prefix of all of them."""
    return f"S#{session_id}#{run_id}"


def due_shard(number: int) -> str:
    """Return a partition of the index `by_due`."""
    return f"DUE#{number:02d}"


def header_item(header: RunHeader) -> dict[str, Any]:
    """Return a header's item. Without `due_at` it leaves the index of due runs, without approvals that of those."""
    item = {
        "pk": {"S": run_key(header.tenant_id, header.run_id)},
        "sk": {"S": HEADER_KEY},
        "header": {"S": header.model_dump_json()},
        "next_seq": {"N": str(header.next_seq)},
        "epoch": {"N": str(header.epoch)},
        "status": {"S": header.status.value},
        "user_key": {"S": user_key(header.tenant_id, header.user_id)},
        "run_id": {"S": header.run_id},
    }
    if header.due_at is not None:
        item["due_shard"] = {"S": due_shard(zlib.crc32(header.run_id.encode()) % DUE_SHARDS)}
        item["due_at"] = {"S": at_utc(header.due_at)}
    if header.approvals:
        item["approval_key"] = {"S": approval_key(header.tenant_id)}
    return item


def to_header(item: Item) -> RunHeader:
    """Read a header back."""
    return RunHeader.model_validate_json(item["header"]["S"])


def event_item(event: Event) -> dict[str, Any]:
    """Return an event's item.

    Raises:
        InputTooLarge: it can't be stored; the caller's caps should have seen to it.
    """
    payload = event.payload_json()
    if len(payload.encode()) > MAX_ITEM_BYTES:
        raise InputTooLarge(f"{event.type} has more than {MAX_ITEM_BYTES} bytes", field=event.type)
    return {
        "pk": {"S": run_key(event.tenant_id, event.run_id)},
        "sk": {"S": event_key(event.seq)},
        "v": {"N": str(event.v)},
        "tenant_id": {"S": event.tenant_id},
        "run_id": {"S": event.run_id},
        "seq": {"N": str(event.seq)},
        "at": {"S": event.at.isoformat()},
        "epoch": {"N": str(event.epoch)},
        "nonce": {"S": event.nonce},
        "release": {"S": event.release},
        "type": {"S": event.type},
        "payload": {"S": payload},
        "sha256": {"S": event.payload_sha256()},
    }


def event_items(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Return the items of one append.

    Raises:
        InputTooLarge: they can't be stored in one transaction.
    """
    rows = [event_item(event) for event in events]
    if sum(len(row["payload"]["S"].encode()) for row in rows) > MAX_TRANSACTION_BYTES:
        raise InputTooLarge(f"{len(rows)} events have more than {MAX_TRANSACTION_BYTES} bytes")
    return rows


def to_event(item: Item) -> Event:
    """Read an event back; pydantic refuses a version or kind it does not know."""
    envelope = {
        "v": int(item["v"]["N"]),
        "tenant_id": item["tenant_id"]["S"],
        "run_id": item["run_id"]["S"],
        "seq": int(item["seq"]["N"]),
        "at": item["at"]["S"],
        "epoch": int(item["epoch"]["N"]),
        "nonce": item["nonce"]["S"],
        "release": item["release"]["S"],
        "data": json.loads(item["payload"]["S"]),
    }
    return Event.model_validate(envelope)


def delta_item(tenant_id: str, run_id: str, delta: Delta, *, now: datetime) -> dict[str, Any]:
    """Return the item of a piece of streamed text; DynamoDB deletes it some time after `expires_at`."""
    return {
        "pk": {"S": run_key(tenant_id, run_id)},
        "sk": {"S": delta_key(delta.seq, delta.index)},
        "delta": {"S": delta.model_dump_json()},
        "expires_at": {"N": str(int(now.timestamp()) + DELTA_LIFE_S)},
    }


def to_delta(item: Item) -> Delta:
    """Read a piece of streamed text back."""
    return Delta.model_validate_json(item["delta"]["S"])


def idempotency_item(run: NewRun, user_id: str) -> dict[str, Any]:
    """Return the item that binds a user's idempotency key to a run and its request. The key itself is not stored."""
    digest = hashlib.sha256((run.idempotency_key or "").encode()).hexdigest()
    return {
        "pk": {"S": user_key(run.event.tenant_id, user_id)},
        "sk": {"S": f"K#{digest}"},
        "run_id": {"S": run.event.run_id},
        "body_sha256": {"S": run.body_sha256},
        "expires_at": {"N": str(int(run.event.at.timestamp()) + KEY_LIFE_S)},
    }


def session_item(header: RunHeader, session_id: str) -> dict[str, Any]:
    """Return the item that lists a run in its user's session."""
    return {
        "pk": {"S": user_key(header.tenant_id, header.user_id)},
        "sk": {"S": session_key(session_id, header.run_id)},
        "run_id": {"S": header.run_id},
    }
