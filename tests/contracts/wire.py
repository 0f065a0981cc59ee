"""The network between an AWS client and moto, as a test wants it: counted, one call at a time, and failing on demand.

DynamoDB's transactions are serialisable and moto's are not when threads race inside it, so each call has it to itself.
Faults are queued by operation and hit the next calls of that operation, in order.
"""

import json
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import ConnectionClosedError
from moto.core.botocore_stubber import MockRawResponse
from moto.core.models import botocore_stubber

Fault = Callable[[Callable[[], AWSResponse]], AWSResponse]
"""Gets what would carry out the call, and answers instead of it."""


class Wire:
    """Stands where the network would: registered on a client, it answers each request."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._one_at_a_time = threading.RLock()

    def plug(self, client: Any) -> Any:
        # In moto's place, not before it: botocore calls every handler, whoever answers first.
        client.meta.events.unregister("before-send", botocore_stubber)
        client.meta.events.register("before-send", self._send)
        return client

    def reset(self) -> None:
        self.calls.clear()
        self._faults.clear()

    def next(self, operation: str, *faults: Fault) -> None:
        """Let the next calls of an operation meet these faults."""
        self._faults[operation].extend(faults)

    def _send(self, event_name: str, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        operation = event_name.rpartition(".")[2]

        def carry_out() -> AWSResponse:
            answer = botocore_stubber(event_name, request)
            assert answer is not None, "moto does not know this request"
            return answer

        with self._one_at_a_time:
            self.calls[operation] += 1
            fault = self._faults[operation].popleft() if self._faults[operation] else None
            return fault(carry_out) if fault else carry_out()


def leave_unprocessed(carry_out: Callable[[], AWSResponse]) -> AWSResponse:
    """Answer a batch read without its last item, and say that its key is left to ask for."""
    answer = json.loads(carry_out().raw.read())
    [(table, items)] = answer["Responses"].items()
    last = items.pop()
    answer["UnprocessedKeys"] = {table: {"Keys": [{"pk": last["pk"], "sk": last["sk"]}], "ConsistentRead": True}}
    return _response(200, answer)


def error(code: str, *, status: int = 400, **members: Any) -> Fault:
    """Answer with an error, without carrying the call out."""
    body = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "injected", **members}
    return lambda _: _response(status, body)


def _response(status: int, body: dict[str, Any]) -> AWSResponse:
    return AWSResponse("https://injected", status, {}, MockRawResponse(json.dumps(body)))


def cancelled(*codes: str) -> Fault:
    """Cancel a transaction for these reasons, item by item."""
    return error("TransactionCanceledException", CancellationReasons=[{"Code": code} for code in codes])


def lose_reply(carry_out: Callable[[], AWSResponse]) -> AWSResponse:
    """Carry the call out and lose the answer."""
    carry_out()
    raise ConnectionClosedError(endpoint_url="https://injected")


def lose_request(_: Callable[[], AWSResponse]) -> AWSResponse:
    """Lose the call itself: to the caller it looks the same."""
    raise ConnectionClosedError(endpoint_url="https://injected")


def first(*others: Callable[[], Any]) -> Fault:
    """Let somebody else act in the moment before the call arrives."""

    def fault(carry_out: Callable[[], AWSResponse]) -> AWSResponse:
        for other in others:
            other()
        return carry_out()

    return fault
