"""A clock that stands still until told."""

from datetime import UTC, datetime, timedelta


class FakeClock:
    """`ports.Clock` under the test's control."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)) -> None:
        self._now = start
        self._seconds = 0.0

    def now(self) -> datetime:
        """Return the time it was set to."""
        return self._now

    def monotonic(self) -> float:
        """Return the seconds it was moved by."""
        return self._seconds

    def sleep(self, seconds: float) -> None:
        """Let time pass at once."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += timedelta(seconds=seconds)
        self._seconds += seconds
