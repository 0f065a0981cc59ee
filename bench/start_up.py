"""What a cold start costs before the first line of a handler: import time and memory of each door, and bundle sizes.

Each import happens in a process of its own, with byte code compiled as in a bundle, and the doors take turns, so that
a slow moment of the machine hits all of them. The bare interpreter is measured among them and subtracted.
"""

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROBE = """
import json, resource, sys, time
start = time.perf_counter()
if sys.argv[1]:
    __import__(sys.argv[1])
elapsed = time.perf_counter() - start
print(json.dumps({"ms": elapsed * 1000, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


@dataclass(frozen=True)
class StartUp:
    """Medians over the rounds."""

    door: str
    import_ms: float
    memory_mib: float


def doors(root: Path) -> list[str]:
    """Return the module of each function: every door has a `handler`."""
    return sorted(
        f"lambdas.{path.stem}" for path in (root / "lambdas").glob("*.py") if "\ndef handler(" in path.read_text()
    )


def measure(root: Path, rounds: int) -> list[StartUp]:
    """Return each door's import time and memory, above the bare interpreter's memory."""
    modules = ["", *doors(root)]
    samples: dict[str, list[tuple[float, float]]] = {module: [] for module in modules}
    for module in modules:  # once unmeasured: compiles the byte code
        _probe(root, module)
    for _ in range(rounds):
        for module in modules:
            samples[module].append(_probe(root, module))
    bare = statistics.median(mib for _, mib in samples[""])
    return [
        StartUp(
            door=module.removeprefix("lambdas."),
            import_ms=statistics.median(ms for ms, _ in samples[module]),
            memory_mib=statistics.median(mib for _, mib in samples[module]) - bare,
        )
        for module in modules[1:]
    ]


def _probe(root: Path, module: str) -> tuple[float, float]:
    # A fixed environment: what the developer's shell exports must not decide what is imported, nor forbid byte code.
    answer = subprocess.run(
        [sys.executable, "-c", PROBE, module],
        cwd=root,
        env={"PATH": "/usr/bin:/bin", "PYTHONPYCACHEPREFIX": str(root / "build" / "bench-pycache")},
        check=True,
        capture_output=True,
        timeout=120,
    )
    read = json.loads(answer.stdout.splitlines()[-1])
    return float(read["ms"]), float(read["mib"])
