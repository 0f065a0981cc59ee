"""Keepgate's functions as other functions see them: run a tool and wait, or wake the agent and go on.

Only ids travel. Who may call which function is IAM's matter; a refusal there is a fault of the deployment and raised
as `ConfigurationInvalid`.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
)
from pydantic import JsonValue

from agent import tracing
from agent.aws.dynamodb import Backoff, require_passing, store_errors
from agent.errors import CallNotDecided, FactsUnavailable, ToolLost, ToolUnreached
from agent.ports.tool_room import ToolReply

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient

NOT_CONNECTED = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)
"""Not all of botocore's connection errors: TLS may break (`SSLError`) after the request went out."""

READ_MARGIN_S = 5.0
"""How much longer than the tool's own timeout the caller listens: run_tool ends itself first."""


class LambdaToolRunner:
    """`ports.ToolRunner` by a synchronous invoke of `run_tool`.

    `client_for` gives a client whose read timeout is the one asked for, **with the SDK's retries off**: the SDK would
    repeat a call whose reply was lost, and so the tool. `isolates_tenants` says whether the function was made to run
    each tenant in environments of its own: Lambda then must be told the tenant, and otherwise must not.
    """

    def __init__(
        self,
        client_for: Callable[[float], "LambdaClient"],
        function: str,
        *,
        isolates_tenants: bool = False,
        backoff: Backoff | None = None,
    ) -> None:
        self._client_for = client_for
        self._function = function
        self._isolates_tenants = isolates_tenants
        self._backoff = backoff or Backoff(attempts=4)

    def run(self, tenant_id: str, run_id: str, call_id: str, *, timeout_s: float, traceparent: str | None) -> ToolReply:
        """See `ports.ToolRunner`."""
        ids = {"tenant_id": tenant_id, "run_id": run_id, "call_id": call_id, "traceparent": traceparent}
        client = self._client_for(timeout_s + READ_MARGIN_S)
        whose: Any = {"TenantId": tenant_id} if self._isolates_tenants else {}
        for attempt in range(self._backoff.attempts):
            try:
                answer = client.invoke(FunctionName=self._function, Payload=json.dumps(ids).encode(), **whose)
                body = answer["Payload"].read()
            except (client.exceptions.TooManyRequestsException, *NOT_CONNECTED):
                # The failures that prove it did not begin. Any other may have come after the tool acted.
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


class LambdaResourceFacts:
    """`ports.ResourceFacts` by a synchronous invoke of `run_tool`, whose client does not wait long.

    A refusal and a failure are one answer: nothing is decided on a guess.
    """

    def __init__(
        self,
        client: "LambdaClient",
        function: str,
        *,
        isolates_tenants: bool = False,
        backoff: Backoff | None = None,
    ) -> None:
        self._client = client
        self._function = function
        self._isolates_tenants = isolates_tenants
        self._backoff = backoff or Backoff(attempts=2)

    def of(self, tenant_id: str, run_id: str, *, tool: str, resource: str) -> dict[str, JsonValue] | None:
        """See `ports.ResourceFacts`."""
        ids = {
            "tenant_id": tenant_id,
            "run_id": run_id,
            "tool": tool,
            "resource": resource,
            "traceparent": tracing.traceparent(),
        }
        whose: Any = {"TenantId": tenant_id} if self._isolates_tenants else {}
        for attempt in range(self._backoff.attempts):
            try:
                answer = self._client.invoke(FunctionName=self._function, Payload=json.dumps(ids).encode(), **whose)
                body = json.loads(answer["Payload"].read())
            except (self._client.exceptions.TooManyRequestsException, *NOT_CONNECTED) as error:
                if attempt == self._backoff.attempts - 1:
                    raise FactsUnavailable("run_tool could not be reached") from error
                self._backoff.wait(attempt)
            except ClientError as error:
                require_passing(error)
                raise FactsUnavailable(f"run_tool answers {error.response['Error']['Code']}") from error
            except (BotoCoreError, ValueError) as error:
                raise FactsUnavailable(f"run_tool does not answer: {type(error).__name__}") from error
            else:
                if "FunctionError" in answer or "facts" not in body:
                    raise FactsUnavailable(f"run_tool refused: {body.get('message', 'it died')}")
                found: dict[str, JsonValue] | None = body["facts"]
                return found
        raise AssertionError("the last attempt returns or raises")


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
