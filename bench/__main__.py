"""`make bench`: prints what Keepgate itself costs as tables, and writes the same as JSON to build/bench.json."""

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import answers, bundles, contention, guards, run_cost, start_up

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 15


def main() -> None:
    """Measure, print, write."""
    # In a file, tables have the room they need.
    console = Console(width=None if sys.stdout.isatty() else 120)
    with console.status("start-up of each function"):
        starts = start_up.measure(ROOT, ROUNDS)
    with console.status("bundles"):
        sizes = bundles.measure()
    with console.status("the cost of a run"):
        cost = run_cost.measure(ROUNDS * 4)
    with console.status("many runs of one tenant at once"):
        crowds = contention.measure()
    with console.status("guards"):
        guarded = guards.measure(ROUNDS)
    with console.status("waiting for answers on the local cloud"):
        waits = answers.measure(ROUNDS)

    rows = [
        [s.door, f"{s.import_ms:.0f}", f"{s.ready_ms:.0f}", f"{s.memory_mib:.0f}", f"{sizes[s.door]:.1f}"]
        for s in starts
    ]
    _print(console, "Cold start", ["function", "import ms", "ready ms", "memory MiB", "bundle MiB"], rows)
    rows = [["wall ms", f"{cost.wall_ms:.1f}"], ["CPU ms", f"{cost.cpu_ms:.1f}"]]
    rows += [["ms from a kill to the next holder's first event", f"{cost.resumed_after_a_kill_ms:.1f}"]]
    rows += [[operation, str(count)] for operation, count in cost.calls.items()]
    _print(console, "A run of two turns and one tool, beyond the model's time", ["what", "a run"], rows)
    rows = [[operation, str(count)] for operation, count in cost.turn_calls.items()]
    _print(console, "What one turn more, with one tool call, adds to that", ["what", "a turn"], rows)
    columns = ["runs", "median ms", "p95 ms", "by one alone", "transactions", "conflicts", "given up", "hottest item"]
    rows = [
        [
            str(c.runs),
            f"{c.median_ms:.0f}",
            f"{c.p95_ms:.0f}",
            f"{c.slower:.2f}",
            f"{c.transactions:.1f}",
            f"{c.conflicts:.2f}",
            f"{c.given_up:.2f}",
            c.hottest,
        ]
        for c in crowds
    ]
    _print(console, "Runs of one tenant asked for within a second: virtual ms, and figures per run", columns, rows)
    rows = [["streaming through the window, CPU ms", f"{guarded.window_ms:.1f}"]]
    rows += [
        ["judging the whole, CPU ms", f"{guarded.whole_ms:.1f}"],
        ["held back, characters", str(guarded.held_back)],
    ]
    _print(console, f"The guards, for an answer of {guarded.characters} characters", ["what", "an answer"], rows)
    rows = [[name.removesuffix("_ms").replace("_", " "), f"{value:.0f}"] for name, value in asdict(waits).items()]
    _print(console, "On the local cloud, from the request on", ["until", "ms"], rows)

    report = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "rounds": ROUNDS,
        "start_up": [asdict(s) | {"bundle_mib": sizes[s.door]} for s in starts],
        "run": asdict(cost),
        "contention": [asdict(crowd) for crowd in crowds],
        "guards": asdict(guarded),
        "answers": asdict(waits),
    }
    path = ROOT / "build" / "bench.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    console.print(
        f"Medians of {ROUNDS} interleaved rounds, on Python {platform.python_version()}. JSON: build/bench.json"
    )


def _print(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
