"""The tenant's items on DynamoDB. `agent.testing.tenant_data.MemoryTenantData` is its twin.

The client it is given holds a session tagged with the tenant, whose role pins the partition key to that tag: a wrong
key here would be refused there. One AWS call for each of get and put, one a page of a query.
"""

from collections.abc import Iterable
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer

from agent.aws.dynamodb import Item, store_errors
from agent.errors import StoreUnavailable
from agent.tenant_items import KEYS, require_id, require_item, require_page

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

BATCH = 25
"""Items in one BatchWriteItem."""
ATTEMPTS = 8

_to_dynamodb = TypeSerializer()
_from_dynamodb = TypeDeserializer()


class DynamoDbTenantData:
    """`tools.TenantData` of one tenant. The item's fields are attributes in clear, beside its key."""

    def __init__(self, client: "DynamoDBClient", table: str, tenant_id: str) -> None:
        self._client = client
        self._table = table
        self._partition = {"S": f"T#{tenant_id}"}

    def get(self, kind: str, item_id: str) -> dict[str, Any] | None:
        """See `tools.TenantData`."""
        require_id(kind, item_id)
        with store_errors():
            answer = self._client.get_item(
                TableName=self._table,
                Key={"pk": self._partition, "sk": {"S": f"{kind}#{item_id}"}},
                ConsistentRead=True,
            )
        return _to_item(answer["Item"]) if "Item" in answer else None

    def query(self, kind: str, *, prefix: str = "", after: str = "", limit: int = 50) -> list[dict[str, Any]]:
        """See `tools.TenantData`."""
        require_page(kind, prefix, after, limit)
        # Ids have no character before "-" or behind "z": "!" comes directly behind `after`, "~" behind every id.
        first = max(f"{kind}#{prefix}", f"{kind}#{after}!" if after else "")
        last = f"{kind}#{prefix}~"
        found: list[dict[str, Any]] = []
        start: Any = {}
        while first <= last:
            with store_errors():
                answer = self._client.query(
                    TableName=self._table,
                    KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
                    ExpressionAttributeValues={":pk": self._partition, ":first": {"S": first}, ":last": {"S": last}},
                    ConsistentRead=True,
                    Limit=limit - len(found),
                    **start,
                )
            found += map(_to_item, answer["Items"])
            if len(found) >= limit or "LastEvaluatedKey" not in answer:
                break
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
        return found

    def put(self, kind: str, item_id: str, item: dict[str, Any], *, only_if_new: bool = False) -> bool:
        """See `tools.TenantData`."""
        require_id(kind, item_id)
        require_item(item)
        condition: Any = {"ConditionExpression": "attribute_not_exists(pk)"} if only_if_new else {}
        with store_errors():
            try:
                record = _to_record(self._partition, kind, item_id, item)
                self._client.put_item(TableName=self._table, Item=record, **condition)
            except self._client.exceptions.ConditionalCheckFailedException:
                return False
        return True


def load(client: "DynamoDBClient", table: str, tenant_id: str, items: Iterable[tuple[str, str, dict[str, Any]]]) -> int:
    """Write many items (kind, id, item) of a tenant with the caller's own rights, and return how many: for seeding.

    Raises:
        StoreUnavailable: not all were written within the bounded retries.
        ValueError: one of them is no item; those before it are written.
    """
    written = 0
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        for kind, item_id, item in batch:
            require_id(kind, item_id)
            require_item(item)
        partition = {"S": f"T#{tenant_id}"}
        asked: Any = {table: [{"PutRequest": {"Item": _to_record(partition, *item)}} for item in batch]}
        for _ in range(ATTEMPTS):
            with store_errors():
                asked = client.batch_write_item(RequestItems=asked)["UnprocessedItems"]
            if not asked:
                break
        else:
            raise StoreUnavailable(f"not written in {ATTEMPTS} attempts")
        written += len(batch)
    return written


def _to_record(partition: dict[str, str], kind: str, item_id: str, item: dict[str, Any]) -> dict[str, Any]:
    fields = {name: _to_dynamodb.serialize(value) for name, value in item.items()}
    return {**fields, "pk": partition, "sk": {"S": f"{kind}#{item_id}"}}


def _to_item(record: Item) -> dict[str, Any]:
    return {name: _plain(_from_dynamodb.deserialize(value)) for name, value in record.items() if name not in KEYS}


def _plain(value: object) -> object:
    match value:
        case Decimal():
            return int(value)
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case list():
            return [_plain(item) for item in value]
        case _:
            return value
