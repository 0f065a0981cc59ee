"""Killing a process at one chosen call to the outside, before it takes effect or after, when its reply is lost.

A `Process` wraps the ports that an invocation works with. The dead make no more calls: a thread that a killed process
left behind gets `Killed` from every port. Instead of dying, the call can also fail with an error of its port.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

P = TypeVar("P")


class Killed(BaseException):
    """The process is no more. Derives from `BaseException` so that nothing in it handles its own death."""


@dataclass
class Strike:
    """Which call, counted from 0 over all processes, is struck, and how. None only counts."""

    at: int | None = None
    when: Literal["before", "after"] = "before"
    error: bool = False
    """Whether the call fails with an error of its port, instead of killing the process."""
    calls: list[str] = field(default_factory=list)
    """Every call that was made, as `Port.method`."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def hits(self, name: str) -> bool:
        """Count a call; tell whether it is the one."""
        with self.lock:
            self.calls.append(name)
            return self.at == len(self.calls) - 1

    def every(self) -> Iterator[tuple["Strike", str]]:
        """Yield each way to strike one of the calls that were counted here, with a word on where it strikes."""
        whens: tuple[Literal["before", "after"], ...] = ("before", "after")
        for (at, call), when, error in itertools.product(enumerate(self.calls), whens, (False, True)):
            where = f"{'error' if error else 'kill'} {when} {call} (call {at})"
            yield Strike(at=at, when=when, error=error), where


class Process:
    """One invocation's life: wraps ports until it is killed."""

    def __init__(self, strike: Strike) -> None:
        self._strike = strike
        self._dead = threading.Event()

    def wrap(self, port: P, error: type[Exception] | None = None) -> P:
        """Return the port with each call counted, and perhaps struck. Without `error`, only killing strikes it."""
        return cast("P", _Wrapped(self, port, error))

    def call(self, name: str, act: Callable[[], Any], error: type[Exception] | None) -> Any:  # noqa: ANN401 - any port
        """Make a call as the strike allows."""
        if self._dead.is_set():
            raise Killed(name)
        if not self._strike.hits(name) or (self._strike.error and error is None):
            result = act()
            if self._dead.is_set():
                raise Killed(name)
            return result
        if self._strike.when == "after":
            act()
        if self._strike.error and error is not None:
            raise error(f"struck at {name}")
        self._dead.set()
        raise Killed(name)

    def iterate(self, name: str, items: Iterator[Any], error: type[Exception] | None) -> Iterator[Any]:
        """Yield a stream's items, each of which is a call."""
        end = object()
        while (item := self.call(name, functools.partial(next, items, end), error)) is not end:
            yield item


class _Wrapped:
    def __init__(self, process: Process, port: object, error: type[Exception] | None) -> None:
        self._process, self._port, self._error = process, port, error

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any port
        method = getattr(self._port, name)
        full_name = f"{type(self._port).__name__}.{name}"

        def call(*args: object, **kwargs: object) -> Any:  # noqa: ANN401 - any port
            act = functools.partial(method, *args, **kwargs)
            if name == "stream":
                return self._process.iterate(full_name, act(), self._error)
            return self._process.call(full_name, act, self._error)

        return call
