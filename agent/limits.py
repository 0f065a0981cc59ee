"""What each scope may use: money in a period, runs in flight, jobs in the queue, calls of a tool. Limits are data.

A stage has defaults, an agent those of its tools (limits.toml); operators override them in the control table
(`ports.LimitBook`) for the platform, a tenant or a user, and the narrowest scope that sets a limit wins. It lifts no
wider one: a user's and the tenant's are both kept. What is changed holds within seconds, for money too: an account of
the current period gets the difference.

Every period and window stands fixed in UTC. So in a span of a window's length that crosses its end, twice the limit may
pass: the price of counting in one item instead of remembering each call.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, cast, get_args

from agent.errors import ConfigurationInvalid, InputInvalid

Pool = Literal["user", "tenant", "platform"]
"""The scopes that runs share money in."""

POOLS: tuple[Pool, ...] = ("user", "tenant", "platform")
"""In the order in which the one that has too little is named: the nearest to the user first."""

LimitName = str
"""One of `NAMES`, or an allowance of a tool: `issue_refund.amount_cents.user_day`."""

NAMES: tuple[LimitName, ...] = (
    "user_day_micros",
    "tenant_month_micros",
    "platform_month_micros",
    "user_runs",
    "tenant_runs",
    "tenant_jobs",
)

DEFAULT_USER_RUNS = 20
DEFAULT_TENANT_RUNS = 200
DEFAULT_TENANT_JOBS = 20
MAX_COUNT = 10_000
"""Of runs or jobs: they stand in sets of ids, each in one item of at most 400 KB."""
MAX_MICROS = 10**12
"""A million dollars; also the most that an allowance may be."""


Sharer = Literal["user", "tenant"]
Window = Literal["minute", "hour", "day"]

CALLS = "calls"
"""What a rate counts; everything else that is counted is an argument, summed."""

_ALLOWANCE = re.compile(rf"([a-z][a-z0-9_]*)\.({'|'.join(get_args(Sharer))})_({'|'.join(get_args(Window))})")
_LENGTH: dict[Window, timedelta] = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}
_FORMAT: dict[Window, str] = {"minute": "%Y-%m-%dT%H:%M", "hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d"}


@dataclass(frozen=True)
class Allowance:
    """What the calls of a tool use up together in one window: their number (a rate), or the sum of an argument."""

    what: str
    """`calls`, or the argument's name."""
    sharer: Sharer
    """Who shares it: the calls of one user, or of all of a tenant."""
    window: Window

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read `calls.user_minute` or `amount_cents.tenant_day`, as a contract says it.

        Raises:
            ValueError: it is not of this form.
        """
        found = _ALLOWANCE.fullmatch(name)
        if found is None:
            raise ValueError(f"{name!r} is no allowance: `calls` or an argument, a dot, user or tenant, _minute … _day")
        what, sharer, window = found.groups()
        return cls(what, cast("Sharer", sharer), cast("Window", window))

    def period(self, at: datetime) -> str:
        """Return the window that a moment lies in."""
        return at.astimezone(UTC).strftime(_FORMAT[self.window])

    def renews_at(self, at: datetime) -> datetime:
        """Return when the next window begins."""
        begun = datetime.strptime(self.period(at), _FORMAT[self.window]).replace(tzinfo=UTC)
        return begun + _LENGTH[self.window]


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
    allowances: Mapping[LimitName, int] = field(default_factory=lambda: MappingProxyType({}))
    """By the tool's name and the allowance as its contract says it. What has no number here is not allowed."""

    def allowance(self, tool: str, name: str) -> int:
        """Return how much of an allowance there is in a window."""
        return self.allowances.get(f"{tool}.{name}", 0)

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
        own: dict[str, Any] = {}
        allowances = dict(self.allowances)
        for override in overrides:
            own |= {name: value for name, value in override.items() if name in NAMES}
            # One set for a tool that is gone since means nothing any more.
            allowances |= {name: value for name, value in override.items() if name in allowances}
        return replace(self, **own, allowances=MappingProxyType(allowances))

    def capped(self, caps: Iterable[Mapping[LimitName, int]]) -> "Limits":
        """Return these limits, none above what a tenant's own operators have set, the widest scope first."""
        own: dict[LimitName, int] = {}
        for cap in caps:
            own |= cap
        holds = self.as_mapping()
        return self.overridden([{name: min(value, holds[name]) for name, value in own.items() if name in holds}])

    def as_mapping(self) -> dict[LimitName, int]:
        """Return each limit by name."""
        named = asdict(replace(self, allowances={}))
        del named["allowances"]
        return {**named, **self.allowances}


