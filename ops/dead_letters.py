"""Jobs that were given up: what lies in the dead-letter queue, and how it goes back. A message holds ids only.

A job goes back by being sent again and then deleted; one that dies in between is there twice, which is harmless: what
the run's log shows decides, not the job. So are jobs of runs that are over: they are dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_MESSAGES = 1_000
HELD_S = 60
"""How long a looked-at message is hidden from others, should we not get to give it back."""
EMPTY_ANSWERS = 2
"""SQS may answer with nothing although there is something: so often in a row means none."""


@dataclass(frozen=True)
class DeadLetter:
    """One message, held by us for a moment."""

    message_id: str
    body: str
    receives: int
    receipt: str


@dataclass(frozen=True)
class DeadLetters:
    """The queue of tool jobs and its dead letters."""

    sqs: Any
    url: str
    jobs_url: str

    def look(self, limit: int) -> list[DeadLetter]:
        """Return at most `limit` dead letters and leave them where they are. Each look counts as a receive."""
        letters = list(self._hold(limit))
        for letter in letters:
            self.sqs.change_message_visibility(QueueUrl=self.url, ReceiptHandle=letter.receipt, VisibilityTimeout=0)
        return letters

    def redrive(self, limit: int) -> int:
        """Send at most `limit` dead letters to the queue of jobs again; return how many."""
        count = 0
        for letter in self._hold(limit):
            self.sqs.send_message(QueueUrl=self.jobs_url, MessageBody=letter.body)
            self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=letter.receipt)
            count += 1
        return count

    def _hold(self, limit: int) -> Iterator[DeadLetter]:
        seen, empty, left = set[str](), 0, min(limit, MAX_MESSAGES)
        while left > 0 and empty < EMPTY_ANSWERS:
            answer = self.sqs.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=min(10, left),
                VisibilityTimeout=HELD_S,
                WaitTimeSeconds=1,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            )
            new = [message for message in answer.get("Messages", []) if message["MessageId"] not in seen]
            empty = 0 if new else empty + 1
            for message in new:
                seen.add(message["MessageId"])
                left -= 1
                receives = int(message["Attributes"]["ApproximateReceiveCount"])
                yield DeadLetter(message["MessageId"], message["Body"], receives, message["ReceiptHandle"])
