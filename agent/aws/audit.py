"""The audit in the control table, and the one way to change an item there: with its entry, or not at all.

`agent.testing.audit.MemoryAuditTrail` is the twin, held to the same contract suite.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent.audit import Change, key
from agent.aws.dynamodb import Backoff, Item, batch_get, store_errors, transact
from agent.errors import StoreUnavailable

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

MAX_MOVES = 10
"""How often in a row others may change an item under a writer."""


class DynamoDbAuditTrail:
    """`ports.AuditTrail` on the control table."""

    def __init__(self, client: "DynamoDBClient", table: str, *, backoff: Backoff | None = None) -> None:
        self._client = client
        self._table = table
        self._backoff = backoff or Backoff()

    def changes(self, tenant_id: str, *, limit: int, before: str | None = None) -> tuple[list[Change], str | None]:
        """See `ports.AuditTrail`."""
        start: Any = {"ExclusiveStartKey": _key(tenant_id, before)} if before else {}
        with store_errors():
            answer = self._client.query(
                TableName=self._table,
                KeyConditionExpression="pk = :pk",
                ExpressionAttributeValues={":pk": {"S": key(tenant_id)}},
                ScanIndexForward=False,
                ConsistentRead=True,
                Limit=limit,
                **start,
            )
        last: Any = answer.get("LastEvaluatedKey")
        found = [Change.model_validate_json(row["change"]["S"]) for row in answer["Items"]]
        return found, last["sk"]["S"] if last else None

    def note(self, change: Change) -> None:
        """See `ports.AuditTrail`."""
        transact(self._client, [self._entry(change)], token=change.id[-26:], backoff=self._backoff)

    def alter(self, item_key: Item, edit: Callable[[Item, int], tuple[dict[str, Any], Change]]) -> None:
        """Replace an item of the table by what `edit` makes of it, with its entry in the audit, in one transaction.

        `edit` gets the item as it stands and the number of its next version, and is asked again where others were
        faster. The item's keys and version are added here.

        Raises:
            StoreUnavailable: contended, or perhaps not written.
        """
        for _ in range(MAX_MOVES):
            [row] = batch_get(self._client, self._table, [item_key], backoff=self._backoff) or [{}]
            version = int(row["version"]["N"]) if "version" in row else 0
            attributes, change = edit(row, version + 1)
            put: dict[str, Any] = {
                "TableName": self._table,
                "Item": {**item_key, **attributes, "version": {"N": str(version + 1)}},
                "ConditionExpression": "version = :before" if version else "attribute_not_exists(version)",
            }
            if version:
                put["ExpressionAttributeValues"] = {":before": {"N": str(version)}}
            refused = transact(
                self._client, [{"Put": put}, self._entry(change)], token=change.id[-26:], backoff=self._backoff
            )
            if 0 not in refused or refused.get(1, {}).get("change") == {"S": change.model_dump_json()}:
                return
        raise StoreUnavailable(f"others changed it {MAX_MOVES} times in a row")

    def _entry(self, change: Change) -> dict[str, Any]:
        return {
            "Put": {
                "TableName": self._table,
                "Item": {**_key(change.tenant_id, change.id), "change": {"S": change.model_dump_json()}},
                "ConditionExpression": "attribute_not_exists(pk)",
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
        }


def _key(tenant_id: str, change_id: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": key(tenant_id)}, "sk": {"S": change_id}}
