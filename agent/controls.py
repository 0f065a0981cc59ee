"""Kill switches and modes: what operators have switched off, or made stricter, and what that means for one run.

A switch hangs on a *board*: the platform's own, the platform's for one tenant, or the one of a tenant's own operators.
Boards differ in who may write them; all three hold for a run, and none of them can loosen another. A switch ends by the
clock at its `expires_at`: what a store removes, and when, is only tidying up.

What a switch does stands where it takes effect: admission, loop, gate, turn, queue. Here it is only looked up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from agent.errors import InputInvalid

Kind = Literal["everything", "new_runs", "user", "agent", "release", "tool", "model", "force_review", "read_only"]
"""What is switched: all of the board's runs, new ones only, those of one user, agent or release, one tool, one model.

`force_review` and `read_only` are modes: switched *on*, they make every decision of policy stricter.
"""

KeptBack = Literal["switched_off", "review"]
"""Why a call that was allowed does not begin: operators have stopped it, or want a person to see it first."""

NAMED: frozenset[Kind] = frozenset({"user", "agent", "release", "tool", "model"})

MAX_DURATION = timedelta(days=30)
"""Of a switch: one that is still needed then is a change of the release, the policy or the contract."""
MAX_SWITCHES = 50
"""On one board, so that what every run reads stays small."""


class Part(BaseModel):
    """What the models of this file share: frozen, and no field that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Target(Part):
    """What a switch is for."""

    kind: Kind
    name: str = Field(default="", pattern=r"^[A-Za-z0-9_.:@+/-]{0,128}$")
    """Of the user, agent, release, tool or model; empty for the other kinds."""

    @model_validator(mode="after")
    def _require_name(self) -> Self:
        if (self.kind in NAMED) != bool(self.name):
            raise ValueError(f"{self.kind} needs a name" if self.kind in NAMED else f"{self.kind} has no name")
        return self

    @property
    def id(self) -> str:
        """The target in one word: `tool:issue_refund`, `everything`."""
        return f"{self.kind}:{self.name}" if self.name else self.kind


@dataclass(frozen=True)
class Board:
    """Whose runs its switches are for, and who writes them."""

    tenant_id: str = ""
    """Empty: everybody's."""
    by_tenant: bool = False
    """Whether the tenant's own operators write it, not the platform's."""

    def __post_init__(self) -> None:
        if self.by_tenant and not self.tenant_id:
            raise ValueError("a board that a tenant writes is that tenant's")

    @property
    def key(self) -> str:
        """The board's key in the control table. Each writer has a prefix of its own, for IAM to tell apart."""
        if not self.tenant_id:
            return "SWITCH#PLATFORM"
        return f"SWITCH#{'BY' if self.by_tenant else 'ON'}#{self.tenant_id}"


def boards(tenant_id: str) -> tuple[Board, Board, Board]:
    """Return the boards whose switches hold for a tenant's runs."""
    return Board(), Board(tenant_id), Board(tenant_id, by_tenant=True)


class Switch(Part):
    """One thing that is switched off, or one mode that is on."""

    target: Target
    reason: str = Field(min_length=1, max_length=500)
    """For operators: users are not shown it."""
    by: str = Field(min_length=1, max_length=256)
    """Who did it, as the door that let them in knows them."""
    created_at: AwareDatetime
    expires_at: AwareDatetime

    def is_on(self, now: datetime) -> bool:
        """Tell whether it still holds."""
        return now < self.expires_at

    def require_bounded(self) -> None:
        """Check how long it is to hold.

        Raises:
            InputInvalid: its end is not after its beginning, or too far away.
        """
        if not self.created_at < self.expires_at <= self.created_at + MAX_DURATION:
            raise InputInvalid(f"a switch ends in the next {MAX_DURATION.days} days", field="expires_at")


def standing(switches: Iterable[Switch], target: Target, now: datetime) -> Switch | None:
    """Return the switch for a target that is on."""
    return next((switch for switch in switches if switch.target == target and switch.is_on(now)), None)


def changed(switches: Iterable[Switch], target: Target, switch: Switch | None, now: datetime) -> tuple[Switch, ...]:
    """Return a board's switches after one was put on or, with None, taken off. What has expired is left out.

    Raises:
        InputInvalid: there would be more than `MAX_SWITCHES`, or the switch is not bounded.
    """
    others = tuple(other for other in switches if other.target != target and other.is_on(now))
    if switch is None:
        return others
    switch.require_bounded()
    if len(others) >= MAX_SWITCHES:
        raise InputInvalid(f"there are {MAX_SWITCHES} switches already; take one off first")
    return (*others, switch)


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What operators' switches and modes say for one tenant, user, agent and release, at one moment."""

    stops_run: Switch | None = None
    """Ends every such run, and admits none."""
    refuses_new_runs: Switch | None = None
    """Admits none; runs that exist go on."""
    tools_off: Mapping[str, Switch] = field(default_factory=dict)
    models_off: Mapping[str, Switch] = field(default_factory=dict)
    force_review: bool = False
    read_only: bool = False

    def tool_off(self, name: str) -> Switch | None:
        """Return the switch that keeps calls of a tool from starting."""
        return self.tools_off.get(name)

    def keeps_back(self, tool: str, *, has_effect: bool, is_reviewed: bool) -> KeptBack | None:
        """Tell why a call may not begin any more that was decided before; `is_reviewed` where a person let it run."""
        if self.stops_run or self.tool_off(tool) or (self.read_only and has_effect):
            return "switched_off"
        return "review" if self.force_review and has_effect and not is_reviewed else None

    def model_off(self, model_id: str) -> Switch | None:
        """Return the switch that keeps a model from being called."""
        return self.models_off.get(model_id)

    @classmethod
    def of(cls, switches: Iterable[Switch], *, user_id: str, agent: str, release: str, now: datetime) -> Self:
        """Return what the switches of a tenant's boards say. Where several say the same, the one that lasts counts."""
        on = {s.target: s for s in sorted(switches, key=lambda s: s.expires_at) if s.is_on(now)}
        whose = {"everything": "", "user": user_id, "agent": agent, "release": release}
        stops = [s for target, s in on.items() if whose.get(target.kind) == target.name]
        return cls(
            stops_run=max(stops, key=lambda s: s.expires_at, default=None),
            refuses_new_runs=on.get(Target(kind="new_runs")),
            tools_off={t.name: s for t, s in on.items() if t.kind == "tool"},
            models_off={t.name: s for t, s in on.items() if t.kind == "model"},
            force_review=Target(kind="force_review") in on,
            read_only=Target(kind="read_only") in on,
        )
