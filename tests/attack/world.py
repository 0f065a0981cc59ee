"""The support desk in memory, with two tenants in it, and a record of everything that models and tools did.

Each tenant's and each user's text carries a canary of its own: a word that nobody else may ever be shown. The record is
made around the tools and the model, outside the code under attack, so that `invariants` judges what happened and not
what the log says about it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import support_desk
from agent.errors import KeepgateError
from agent.limits import read_allowances
from agent.policy import CedarPolicy
from agent.ports.model import ModelPart, ModelRequest
from agent.pricing import Prices
from agent.release import Release
from agent.run_header import RunHeader
from agent.testing.cloud import MemoryCloud
from agent.testing.limits import AMPLE
from agent.testing.model import Step, says
from agent.testing.tenant_data import MemoryTable, MemoryTenantData
from agent.tools import Tool, ToolContext
from support_desk import seed
from support_desk.tools import TOOLS

FOLDER = Path(support_desk.__path__[0])
POLICY = CedarPolicy.load(FOLDER / "policies")
RELEASE = Release.read(FOLDER, "support-desk-1")
ALLOWANCES = read_allowances(FOLDER / "limits.toml", "prod")
PEOPLE = (("acme", "ann"), ("acme", "cy"), ("globex", "gus"))
"""Two colleagues, and somebody of another tenant."""


def tenant_canary(tenant_id: str) -> str:
    """Return the word that stands in a tenant's data and nowhere else."""
    return f"canary-of-tenant-{tenant_id}"


def user_canary(user_id: str) -> str:
    """Return the word that stands in a user's questions and nowhere else."""
    return f"canary-of-user-{user_id}"


@dataclass(frozen=True)
class Act:
    """A tool that really ran."""

    tool: str
    arguments: dict[str, Any]
    context: ToolContext


@dataclass(frozen=True)
class Asked:
    """A model that was really asked, for this run."""

    tenant_id: str
    run_id: str
    request: ModelRequest


Mind = Callable[[ModelRequest], Sequence[Step]]
"""What answers a request: the adversary."""


class World(MemoryCloud):
    """The support desk under attack. `mind` is the model, and is told all that a model is told."""

    def __init__(
        self, mind: Mind, *, release: Release = RELEASE, data: MemoryTable | None = None, **around: Any
    ) -> None:
        self.acts: list[Act] = []
        self.asked: list[Asked] = []
        self.mind = mind
        self.table = data or seeded()
        self._working_on = ("", "")
        around.setdefault("policy", POLICY)
        around.setdefault("limits", replace(AMPLE, allowances=ALLOWANCES))
        tools = {name: self._recorded(tool) for name, tool in TOOLS.items()}
        super().__init__(release, tools, self, prices=Prices.read(), data=self.table, **around)

    def stream(self, request: ModelRequest, *, timeout_s: float) -> Iterator[ModelPart]:
        """Be the model: see `ports.Model`."""
        self.asked.append(Asked(*self._working_on, request))
        for step in self.mind(request):
            if isinstance(step, KeepgateError):
                raise step
            assert not callable(step)
            yield step

    def invoke(self, tenant_id: str, run_id: str) -> RunHeader | None:
        """See `MemoryCloud`; one invocation at a time."""
        self._working_on = (tenant_id, run_id)
        return super().invoke(tenant_id, run_id)

    def question(self, user_id: str, text: str = "", *, session_id: str | None = None) -> str:
        """Ask as one of `PEOPLE`, with their canary in the text."""
        [tenant_id] = [tenant for tenant, user in PEOPLE if user == user_id]
        return self.ask(f"{user_canary(user_id)} {text}", user_id=user_id, tenant_id=tenant_id, session_id=session_id)

    def _recorded(self, tool: Tool[Any]) -> Tool[Any]:
        return replace(tool, run=partial(self._run, tool))

    def _run(self, tool: Tool[Any], arguments: Any, context: ToolContext) -> BaseModel:
        self.acts.append(Act(tool.contract.name, arguments.model_dump(mode="json"), context))
        result: BaseModel = tool.run(arguments, context)
        return result


def seeded() -> MemoryTable:
    """Return the shops' data, a canary in whatever text of theirs a tool may bring."""
    table = MemoryTable()
    table.items.update(_seed())
    return table


@cache
def _seed() -> dict[tuple[str, str, str], str]:
    table = MemoryTable()
    for tenant_id in seed.TENANTS:
        data = MemoryTenantData(table, tenant_id)
        for kind, item_id, item in seed.items(tenant_id):
            data.put(kind, item_id, _marked(item, tenant_canary(tenant_id)))
    return table.items


def _marked(item: dict[str, Any], canary: str) -> dict[str, Any]:
    marked = {name: f"{value} {canary}" for name, value in item.items() if name in {"customer_name", "text"}}
    return {**item, **marked}


def script(*turns: Sequence[Step]) -> Mind:
    """Return a mind that plays these answers in each run, by the number of turns so far, and then good-bye."""

    def answer(request: ModelRequest) -> Sequence[Step]:
        turn = _turns_in(request)
        return turns[turn] if turn < len(turns) else says("Bye.")

    return answer


def endless(*turns: Sequence[Step]) -> Mind:
    """Return a mind that plays these answers over and over."""
    return lambda request: turns[_turns_in(request) % len(turns)]


def _turns_in(request: ModelRequest) -> int:
    return sum("toolResult" in message["content"][0] for message in request.messages)
