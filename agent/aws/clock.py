"""The machine's clock, the only one that Keepgate reads outside of tests."""

import time
from datetime import UTC, datetime


class SystemClock:
    """`ports.Clock` on this machine."""

    def now(self) -> datetime:
        """See `ports.Clock`."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """See `ports.Clock`."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See `ports.Clock`."""
        time.sleep(seconds)
