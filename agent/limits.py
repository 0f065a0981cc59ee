"""What each scope may use: money in a period, runs in flight, jobs in the queue. Limits are data.

A stage has defaults; operators override them in the control table (`ports.LimitBook`) for the platform, a tenant or a
user, and the narrowest scope that sets a limit wins. What is changed holds within seconds, for money too: an account of
the current period gets the difference.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Literal, cast, get_args

from agent.errors import InputInvalid

Pool = Literal["user", "tenant", "platform"]
"""The scopes that runs share money in."""

POOLS: tuple[Pool, ...] = ("user", "tenant", "platform")
"""In the order in which the one that has too little is named: the nearest to the user first."""

LimitName = Literal[
    "user_day_micros", "tenant_month_micros", "platform_month_micros", "user_runs", "tenant_runs", "tenant_jobs"
]
NAMES: tuple[LimitName, ...] = get_args(LimitName)

DEFAULT_USER_RUNS = 20
DEFAULT_TENANT_RUNS = 200
DEFAULT_TENANT_JOBS = 20
MAX_COUNT = 10_000
"""Of runs or jobs: they stand in sets of ids, each in one item of at most 400 KB."""
MAX_MICROS = 10**12
"""A million dollars."""


@dataclass(frozen=True)
class Limits:
    """Money each pool gets at the start of its period, in micro-dollars, and how much may be under way at once."""

    user_day_micros: int
    tenant_month_micros: int
    platform_month_micros: int
    user_runs: int = DEFAULT_USER_RUNS
    """Runs of one user that are not over."""
    tenant_runs: int = DEFAULT_TENANT_RUNS
    tenant_jobs: int = DEFAULT_TENANT_JOBS
    """Jobs of one tenant in the tool queue; further ones wait in the log."""

    def of(self, pool: Pool) -> int:
        """Return the money of one user, one tenant or the platform."""
        match pool:
            case "user":
                return self.user_day_micros
            case "tenant":
                return self.tenant_month_micros
            case "platform":
                return self.platform_month_micros

    def overridden(self, overrides: Iterable[Mapping[LimitName, int]]) -> "Limits":
        """Return these limits with what the scopes set, the widest first."""
        limits = self
        for override in overrides:
            limits = replace(limits, **{str(name): value for name, value in override.items()})
        return limits

    def as_mapping(self) -> dict[LimitName, int]:
        """Return each limit by name."""
        return cast("dict[LimitName, int]", asdict(self))


@dataclass(frozen=True)
class LimitScope:
    """Whom an override is for: the platform, all of one tenant, or one user of it."""

    tenant_id: str = ""
    user_id: str = ""

    @property
    def key(self) -> str:
        """The scope's key in the control table."""
        return "#".join(["LIMIT", *(part for part in (self.tenant_id, self.user_id) if part)])

    @property
    def names(self) -> tuple[LimitName, ...]:
        """The limits this scope can set: for itself, and for all that is inside it."""
        narrowest: Pool = "user" if self.user_id else "tenant" if self.tenant_id else "platform"
        inside = POOLS[: POOLS.index(narrowest) + 1]
        return tuple(name for name in NAMES if name.partition("_")[0] in inside)

    def require(self, name: str, value: int | None) -> LimitName:
        """Check an override; a value of None takes it away.

        Raises:
            InputInvalid: this scope has no such limit, or the value is out of bounds.
        """
        if name not in self.names:
            raise InputInvalid(f"there is no such limit here; there are {', '.join(self.names)}", field=name)
        most = MAX_MICROS if name.endswith("_micros") else MAX_COUNT
        if value is not None and not 0 <= value <= most:
            raise InputInvalid(f"a limit is between 0 and {most}", field=name)
        return name


def scopes(tenant_id: str, user_id: str) -> list[LimitScope]:
    """Return the scopes that say what holds for a user of a tenant, the widest first."""
    whole = [LimitScope(), LimitScope(tenant_id)]
    return [*whole, LimitScope(tenant_id, user_id)] if user_id else whole


def period(pool: Pool, at: datetime) -> str:
    """Return the period that a moment lies in: a UTC day for users (`2026-11-20`), a UTC month else (`2026-11`)."""
    return at.strftime("%Y-%m-%d" if pool == "user" else "%Y-%m")
