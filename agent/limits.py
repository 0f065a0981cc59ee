"""What each scope may spend in which period: the money limits that both ledgers enforce.

Limits come from the settings of a stage. The control table will tighten them per tenant and user later: whatever
reads it returns a `Limits` here, and the ledgers need not know.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Pool = Literal["user", "tenant", "platform"]
"""The scopes that runs share money in."""

POOLS: tuple[Pool, ...] = ("user", "tenant", "platform")
"""In the order in which the one that has too little is named: the nearest to the user first."""


@dataclass(frozen=True)
class Limits:
    """Money each pool gets at the start of its period, in micro-dollars.

    A changed limit takes effect with the next period; below what is asked it refuses at once.
    """

    user_day_micros: int
    tenant_month_micros: int
    platform_month_micros: int

    def of(self, pool: Pool) -> int:
        """Return the limit of one user, one tenant or the platform."""
        match pool:
            case "user":
                return self.user_day_micros
            case "tenant":
                return self.tenant_month_micros
            case "platform":
                return self.platform_month_micros


def period(pool: Pool, at: datetime) -> str:
    """Return the period that a moment lies in: a UTC day for users (`2026-11-20`), a UTC month else (`2026-11`)."""
    return at.strftime("%Y-%m-%d" if pool == "user" else "%Y-%m")