@dataclass(frozen=True)
class LimitScope:
    """Whom an override is for: the platform, all of one tenant, or one user of it."""

    tenant_id: str = ""
    user_id: str = ""
    by_tenant: bool = False
    """Whether the tenant's own operators set it: then it can only lower what the platform's have."""

    @property
    def key(self) -> str:
        """The scope's key in the control table. Each writer has a prefix of its own, for IAM to tell apart."""
        prefix = "OWN_LIMIT" if self.by_tenant else "LIMIT"
        return "#".join([prefix, *(part for part in (self.tenant_id, self.user_id) if part)])

    def names(self, limits: Limits) -> tuple[LimitName, ...]:
        """Return the limits this scope can set: for itself, and for all that is inside it."""
        narrowest: Pool = "user" if self.user_id else "tenant" if self.tenant_id else "platform"
        inside = POOLS[: POOLS.index(narrowest) + 1]
        return tuple(name for name in limits.as_mapping() if name.rpartition(".")[2].partition("_")[0] in inside)

    def require(self, name: str, value: int | None, *, known: Limits) -> LimitName:
        """Check an override; a value of None takes it away.

        Raises:
            InputInvalid: this scope has no such limit, or the value is out of bounds.
        """
        names = self.names(known)
        if name not in names:
            raise InputInvalid(f"there is no such limit here; there are {', '.join(names)}", field="name")
        most = MAX_MICROS if name.endswith("_micros") or "." in name else MAX_COUNT
        if value is not None and not 0 <= value <= most:
            raise InputInvalid(f"{name} is between 0 and {most}", field="value")
        return name


def scopes(tenant_id: str, user_id: str) -> list[LimitScope]:
    """Return the scopes that say what holds for a user of a tenant, the widest first; without either, the platform."""
    return list(dict.fromkeys((LimitScope(), LimitScope(tenant_id), LimitScope(tenant_id, user_id))))


def own_scopes(tenant_id: str, user_id: str) -> list[LimitScope]:
    """Return the scopes in which a tenant's own operators lower limits, the widest first."""
    return [replace(scope, by_tenant=True) for scope in scopes(tenant_id, user_id) if scope.tenant_id]


def require_below(ceilings: Limits, name: LimitName, value: int) -> None:
    """Check what a tenant's operator sets.

    Raises:
        InputInvalid: it is above what the platform's operators allow.
    """
    ceiling = ceilings.as_mapping()[name]
    if value > ceiling:
        raise InputInvalid(f"{name} can only be lowered, and is {ceiling} now", field="value")


def period(pool: Pool, at: datetime) -> str:
    """Return the period that a moment lies in: a UTC day for users (`2026-11-20`), a UTC month else (`2026-11`)."""
    return at.strftime("%Y-%m-%d" if pool == "user" else "%Y-%m")


def read_allowances(path: Path, stage: str) -> dict[LimitName, int]:
    """Return what an agent's limits.toml allows its tools in a stage: a table a tool, `stages.<stage>` before it.

    Raises:
        ConfigurationInvalid: there is no such file, or a line of it is no allowance with a number.
    """
    own, stages = _tables(path)
    numbers: dict[LimitName, int] = {}
    for tools in (own, stages.get(stage, {})):
        for tool, allowances in tools.items():
            for name, number in allowances.items():
                numbers[f"{tool}.{name}"] = _allowed(path, f"{tool}.{name}", name, number)
    return numbers


def stages_named(path: Path) -> frozenset[str]:
    """Return the stages that an agent's limits.toml has tables of their own for.

    Raises:
        ConfigurationInvalid: as above.
    """
    return frozenset(_tables(path)[1])


def _tables(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tables of tools, and by stage those that come before them."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as wrong:
        raise ConfigurationInvalid(f"{path.name}: {wrong}") from wrong
    stages = document.pop("stages", {})
    within = {"": document} | {f"stages.{name}.": tools for name, tools in _table(path, "stages", stages).items()}
    for prefix, tools in within.items():
        for tool, allowances in _table(path, prefix.rstrip("."), tools).items():
            _table(path, f"{prefix}{tool}", allowances)
    return document, stages


def _table(path: Path, where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationInvalid(f"{path.name}: {where} is no table, such as [search_policy]")
    return value


def _allowed(path: Path, where: str, name: str, number: object) -> int:
    try:
        Allowance.parse(name)
    except ValueError as wrong:
        raise ConfigurationInvalid(f"{path.name}: {where}: {wrong}") from wrong
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= MAX_MICROS:
        raise ConfigurationInvalid(f"{path.name}: {where} is not between 0 and {MAX_MICROS}")
    return number
