"""What tools tell while they work, in a table of its own: whoever runs tools may add to it, and to no run's log."""

from typing import TYPE_CHECKING

from agent.aws.dynamodb import store_errors
from agent.events import MAX_PROGRESS_NOTES
from agent.ports.clock import Clock

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

KEPT_S = 3600


class DynamoDbProgressNotes:
    """`ports.ProgressNotes`."""

    def __init__(self, client: "DynamoDBClient", table: str, clock: Clock) -> None:
        self._client = client
        self._table = table
        self._clock = clock

    def write(self, tenant_id: str, run_id: str, call_id: str, *, attempt: int, index: int, text: str) -> None:
        """See `ports.ProgressNotes`."""
        expires_at = int(self._clock.now().timestamp()) + KEPT_S
        with store_errors():
            self._client.put_item(
                TableName=self._table,
                Item={
                    "pk": {"S": _partition(tenant_id, run_id)},
                    "sk": {"S": _sort(call_id, attempt, index)},
                    "text": {"S": text},
                    "expires_at": {"N": str(expires_at)},
                },
            )

    def read(self, tenant_id: str, run_id: str, call_id: str, *, attempt: int, from_index: int) -> list[str]:
        """See `ports.ProgressNotes`."""
        with store_errors():
            items = self._client.query(
                TableName=self._table,
                KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
                ExpressionAttributeValues={
                    ":pk": {"S": _partition(tenant_id, run_id)},
                    ":first": {"S": _sort(call_id, attempt, from_index)},
                    ":last": {"S": _sort(call_id, attempt, MAX_PROGRESS_NOTES)},
                },
                ConsistentRead=True,
            )["Items"]
        return [item["text"]["S"] for item in items]


def _partition(tenant_id: str, run_id: str) -> str:
    return f"T#{tenant_id}#R#{run_id}"


def _sort(call_id: str, attempt: int, index: int) -> str:
    return f"{call_id}#{attempt:02d}#{index:02d}"
