"""How Keepgate calls DynamoDB: a transaction with every way it can end told apart, a batch read, what an error means.

A transaction that did not commit is one of three things. *Refused*: a condition failed, the world is not as the caller
thought; the caller decides again. *Contended*: another transaction was under way, DynamoDB throttled, or the reply was
lost; it is sent again here, with full jitter and a bound. *Wrong*: the table or the right is missing, or the request
is malformed; no retry helps.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from agent.errors import ConfigurationInvalid, StoreUnavailable

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

Item = Mapping[str, Any]
"""An item in DynamoDB's own form: attribute name to typed value."""

WRONG = frozenset(
    {
        "AWS.SimpleQueueService.NonExistentQueue",
        "AccessDenied",
        "AccessDeniedException",
        "ItemCollectionSizeLimitExceededException",
        "QueueDoesNotExist",
        "ResourceNotFoundException",
        "UnrecognizedClientException",
        "ValidationException",
    }
)
"""Codes no retry helps against; every other code is the service's trouble of the moment."""


MAX_SILENCES = 3
"""Transactions without a reply before giving up: each has cost the client's whole timeout, and somebody waits."""


@dataclass(frozen=True)
class Backoff:
    """Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"), bounded in number and in length."""

    attempts: int = 8
    first_s: float = 0.025
    longest_s: float = 0.4
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random

    def wait(self, attempt: int) -> None:
        """Sleep after failed attempt number `attempt`, counted from 0."""
        self.sleep(self.random() * min(self.longest_s, self.first_s * 2**attempt))


def transact(client: "DynamoDBClient", writes: Sequence[Any], *, token: str, backoff: Backoff) -> dict[int, Item]:
    """Commit the writes and return {}, or the refused ones: position to the item that stands there (if asked for).

    `token` is DynamoDB's idempotency token: a repeat within ten minutes of a commit whose reply was lost answers as
    the first did. A cancelled transaction does not use it up. The caller still puts a nonce or an item of its own
    under the condition, because neither ten minutes nor an emulator is a promise.

    Raises:
        StoreUnavailable: still contended after the bounded retries; it may or may not have been committed.
        ConfigurationInvalid: no retry helps.
    """
    silences = 0
    for attempt in range(backoff.attempts):
        try:
            client.transact_write_items(TransactItems=writes, ClientRequestToken=token)
        except client.exceptions.TransactionCanceledException as cancelled:
            reasons: Sequence[Any] = cancelled.response.get("CancellationReasons", ())
            # Beside a failed condition a conflict says nothing: an unevaluated item can't make the failed one true.
            refused = {n: r.get("Item", {}) for n, r in enumerate(reasons) if r["Code"] == "ConditionalCheckFailed"}
            if refused:
                return refused
            if wrong := {r["Code"] for r in reasons} & {"ValidationError", "ItemCollectionSizeLimitExceeded"}:
                raise ConfigurationInvalid(f"DynamoDB can't take this transaction: {sorted(wrong)}") from cancelled
        except ClientError as error:
            require_passing(error)
        except BotoCoreError:  # no reply: it may or may not have been committed
            silences += 1
            if silences == MAX_SILENCES:
                break
        else:
            return {}
        if attempt < backoff.attempts - 1:
            backoff.wait(attempt)
    raise StoreUnavailable(f"not written in {attempt + 1} attempts")


BATCH = 100
"""Keys in one BatchGetItem."""


def batch_get(client: "DynamoDBClient", table: str, keys: Sequence[Item], *, backoff: Backoff) -> list[Item]:
    """Return the items with these keys that exist, strongly consistent, in no order.

    Raises:
        StoreUnavailable: DynamoDB did not process all keys within the bounded retries.
    """
    found: list[Item] = []
    for start in range(0, len(keys), BATCH):
        asked: Any = {table: {"Keys": keys[start : start + BATCH], "ConsistentRead": True}}
        for attempt in range(backoff.attempts):
            with store_errors():
                answer = client.batch_get_item(RequestItems=asked)
            found += answer["Responses"].get(table, [])
            asked = answer.get("UnprocessedKeys")
            if not asked:
                break
            backoff.wait(attempt)
        else:
            raise StoreUnavailable(f"not read in {backoff.attempts} attempts")
    return found


@contextmanager
def store_errors() -> Iterator[None]:
    """Translate the errors of a read or a single write, which the SDK has already retried."""
    try:
        yield
    except ClientError as error:
        require_passing(error)
        raise StoreUnavailable(f"the store answers {_code(error)}") from error
    except BotoCoreError as error:
        raise StoreUnavailable(f"the store does not answer: {type(error).__name__}") from error


def require_passing(error: ClientError) -> None:
    """Let an error go on that another attempt might not meet.

    Raises:
        ConfigurationInvalid: no retry helps.
    """
    if _code(error) in WRONG:
        raise ConfigurationInvalid(f"AWS refuses {error.operation_name}: {_code(error)}") from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
