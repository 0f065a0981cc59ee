"""Stopped tools of servers, in the control table under `STOPPED`, an item for each contract's hash.

All have one partition key, so that operators can list them without a scan. `agent.testing.tool_servers` has the twin.
An item has no end: it is about one contract, and what a review lets run again is another one.
"""

from datetime import datetime
from typing import TYPE_CHECKING

from agent.aws.dynamodb import store_errors
from agent.ports.clock import Clock
from agent.tool_servers import MAX_STOPPED, StoppedTool

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


PARTITION = "STOPPED"


class DynamoDbStoppedTools:
    """`tool_servers.StoppedTools` of a deployment."""

    def __init__(self, client: "DynamoDBClient", table: str, clock: Clock) -> None:
        self._client = client
        self._table = table
        self._clock = clock
        self._known: set[str] = set()

    def is_stopped(self, contract_sha256: str) -> bool:
        """See `tool_servers.StoppedTools`."""
        if contract_sha256 not in self._known:
            key = _key(contract_sha256)
            with store_errors():
                answer = self._client.get_item(TableName=self._table, Key=key, ConsistentRead=True)
            if "Item" in answer:
                self._known.add(contract_sha256)
        return contract_sha256 in self._known

    def stop(self, contract_sha256: str, *, tool: str) -> None:
        """See `tool_servers.StoppedTools`."""
        since = {"S": self._clock.now().isoformat()}
        item = {**_key(contract_sha256), "tool": {"S": tool}, "since": since}
        self._known.add(contract_sha256)
        with store_errors():
            self._client.put_item(TableName=self._table, Item=item)

    def stopped(self) -> list[StoppedTool]:
        """See `tool_servers.StoppedTools`."""
        with store_errors():
            pages = self._client.get_paginator("query").paginate(
                TableName=self._table,
                KeyConditionExpression="pk = :pk",
                ExpressionAttributeValues={":pk": {"S": PARTITION}},
                ConsistentRead=True,
                PaginationConfig={"MaxItems": MAX_STOPPED},
            )
            rows = [row for page in pages for row in page["Items"]]
        found = [
            StoppedTool(row["tool"]["S"], row["sk"]["S"], datetime.fromisoformat(row["since"]["S"])) for row in rows
        ]
        return sorted(found, key=lambda tool: tool.since, reverse=True)


def _key(contract_sha256: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": PARTITION}, "sk": {"S": contract_sha256}}
