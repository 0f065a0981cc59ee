"""How long somebody should wait who was refused because too many runs are in flight.

Runs in flight end one by one. When they come and go evenly, what each still has before it lasts on average as long as
what it has behind it (the inspection paradox), and ids tell when a run began: so the mean age of n runs, divided by n,
is when the next place should become free.
"""

import math
from collections.abc import Collection
from datetime import datetime

from ulid import ULID

SHORTEST_S, LONGEST_S = 1, 60


def patience_s(run_ids: Collection[str], now: datetime) -> int:
    """Return after how many seconds one of these runs has probably ended, within bounds."""
    if not run_ids:
        return LONGEST_S
    ages = [max(0.0, now.timestamp() - ULID.from_str(run_id.removeprefix("run_")).timestamp) for run_id in run_ids]
    return min(LONGEST_S, max(SHORTEST_S, math.ceil(sum(ages) / len(ages) ** 2)))
