"""What a cold start costs before the first line of a handler: import time and memory of each door, and bundle sizes.

Each import happens in a process of its own, with byte code compiled as in a bundle, and the doors take turns, so that
a slow moment of the machine hits all of them. The bare interpreter takes its turn too.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from lambdas.settings import PREFIX, Settings
from stacks.config import STAGES

PROBE = """
import importlib, json, re, sys, time
start = time.perf_counter()
door = importlib.import_module(sys.argv[1]) if sys.argv[1] else None
imported = time.perf_counter()
if hasattr(door, "_door"):
    door._door()
ready = time.perf_counter()
# Not getrusage: its peak includes that of the parent, from before exec.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
print(json.dumps([(imported - start) * 1000, (ready - start) * 1000, peak / 1024]))
"""


def _kinds(kind: type[Settings]) -> Iterator[type[Settings]]:
    for narrower in kind.__subclasses__():
        yield narrower
        yield from _kinds(narrower)


SETTINGS = {PREFIX + f.name.upper(): "1" for kind in _kinds(Settings) for f in fields(kind)} | {
    "KEEPGATE_RELEASE": STAGES["local"].release,
    "KEEPGATE_ALLOWED_ORIGINS": "",
    "KEEPGATE_TOOL_SERVERS": "",
    "KEEPGATE_TRACE_EXPORTER": "none",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
}
"""Enough for every door to be built; nothing is called."""


@dataclass(frozen=True)
class StartUp:
    """Medians over the rounds."""

    door: str
    import_ms: float
    """Of the entry module."""
    ready_ms: float
    """Import, and building what the first invocation needs: clients, policy, releases."""
    memory_mib: float
    """Peak when ready, above a bare interpreter's."""


def doors(root: Path) -> list[str]:
    """Return the module of each function: every door has a `handler`."""
    return sorted(
        f"lambdas.{path.stem}" for path in (root / "lambdas").glob("*.py") if "\ndef handler(" in path.read_text()
    )


def measure(root: Path, rounds: int) -> list[StartUp]:
    """Return each door's start-up."""
    modules = ["", *doors(root)]
    samples: dict[str, list[list[float]]] = {module: [] for module in modules}
    for module in modules:  # once unmeasured: compiles the byte code
        _probe(root, module)
    for _ in range(rounds):
        for module in modules:
            samples[module].append(_probe(root, module))
    medians = {module: [statistics.median(s[n] for s in taken) for n in range(3)] for module, taken in samples.items()}
    _, _, bare = medians.pop("")
    return [
        StartUp(module.removeprefix("lambdas."), imported, ready, peak - bare)
        for module, (imported, ready, peak) in medians.items()
    ]


def _probe(root: Path, module: str) -> list[float]:
    return [float(number) for number in json.loads(run(root, PROBE, module).splitlines()[-1])]


def run(root: Path, program: str, *arguments: str) -> bytes:
    """Run a program in a process of its own and return what it prints.

    The environment is fixed: what the developer's shell exports must not decide what is imported, nor forbid byte code.
    """
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=root,
        env={"PATH": "/usr/bin:/bin", "PYTHONPYCACHEPREFIX": str(root / "build" / "bench-pycache"), **SETTINGS},
        check=True,
        capture_output=True,
        timeout=120,
    ).stdout
