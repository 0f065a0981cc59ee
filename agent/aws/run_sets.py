"""Runs in flight as sets of ids: a user's, a tenant's and a session's. Each is an item of the runs table.

Sets, not counters: joining twice or leaving twice changes nothing, so they are exact whatever is repeated. A run joins
in the transaction that creates it and leaves in the one that ends it. A tenant's set is spread over `SHARDS` items,
each with its share of the limit, so that its runs don't queue up before one item.
"""

from datetime import datetime
from typing import Any

from agent.aws.dynamodb import Item
from agent.aws.run_log_items import user_key
from agent.runlog import RunHeader

SHARDS = 8
SET_LIFE_S = 7 * 24 * 3600
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


def leave_all(table: str, header: RunHeader) -> list[dict[str, Any]]:
    """Return the writes that take a run out of every set it is in."""
    tenant, user = header.tenant_id, header.user_id
    keys = [user_set(tenant, user), tenant_set(tenant, header.tenant_shard)]
    if header.session_id is not None:
        keys.append(session_set(tenant, user, header.session_id))
    gone = {":id": {"SS": [header.run_id]}}
    return [
        {
            "Update": {
                "TableName": table,
                "Key": key,
                "UpdateExpression": "DELETE ids :id",
                "ExpressionAttributeValues": gone,
            }
        }
        for key in keys
    ]


def _key(pk: str, sk: str) -> Key:
    return {"pk": {"S": pk}, "sk": {"S": sk}}
