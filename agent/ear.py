"""Doing something slow without going deaf: work on threads of its own, listened over from the holder's thread.

A thread can't be killed. Work that is given up (`abandon`) stops at its next item and what it yields goes nowhere; what
it may still do to the world is the reason why `tool.started` stands in the log before it.
"""

import contextvars
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from agent.ports.clock import Clock

T = TypeVar("T")


class TimeIsUp(Exception):
    """The work did not end within its hard timeout."""


@dataclass(frozen=True)
class _Ended:
    """A producer has nothing more to give; or it raised, which is for whoever reads."""

    error: BaseException | None = None


class Background(Generic[T]):
    """Producers on threads, and the one reader of what they yield."""

    def __init__(self, clock: Clock, *, listen_every_s: float) -> None:
        self._clock = clock
        self._listen_every_s = listen_every_s
        self._items: queue.SimpleQueue[T | _Ended] = queue.SimpleQueue()
        self._abandoned = threading.Event()
        self._open = 0

    def start(self, produce: Callable[[], Iterable[T]]) -> None:
        """Run a producer on a new thread, within the caller's trace."""
        self._open += 1
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._run, produce), daemon=True).start()

    def read(self, hear: Callable[[], None], *, until: float) -> Iterator[T]:
        """Yield items until every producer has ended, calling `hear` at least every `listen_every_s`.

        `until` is a moment of the clock's `monotonic`. It also bounds how long this waits for items, so that a clock
        which stands still does not make it wait for ever.

        Raises:
            TimeIsUp: not over by `until`.
            BaseException: whatever `hear` or a producer raised.
        """
        heard = self._clock.monotonic()
        patience = until - heard
        while self._open:
            left = min(patience, until - self._clock.monotonic())
            if left <= 0:
                raise TimeIsUp
            wait = min(self._listen_every_s, left)
            try:
                item = self._items.get(timeout=wait)
            except queue.Empty:
                patience -= wait
                hear()
                heard = self._clock.monotonic()
                continue
            if isinstance(item, _Ended):
                self._open -= 1
                if item.error is not None:
                    raise item.error
                continue
            yield item
            if self._clock.monotonic() - heard >= self._listen_every_s:
                hear()
                heard = self._clock.monotonic()

    def abandon(self) -> None:
        """Give the work up."""
        self._abandoned.set()

    def _run(self, produce: Callable[[], Iterable[T]]) -> None:
        error: BaseException | None = None
        try:
            items = produce()
            for item in items:
                self._items.put(item)
                if self._abandoned.is_set():
                    break
            if close := getattr(items, "close", None):
                close()
        except BaseException as raised:  # noqa: BLE001 - it is raised again where the items are read
            error = raised
        self._items.put(_Ended(error))
