"""Stopped tools of servers, in the control table under `STOPPED#<contract's hash>`.

`agent.testing.tool_servers.MemoryStoppedTools` is its twin. An item has no end: it is about one contract, and what a
review lets run again is another one.
"""

from typing import TYPE_CHECKING

from agent.aws.dynamodb import store_errors
from agent.ports.clock import Clock

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


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


def _key(contract_sha256: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": f"STOPPED#{contract_sha256}"}, "sk": {"S": "TOOL"}}
