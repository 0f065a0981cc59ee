"""The run log in memory: the twin of `agent.aws.run_log.DynamoDbRunLog`, held to the same contract suite."""

import itertools
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta

from agent.errors import IdempotencyKeyReused, LogMoved, SessionBusy, TooManyRuns
from agent.events import Delta, Event, Payload
from agent.in_flight import patience_s
from agent.ports.run_log import NewRun
from agent.run_header import RunHeader, advance, extend

KEY_LIFE = timedelta(hours=24)
"""How long an idempotency key is remembered."""


class MemoryRunLog:
    """`ports.RunLog` for tests: one lock in the place of transactions."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._headers: dict[tuple[str, str], RunHeader] = {}
        self._events: dict[tuple[str, str], list[Event]] = {}
        self._deltas: dict[tuple[str, str, int], dict[int, Delta]] = {}
        self._keys: dict[tuple[str, str, str], tuple[str, str, datetime]] = {}
        self._nonces = itertools.count(1)

    def create(self, run: NewRun) -> RunHeader:
        """See `ports.RunLog`."""
        with self._lock:
            header = advance(None, run.event)
            tenant = header.tenant_id
            if run.idempotency_key is not None:
                key = (tenant, header.user_id, run.idempotency_key)
                run_id, digest, expires_at = self._keys.get(key, ("", "", run.event.at))
                if expires_at > run.event.at:
                    if digest != run.body_sha256:
                        raise IdempotencyKeyReused("this Idempotency-Key came with another body before; use a new key")
                    return self._headers[tenant, run_id]
            if (tenant, header.run_id) in self._headers:
                raise LogMoved(f"{header.run_id} exists")
            self._require_room(run, header)
            if run.idempotency_key is not None:
                self._keys[key] = (header.run_id, run.body_sha256, run.event.at + KEY_LIFE)
            self._headers[tenant, header.run_id] = header
            self._events[tenant, header.run_id] = [run.event]
            return header

    def _require_room(self, run: NewRun, header: RunHeader) -> None:
        in_flight = [h for h in self._headers.values() if h.tenant_id == header.tenant_id and not h.is_over]
        own = [h for h in in_flight if h.user_id == header.user_id]
        session = header.session_id
        if run.is_alone and session is not None and any(h.session_id == session for h in own):
            raise SessionBusy("an earlier run of this session is not over; wait for it or cancel it")
        for runs, most in ((own, run.user_runs), (in_flight, run.tenant_runs)):
            if len(runs) >= most:
                retry_after_s = patience_s([h.run_id for h in runs], run.event.at)
                raise TooManyRuns(f"{len(runs)} runs are in flight, as many as allowed", retry_after_s=retry_after_s)

    def header(self, tenant_id: str, run_id: str) -> RunHeader | None:
        """See `ports.RunLog`."""
        with self._lock:
            return self._headers.get((tenant_id, run_id))

    def events(self, tenant_id: str, run_id: str, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """See `ports.RunLog`."""
        with self._lock:
            return self._events.get((tenant_id, run_id), [])[after : after + limit]

    def append(
        self, header: RunHeader, payloads: Sequence[Payload], *, at: datetime, outside: bool = False
    ) -> RunHeader:
        """See `ports.RunLog`."""
        nonce = f"n{next(self._nonces)}"
        events, after = extend(header, payloads, at=at, nonce=nonce, outside=outside)
        with self._lock:
            key = (header.tenant_id, header.run_id)
            current = self._headers[key]
            if current.next_seq != header.next_seq or (not outside and current.epoch != header.epoch):
                raise LogMoved(f"{header.run_id} is at {current.next_seq}, not {header.next_seq}")
            self._headers[key] = after
            self._events[key].extend(events)
            return after

    def write_delta(self, tenant_id: str, run_id: str, delta: Delta) -> None:
        """See `ports.RunLog`."""
        with self._lock:
            self._deltas.setdefault((tenant_id, run_id, delta.seq), {})[delta.index] = delta

    def deltas(self, tenant_id: str, run_id: str, seq: int, *, from_index: int = 0) -> list[Delta]:
        """See `ports.RunLog`."""
        with self._lock:
            pieces = self._deltas.get((tenant_id, run_id, seq), {})
            return [pieces[i] for i in itertools.takewhile(pieces.__contains__, itertools.count(from_index))]

    def runs_of_user(
        self, tenant_id: str, user_id: str, *, limit: int, before: str | None = None
    ) -> tuple[list[RunHeader], str | None]:
        """See `ports.RunLog`."""
        with self._lock:
            own = [h for h in self._headers.values() if (h.tenant_id, h.user_id) == (tenant_id, user_id)]
        own = sorted((h for h in own if before is None or h.run_id < before), key=lambda h: h.run_id, reverse=True)
        return own[:limit], own[limit - 1].run_id if len(own) > limit else None

    def runs_of_session(self, tenant_id: str, user_id: str, session_id: str, *, limit: int) -> list[RunHeader]:
        """See `ports.RunLog`."""
        with self._lock:
            own = [h for h in self._headers.values() if (h.tenant_id, h.user_id) == (tenant_id, user_id)]
        return sorted((h for h in own if h.session_id == session_id), key=lambda h: h.run_id)[-limit:]

    def runs_awaiting_approval(
        self, tenant_id: str, *, limit: int, after: str | None = None
    ) -> tuple[list[RunHeader], str | None]:
        """See `ports.RunLog`."""
        with self._lock:
            waiting = [h for h in self._headers.values() if h.tenant_id == tenant_id and h.approvals]
        waiting = sorted((h for h in waiting if after is None or h.run_id > after), key=lambda h: h.run_id)
        return waiting[:limit], waiting[limit - 1].run_id if len(waiting) > limit else None

    def open_runs_of_session(self, tenant_id: str, user_id: str, session_id: str) -> list[str]:
        """See `ports.RunLog`."""
        own = (tenant_id, user_id, session_id)  # and a dict keeps its keys in the order in which they came
        return [h.run_id for h in self.open_runs() if (h.tenant_id, h.user_id, h.session_id) == own]

    def open_runs(self) -> list[RunHeader]:
        """Return every run that is not over."""
        with self._lock:
            return [header for header in self._headers.values() if not header.is_over]

    def due_runs(self, now: datetime, *, limit: int) -> list[RunHeader]:
        """See `ports.RunLog`."""
        with self._lock:
            due = [(h.due_at, h) for h in self._headers.values() if h.due_at is not None and h.due_at <= now]
        return [h for _, h in sorted(due, key=lambda pair: pair[0])[:limit]]

    def postpone(self, header: RunHeader, due_at: datetime) -> bool:
        """See `ports.RunLog`."""
        with self._lock:
            key = (header.tenant_id, header.run_id)
            if self._headers[key] != header:
                return False
            self._headers[key] = header.model_copy(update={"due_at": due_at})
            return True
