"""Reads what the stacks must know of the agent, as data: its contracts' rights and its releases' models.

Nothing of the agent is imported: what is deployed follows from files that a review shows.
"""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class ToolRights:
    """What all tools of an agent need together."""

    data_actions: tuple[str, ...]
    secrets: tuple[tuple[str, str], ...]
    """Scope and name of each secret that some tool reads."""
    longest_s: int
    """The longest timeout of any contract."""


def read_rights(agent: str) -> ToolRights:
    """Return the union of what the contracts of `<agent>/contracts.lock.json` ask for."""
    lock = json.loads((ROOT / agent / "contracts.lock.json").read_text(encoding="utf-8"))
    contracts = [entry["contract"] for entry in lock.values()]
    return ToolRights(
        data_actions=tuple(sorted({action for contract in contracts for action in contract["data_actions"]})),
        secrets=tuple(sorted({(need["scope"], need["name"]) for c in contracts for need in c["secrets"]})),
        longest_s=max(contract["timeout_s"] for contract in contracts),
    )


def read_model_ids(agent: str) -> list[str]:
    """Return the ids of the models that an agent's releases pin: their own, and their fallbacks where they have one.

    Of all releases, not of the newest alone: a run keeps to the one it began under, through a deployment and for days.
    Whoever takes a release file away takes the right with it, and ends its runs.
    """
    found: set[str] = set()
    for path in (ROOT / agent / "releases").glob("*.toml"):
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        found |= {str(document[part]["id"]) for part in ("model", "fallback") if part in document}
    return sorted(found)
