"""Keepgate's functions as other functions see them: run a tool and wait, or wake the agent and go on.

Only ids travel. Who may call which function is IAM's matter; a refusal there is a fault of the deployment and raised
as `ConfigurationInvalid`.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.exceptions import ConnectionError as NotConnected

from agent.aws.dynamodb import Backoff, require_passing, store_errors
from agent.errors import CallNotDecided, ToolLost, ToolUnreached
from agent.ports import ToolReply

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient

READ_MARGIN_S = 5.0
"""How much longer than the tool's own timeout the caller listens: run_tool ends itself first."""


class LambdaToolRunner:
    """`ports.ToolRunner` by a synchronous invoke of `run_tool`.

    `client_for` gives a client whose read timeout is the one asked for, **with the SDK's retries off**: the SDK would
    repeat a call whose reply was lost, and so the tool.
    """

    def __init__(
        self, client_for: Callable[[float], "LambdaClient"], function: str, *, backoff: Backoff | None = None
    ) -> None:
        self._client_for = client_for
        self._function = function
        self._backoff = backoff or Backoff(attempts=4)

    def run(self, tenant_id: str, run_id: str, call_id: str, *, timeout_s: float, traceparent: str | None) -> ToolReply:
        """See `ports.ToolRunner`."""
        ids = {"tenant_id": tenant_id, "run_id": run_id, "call_id": call_id, "traceparent": traceparent}
        client = self._client_for(timeout_s + READ_MARGIN_S)
        for attempt in range(self._backoff.attempts):
            try:
                answer = client.invoke(FunctionName=self._function, Payload=json.dumps(ids).encode())
                body = answer["Payload"].read()
            except (client.exceptions.TooManyRequestsException, NotConnected):
                # The two failures that prove it did not begin. Any other may have come after the tool acted.
                if attempt < self._backoff.attempts - 1:
                    self._backoff.wait(attempt)
            except ClientError as error:
                require_passing(error)
                raise ToolLost(f"{call_id}: run_tool answers {error.response['Error']['Code']}") from error
            except BotoCoreError as error:
                raise ToolLost(f"{call_id}: run_tool does not answer: {type(error).__name__}") from error
            else:
                if "FunctionError" in answer:
                    raise ToolLost(f"{call_id}: run_tool died")
                return _to_reply(json.loads(body))
        raise ToolUnreached(f"{call_id}: run_tool could not be reached in {self._backoff.attempts} attempts")


def _to_reply(body: dict[str, Any]) -> ToolReply:
    if "refused" in body:
        raise CallNotDecided(f"{body['refused']}: {body['message']}")
    return ToolReply(
        outcome=body["outcome"],
        content=body["content"],
        object_key=body["object_key"],
        duration_ms=body["duration_ms"],
    )


class LambdaWake:
    """`ports.Wake` by an asynchronous invoke of `run_agent`."""

    def __init__(self, client: "LambdaClient", function: str) -> None:
        self._client = client
        self._function = function

    def wake(self, tenant_id: str, run_id: str, *, traceparent: str | None) -> None:
        """See `ports.Wake`."""
        event = {"tenant_id": tenant_id, "run_id": run_id, "traceparent": traceparent}
        with store_errors():
            self._client.invoke(FunctionName=self._function, InvocationType="Event", Payload=json.dumps(event).encode())
