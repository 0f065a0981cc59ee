"""The queue of tool calls that may take longer than an answer's patience."""

import json
from typing import TYPE_CHECKING

from agent.aws.dynamodb import store_errors

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient


class SqsToolQueue:
    """`ports.ToolQueue` on a standard queue: a message may come twice, and the worker's appends make that harmless."""

    def __init__(self, client: "SQSClient", url: str) -> None:
        self._client = client
        self._url = url

    def send(self, tenant_id: str, run_id: str, call_id: str, *, traceparent: str | None) -> None:
        """See `ports.ToolQueue`."""
        job = {"tenant_id": tenant_id, "run_id": run_id, "call_id": call_id, "traceparent": traceparent}
        with store_errors():
            self._client.send_message(QueueUrl=self._url, MessageBody=json.dumps(job))
