"""Circuit breakers in memory: processes share `BreakerItems`, each has breakers of its own over them."""

import threading
from collections import Counter
from dataclasses import dataclass, field

from agent.ports.breakers import BreakerRules
from agent.ports.clock import Clock

STEADY = BreakerRules(failures=5, window_s=30, open_s=30)


@dataclass
class BreakerItems:
    """What is shared: open breakers with the moment their time is up, and failures by window, in seconds."""

    open_until: dict[str, float] = field(default_factory=dict)
    failures: Counter[tuple[str, int]] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


class MemoryBreakers:
    """`ports.Breakers` of one process."""

    def __init__(self, items: BreakerItems, rules: BreakerRules, clock: Clock) -> None:
        self._items = items
        self._rules = rules
        self._clock = clock
        self._probes: dict[str, float] = {}

    def admits(self, name: str, *, patience_s: float) -> bool:
        """See `ports.Breakers`."""
        now = self._clock.now().timestamp()
        with self._items.lock:
            until = self._items.open_until.get(name)
            if until is None:
                return True
            if now < until:
                return False
            self._items.open_until[name] = self._probes[name] = now + patience_s
            return True

    def is_open(self, name: str) -> bool:
        """See `ports.Breakers`."""
        return self._clock.now().timestamp() < self._items.open_until.get(name, 0)

    def failed(self, name: str) -> None:
        """See `ports.Breakers`."""
        now = self._clock.now().timestamp()
        with self._items.lock:
            probe = self._probes.pop(name, None)
            until = self._items.open_until.get(name)
            window = (name, int(now) // self._rules.window_s)
            if probe is not None:
                if until == probe:
                    self._items.open_until[name] = now + self._rules.open_s
                return
            self._items.failures[window] += 1
            if self._items.failures[window] >= self._rules.failures and until is None:
                self._items.open_until[name] = now + self._rules.open_s

    def gave_up(self, name: str) -> None:
        """See `ports.Breakers`."""
        with self._items.lock:
            probe = self._probes.pop(name, None)
            if probe is not None and self._items.open_until.get(name) == probe:
                self._items.open_until[name] = self._clock.now().timestamp()

    def succeeded(self, name: str) -> None:
        """See `ports.Breakers`."""
        with self._items.lock:
            probe = self._probes.pop(name, None)
            if probe is not None and self._items.open_until.get(name) == probe:
                del self._items.open_until[name]
