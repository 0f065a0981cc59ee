"""Runs in flight as sets of ids: a user's, a tenant's and a session's. Each is an item of the runs table.

Sets, not counters: joining twice or leaving twice changes nothing, so they are exact whatever is repeated. A run joins
in the transaction that creates it and leaves in the one that ends it. A session's item also
has an attribute for each of its runs, named like its id: the number of its place. A tenant's set is spread over
`SHARDS` items, each with its share of the limit, so that its runs don't queue up before one item.
"""

from datetime import datetime
from typing import Any

from agent.aws.dynamodb import Item
from agent.aws.run_log_items import user_key
from agent.run_header import RunHeader

SHARDS = 8
SET_LIFE_S = 8 * 24 * 3600
"""Beyond the longest run; after the last join, DynamoDB deletes the empty rest."""

Key = dict[str, Any]


def user_set(tenant_id: str, user_id: str) -> Key:
    """Return the key of a user's set."""
    return _key(user_key(tenant_id, user_id), "INFLIGHT")


def tenant_set(tenant_id: str, shard: int) -> Key:
    """Return the key of a part of a tenant's set."""
    return _key(f"T#{tenant_id}#INFLIGHT#{shard}", "INFLIGHT")


def session_set(tenant_id: str, user_id: str, session_id: str) -> Key:
    """Return the key of a session's set."""
    return _key(user_key(tenant_id, user_id), f"OPEN#{session_id}")


def share(most: int, shard: int) -> int:
    """Return how many of `most` runs a tenant may have in one part."""
    each, rest = divmod(most, SHARDS)
    return each + (shard < rest)


def members(item: Item) -> list[str]:
    """Return the ids in a set's item, sorted."""
    return sorted(item.get("ids", {}).get("SS", []))


def join(table: str, key: Key, run_id: str, *, most: int | None, at: datetime) -> dict[str, Any]:
    """Return the write that puts a run in, on the condition that there are fewer than `most` then."""
    update: dict[str, Any] = {
        "TableName": table,
        "Key": key,
        "UpdateExpression": "ADD ids :id SET expires_at = :expires",
        "ExpressionAttributeValues": {
            ":id": {"SS": [run_id]},
            ":expires": {"N": str(int(at.timestamp()) + SET_LIFE_S)},
        },
    }
    if most is not None:
        update["ExpressionAttributeValues"][":most"] = {"N": str(most)}
        free = "attribute_not_exists(ids) OR" if most else "attribute_exists(ids) AND"
        update["ConditionExpression"] = f"{free} size(ids) < :most"
        update["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
    return {"Update": update}


def in_order(write: dict[str, Any], run_id: str) -> dict[str, Any]:
    """Return a `join` that also gives the run the next place; DynamoDB numbers them, so they rise as runs come."""
    update = dict(write["Update"])
    update["UpdateExpression"] += ", #run = if_not_exists(places, :none), places = if_not_exists(places, :none) + :one"
    update["ExpressionAttributeNames"] = {"#run": run_id}
    values = update["ExpressionAttributeValues"]
    update["ExpressionAttributeValues"] = {**values, ":none": {"N": "0"}, ":one": {"N": "1"}}
    return {"Update": update}


def members_in_order(item: Item) -> list[str]:
    """Return the ids in a session's item in the order in which they joined."""
    return sorted(members(item), key=lambda run_id: int(item[run_id]["N"]))


def leave_all(table: str, header: RunHeader) -> list[dict[str, Any]]:
    """Return the writes that take a run out of every set it is in."""
    tenant, user = header.tenant_id, header.user_id
    keys = (user_set(tenant, user), tenant_set(tenant, header.tenant_shard))
    writes = [_leave(table, key, header.run_id) for key in keys]
    if header.session_id is not None:
        session = _leave(table, session_set(tenant, user, header.session_id), header.run_id)
        session["Update"]["UpdateExpression"] += " REMOVE #run"
        session["Update"]["ExpressionAttributeNames"] = {"#run": header.run_id}
        writes.append(session)
    return writes


def _leave(table: str, key: Key, run_id: str) -> dict[str, Any]:
    update: dict[str, Any] = {
        "TableName": table,
        "Key": key,
        "UpdateExpression": "DELETE ids :id",
        "ExpressionAttributeValues": {":id": {"SS": [run_id]}},
    }
    return {"Update": update}


def _key(pk: str, sk: str) -> Key:
    return {"pk": {"S": pk}, "sk": {"S": sk}}
