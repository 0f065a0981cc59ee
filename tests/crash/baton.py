"""Processes that take turns: each call to the outside waits for the baton, and a schedule says who gets it next.

An actor is a thread with the threads it starts: a `Strike` counts every call of every process, so it is where they can
all be made to wait. Between two calls of an actor nobody else runs, so a schedule says exactly what happens.
"""

import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar

from agent.testing.crash import Killed, Strike

PATIENCE_S = 20
"""Real time that the next call of an actor may take to come: a deadlock in the test is told, not sat out."""

acting: ContextVar[int | None] = ContextVar("acting", default=None)


class Baton(Strike):
    """Makes actors take turns, as a schedule of numbers says; when it is used up, they go in order."""

    def __init__(self, schedule: Sequence[int]) -> None:
        super().__init__()
        self._schedule = list(schedule)
        self._moved = threading.Condition()
        self._waiting: dict[int, int] = {}
        self._ended: set[int] = set()
        self._turn: int | None = None
        self._failures: list[BaseException] = []

    def hits(self, name: str) -> bool:
        """Wait for the baton; never strike. Outside a race, calls go through."""
        actor = acting.get()
        if actor is not None:
            with self._moved:
                self._waiting[actor] += 1
                self._moved.notify_all()
                self._moved.wait_for(lambda: self._turn == actor or actor in self._ended)
                if actor in self._ended:
                    raise Killed(name)  # left behind by a process that is over
                self._turn = None
                self._waiting[actor] -= 1
                self._moved.notify_all()
        return super().hits(name)

    def race(self, actors: Sequence[Callable[[], object]]) -> None:
        """Let all act, one call at a time, until all are done; raise what one of them raised."""
        self._waiting = dict.fromkeys(range(len(actors)), 0)
        threads = [threading.Thread(target=self._act, args=pair, daemon=True) for pair in enumerate(actors)]
        for thread in threads:
            thread.start()
        while running := self._at_the_baton():
            number = self._schedule.pop(0) if self._schedule else 0
            with self._moved:
                self._turn = running[number % len(running)]
                self._moved.notify_all()
        for thread in threads:
            thread.join(PATIENCE_S)
        for failure in self._failures:
            raise failure

    def _at_the_baton(self) -> list[int]:
        """Return the actors that are not done, once each of them waits for the baton."""

        def still() -> bool:
            return self._turn is None and all(count or a in self._ended for a, count in self._waiting.items())

        with self._moved:
            assert self._moved.wait_for(still, PATIENCE_S), "an actor neither calls nor ends"
            return [actor for actor in self._waiting if actor not in self._ended]

    def _act(self, actor: int, act: Callable[[], object]) -> None:
        acting.set(actor)
        try:
            act()
        except BaseException as failure:  # noqa: BLE001 - raised again by `race`
            self._failures.append(failure)
        finally:
            with self._moved:
                self._ended.add(actor)
                if self._turn == actor:
                    self._turn = None
                self._moved.notify_all()
