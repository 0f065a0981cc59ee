"""The lock of an agent's contracts: the reviewed copy of what every tool promises and may do, as one file of data.

The infrastructure generates rights and timeouts from the file, the people's room shows tools by it, and what runs is
the code. So the three must be the same: a synth, and every function that knows tools, refuses where they are not. A
changed contract shows in a review as a change of this file, and `differences` says in words what it changes.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.contracts import Contract, canonical_json
from agent.errors import ConfigurationInvalid
from agent.limits import read_allowances
from agent.tools import Tool

FILE = "contracts.lock.json"

RIGHTS = (
    "effect",
    "mode",
    "if_unknown",
    "resource",
    "data_actions",
    "secrets",
    "facts",
    "server",
    "writes_files",
    "trusted",
    "shown_to_user",
    "allowances",
)
"""The fields that say what a tool may do to the world and to the conversation; a review looks at these first."""


def locked(tools: Mapping[str, Tool[Any]]) -> dict[str, Any]:
    """Return what the file has to say: by tool, the contract and the hash that decisions bind."""
    return {
        name: {"sha256": tool.contract.sha256(), "contract": tool.contract.model_dump(mode="json", by_alias=True)}
        for name, tool in sorted(tools.items())
    }


def text_of(lock: Mapping[str, Any]) -> str:
    """Return the file's text."""
    return json.dumps(lock, indent=2, ensure_ascii=False) + "\n"


def read(path: Path) -> dict[str, Any]:
    """Return what the file says; nothing where there is none.

    Raises:
        ConfigurationInvalid: it is not JSON.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as wrong:
        raise ConfigurationInvalid(f"{path.name} is no JSON") from wrong
    return document


def contracts(path: Path) -> dict[str, Contract]:
    """Return the contracts as data, without importing a tool.

    Raises:
        ConfigurationInvalid: a contract is not the one that its hash is of.
    """
    found = {name: (Contract.model_validate(entry["contract"]), entry["sha256"]) for name, entry in read(path).items()}
    if edited := [name for name, (contract, sha256) in found.items() if contract.sha256() != sha256]:
        raise ConfigurationInvalid(f"{path.name}: not as they were locked: {', '.join(edited)}")
    return {name: contract for name, (contract, _) in found.items()}


def require_locked(tools: Mapping[str, Tool[Any]], folder: Path, stage: str) -> None:
    """Check that the tools are the locked ones, and that what their calls may use up has numbers in this stage.

    Raises:
        ConfigurationInvalid: the message names the tools.
    """
    now, lock = locked(tools), read(folder / FILE)
    if different := sorted(name for name in {*now, *lock} if now.get(name) != lock.get(name)):
        raise ConfigurationInvalid(f"{FILE}: not as reviewed: {', '.join(different)}; run `make lock-contracts`")
    numbers = read_allowances(folder / "limits.toml", stage)
    names = [f"{name}.{allowance}" for name, tool in tools.items() for allowance in tool.contract.allowances]
    if missing := [name for name in names if name not in numbers]:
        raise ConfigurationInvalid(f"limits.toml: no number for {', '.join(missing)}")
    if unknown := [name for name in numbers if name not in names]:
        raise ConfigurationInvalid(f"limits.toml: in no tool's contract: {', '.join(unknown)}")


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Yield what has changed from one lock to another, a line each; what changes a right begins with an exclamation."""
    for name in sorted({*before, *after}):
        old: Any = before.get(name, {}).get("contract")
        new: Any = after.get(name, {}).get("contract")
        if old == new:
            continue
        if old is None:
            yield f"{name}: new"
            yield from (f"! {field}: {_shown(new[field])}" for field in RIGHTS if new.get(field))
        elif new is None:
            yield f"{name}: gone"
        else:
            yield f"{name}: changed"
            yield from _changes(old, new)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    fields = [*RIGHTS, *(field for field in new if field not in RIGHTS), *(field for field in old if field not in new)]
    for field in dict.fromkeys(fields):
        was, now = old.get(field), new.get(field)
        if was == now:
            continue
        mark = "!" if field in RIGHTS else " "
        if isinstance(was, list) and isinstance(now, list):
            yield from (f"{mark} {field}: + {_shown(item)}" for item in now if item not in was)
            yield from (f"{mark} {field}: - {_shown(item)}" for item in was if item not in now)
        elif field == "schema":
            yield from _argument_changes(was or {}, now or {})
        else:
            yield f"{mark} {field}: {_shown(was)} → {_shown(now)}"


def _argument_changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = was.get("properties", {}), now.get("properties", {})
    yield from (f"  argument {name}: + {_shown(new[name])}" for name in new if name not in old)
    yield from (f"  argument {name}: - {_shown(old[name])}" for name in old if name not in new)
    yield from (
        f"  argument {name}: {_shown(old[name])} → {_shown(new[name])}"
        for name in new
        if name in old and old[name] != new[name]
    )
    if {k: v for k, v in was.items() if k != "properties"} != {k: v for k, v in now.items() if k != "properties"}:
        yield "  schema: what is required or how it is described"


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= 100 else text[:97] + "…"
