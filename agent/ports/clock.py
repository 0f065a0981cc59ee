"""Time, as the core asks for it."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Time. The core reads no other clock."""

    def now(self) -> datetime:
        """Return the time in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that only grow, for durations."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...
