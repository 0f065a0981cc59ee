"""Many runs at once in time that only the model, the tools and DynamoDB take: a machine's own speed is not in it.

Each actor is a thread (with those it starts), and exactly one of them is at work at any moment. Who sleeps hands over
to whoever wakes first, and the clock jumps there. So a hundred runs in flight are measured on one core, and each time
alike.
"""

import heapq
import itertools
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

BEGINNING = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


class VirtualTime:
    """`ports.Clock` of all actors."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._sleepers: list[tuple[float, int, threading.Event]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._failures: list[BaseException] = []

    def now(self) -> datetime:
        """Return the time in UTC."""
        return BEGINNING + timedelta(seconds=self._now_s)

    def monotonic(self) -> float:
        """Return the seconds since the beginning."""
        return self._now_s

    def sleep(self, seconds: float) -> None:
        """Let the others work until this actor's time has come."""
        woken = threading.Event()
        with self._lock:
            heapq.heappush(self._sleepers, (self._now_s + seconds, next(self._numbers), woken))
        self._wake_next()
        woken.wait()

    def let_all(self, actors: Sequence[Callable[[], None]], *, starts_s: Sequence[float]) -> None:
        """Let each actor begin at its time, and return when all are done; raise what one of them raised."""
        over = threading.Event()
        left = itertools.count(1)
        began_s = self._now_s

        def act(actor: Callable[[], None], begun: threading.Event) -> None:
            begun.wait()
            try:
                actor()
            except BaseException as failure:  # noqa: BLE001 - raised again below
                self._failures.append(failure)
            if next(left) == len(actors):
                over.set()
            else:
                self._wake_next()

        for actor, start_s in zip(actors, starts_s, strict=True):
            begun = threading.Event()
            heapq.heappush(self._sleepers, (began_s + start_s, next(self._numbers), begun))
            threading.Thread(target=act, args=(actor, begun), daemon=True).start()
        self._wake_next()
        over.wait()
        for failure in self._failures:
            raise failure

    def _wake_next(self) -> None:
        with self._lock:
            self._now_s, _, woken = heapq.heappop(self._sleepers)
        woken.set()
