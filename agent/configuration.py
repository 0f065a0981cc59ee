"""What an agent's folder has to be before it is deployed: a synth asks, so that no run is the first to find out.

A release that can't be read, a tool or price that is not there or policies that are no Cedar would else end every run
of a deployment that looked well.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from agent.contract_lock import require_locked
from agent.errors import ConfigurationInvalid
from agent.limits import stages_named
from agent.policy import CedarPolicy
from agent.pricing import Prices
from agent.release import Release
from agent.tools import Tool


def require_deployable(
    folder: Path, tools: Mapping[str, Tool[Any]], *, release: str, stage: str, stages: Collection[str]
) -> None:
    """Check an agent's contracts, limits, policies, and the release that a stage runs.

    Raises:
        ConfigurationInvalid: the message names the file and the field.
    """
    require_locked(tools, folder, stage)
    if unknown := sorted(stages_named(folder / "limits.toml") - {*stages}):
        raise ConfigurationInvalid(
            f"limits.toml: stages.{unknown[0]}: there is no such stage; there are {', '.join(stages)}"
        )
    CedarPolicy.load(folder / "policies")
    _require_usable(Release.read(folder, release), tools)


def _require_usable(release: Release, tools: Mapping[str, Tool[Any]]) -> None:
    for name in release.tools:
        if name not in tools:
            where = "mcp: run `make lock-mcp` for" if name in release.pins else "tools: there is no tool"
            raise ConfigurationInvalid(f"release {release.name}: {where} {name}")
        if not release.offers(tools[name].contract):
            raise ConfigurationInvalid(
                f"release {release.name}: mcp: {name} is pinned otherwise than mcp.lock.json has it; see docs/mcp.md"
            )
    prices = Prices.read()
    for model in filter(None, (release.model, release.fallback)):
        prices.of(model.id)
