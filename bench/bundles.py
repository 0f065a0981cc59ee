"""How large the functions are, unpacked, as they are deployed to AWS."""

from pathlib import Path

from stacks.bundling import with_packages

AGENT_DOOR = "run_agent"
MIB = 1024 * 1024


def measure() -> dict[str, float]:
    """Return each function's bundle in MiB; builds the bundles if they aren't there."""
    bundles = with_packages()
    sizes = {"agent": _size(bundles.agent), "doors": _size(bundles.doors)}
    doors = (bundles.doors / "lambdas").glob("*.py")
    return {door.stem: sizes["agent" if door.stem == AGENT_DOOR else "doors"] for door in doors}


def _size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MIB
