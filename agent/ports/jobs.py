"""The line in which queued calls wait, the queue they go through, and what their tools tell on the way."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True)
class WaitingJob:
    """A queued call that has its slot and is to be sent."""

    tenant_id: str
    run_id: str
    call_id: str
    since: datetime
    traceparent: str | None


@dataclass(frozen=True)
class JobLine:
    """A tenant's line that somebody should look at: calls may wait in it though slots are free."""

    tenant_id: str
    due_at: datetime


class JobLines(Protocol):
    """Each tenant's queued calls, first come first served, and the slots that bound how many are in the queue at once.

    A call gets in line with `tool.queued`, and leaves line and slot with its result or its run's end, in the run log's
    own transactions: what waits here and what the logs say can't differ.
    """

    def take(self, tenant_id: str, *, slots: int, at: datetime) -> list[WaitingJob]:
        """Give the free slots to those that wait longest, and return what is to be sent now.

        A job that somebody took a while ago and never called `sent` for is returned again.

        Raises:
            StoreUnavailable: not done within the bounded retries.
        """
        ...

    def sent(self, job: WaitingJob) -> None:
        """Note that a job is in the queue. Its slot stays taken."""
        ...

    def due_lines(self, now: datetime, *, limit: int) -> list[JobLine]:
        """Return lines that got longer a minute ago or more and were not looked after since (eventually consistent)."""
        ...

    def looked_after(self, line: JobLine, *, at: datetime) -> None:
        """Let a line be due again in a minute where calls still wait in it, and else when one comes."""
        ...


class ProgressNotes(Protocol):
    """What tools of the queue tell while they work, on its way from the tool's room into the run's log."""

    def write(self, tenant_id: str, run_id: str, call_id: str, *, attempt: int, index: int, text: str) -> None:
        """Keep note number `index` (from 0, below `events.MAX_PROGRESS_NOTES`) of a start, for about an hour.

        Raises:
            StoreUnavailable: perhaps not kept.
        """
        ...

    def read(self, tenant_id: str, run_id: str, call_id: str, *, attempt: int, from_index: int) -> list[str]:
        """Return the notes of a start from an index on, in order.

        Raises:
            StoreUnavailable: no answer within the bounded retries.
        """
        ...


class ToolQueue(Protocol):
    """Takes calls whose contract is `queued`."""

    def send(self, tenant_id: str, run_id: str, call_id: str, *, traceparent: str | None) -> None:
        """Enqueue a call; sending one twice is harmless.

        Raises:
            StoreUnavailable: not sent within the bounded retries.
        """
        ...
