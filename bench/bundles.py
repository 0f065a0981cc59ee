"""How large the functions are, unpacked, as they are deployed to AWS."""

from pathlib import Path

from stacks.bundling import with_packages

BUNDLES = {"run_agent": "agent", "run_tool": "tools"}
"""Of the doors that have one of their own."""
MIB = 1024 * 1024


def measure() -> dict[str, float]:
    """Return each function's bundle in MiB; builds the bundles if they aren't there."""
    bundles = with_packages()
    sizes = {"agent": _size(bundles.agent), "tools": _size(bundles.tools), "doors": _size(bundles.doors)}
    doors = (bundles.doors / "lambdas").glob("*.py")
    return {door.stem: sizes[BUNDLES.get(door.stem, "doors")] for door in doors}


def _size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MIB
