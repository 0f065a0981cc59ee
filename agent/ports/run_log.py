"""The run log's store, and a run to be created in it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from agent.events import Delta, Event, Payload
from agent.limits import DEFAULT_TENANT_RUNS, DEFAULT_USER_RUNS
from agent.run_header import RunHeader


@dataclass(frozen=True)
class NewRun:
    """A run to be created, once per idempotency key of its user."""

    event: Event
    """Event 1."""
    idempotency_key: str | None
    body_sha256: str
    """Of the request's canonical body: the same key with another body is a conflict."""
    user_runs: int = DEFAULT_USER_RUNS
    """How many runs its user may have in flight, this one included."""
    tenant_runs: int = DEFAULT_TENANT_RUNS
    """And its tenant."""
    is_alone: bool = False
    """Whether it is refused while another run of its session is not over."""

    def in_shard(self, shard: int) -> "NewRun":
        """Return the same run in this part of its tenant's set of runs in flight."""
        data = self.event.data.model_copy(update={"tenant_shard": shard})
        return replace(self, event=self.event.model_copy(update={"data": data}))


class RunLog(Protocol):
    """The run log's store. Every read is strongly consistent unless said otherwise."""

    def create(self, run: NewRun) -> RunHeader:
        """Write event 1, the header, the idempotency key and the session's entry in one transaction.

        In the same transaction the run joins the runs in flight of its user, its tenant and its session, which it
        leaves in the one that ends it. A repeated call with the same key and body returns the header of the run that
        exists, however many are in flight.

        Raises:
            IdempotencyKeyReused: the key exists with another body.
            TooManyRuns: user or tenant have as many runs in flight as allowed; nothing is written.
            SessionBusy: the run wants to be alone in its session and is not; nothing is written.
            LogContended: not written within the bounded retries.
        """
        ...

    def header(self, tenant_id: str, run_id: str) -> RunHeader | None:
        """Return a run's header, or None."""
        ...

    def events(self, tenant_id: str, run_id: str, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """Return at most `limit` events after sequence number `after`, contiguous: it stops before any gap."""
        ...

    def append(
        self, header: RunHeader, payloads: Sequence[Payload], *, at: datetime, outside: bool = False
    ) -> RunHeader:
        """Append events after `header.next_seq - 1` and write the header they lead to, in one transaction.

        The holder's append also demands that the header's epoch is still its own. `outside` is for events of
        `events.OUTSIDE` only. Transaction conflicts, throttling and lost replies are retried here, with jitter and
        a bound; an append whose reply was lost is recognised by its nonce and counts as done.

        Raises:
            LogMoved: somebody else appended first.
            LogContended: not written within the bounded retries.
            ValueError: `outside` with an event only a holder may append, or more events than one transaction takes.
        """
        ...

    def write_delta(self, tenant_id: str, run_id: str, delta: Delta) -> None:
        """Store a piece of streamed text for about an hour. Losing one is harmless: `model.completed` has it all."""
        ...

    def deltas(self, tenant_id: str, run_id: str, seq: int, *, from_index: int = 0) -> list[Delta]:
        """Return the contiguous pieces streamed after the `model.started` at `seq`, in order, from `from_index` on."""
        ...

    def runs_of_user(
        self, tenant_id: str, user_id: str, *, limit: int, before: str | None = None
    ) -> tuple[list[RunHeader], str | None]:
        """Return a user's newest runs (eventually consistent), older than run id `before`, and the next `before`."""
        ...

    def runs_of_session(self, tenant_id: str, user_id: str, session_id: str, *, limit: int) -> list[RunHeader]:
        """Return the newest ended-or-not runs of a session, oldest first."""
        ...

    def runs_awaiting_approval(
        self, tenant_id: str, *, limit: int, after: str | None = None
    ) -> tuple[list[RunHeader], str | None]:
        """Return a tenant's runs with approvals to decide, oldest first, behind run id `after`, and the next `after`.

        Eventually consistent; a run that has none any more is left out.
        """
        ...

    def open_runs_of_session(self, tenant_id: str, user_id: str, session_id: str) -> list[str]:
        """Return the ids of a session's runs that are not over, in the order in which they were created.

        That order is the store's, not that of the ids: who was created later sees all who were created before.
        """
        ...

    def due_runs(self, now: datetime, *, limit: int) -> list[RunHeader]:
        """Return runs whose `due_at` has passed (eventually consistent), from all shards, at most `limit`."""
        ...

    def postpone(self, header: RunHeader, due_at: datetime) -> bool:
        """Move `due_at` of an unchanged header; False where the run has moved on meanwhile."""
        ...
