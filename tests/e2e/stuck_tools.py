"""The door of run_tool with tools that never end, for the tests that need one: no such tool ships with the product.

A tool hangs as often as there are files `<tool>.<n>` in the folder KEEPGATE_STUCK names; each hanging call takes one.
Contracts are those of the product; only the patience of the room is cut, for those that hang.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from agent.tools import Tool
from lambdas import run_tool, telemetry, wiring
from lambdas.settings import RunToolSettings

PATIENCE_S = float(os.environ["KEEPGATE_STUCK_PATIENCE_S"])
FOLDER = Path(os.environ["KEEPGATE_STUCK"])


def _hanging(tool: Tool[Any]) -> Tool[Any]:
    def run(args: Any, context: Any) -> Any:
        for sign in sorted(FOLDER.glob(f"{tool.contract.name}.*")):
            sign.rename(FOLDER / f"hung-{sign.name}-{os.getpid()}")
            context.progress("about to hang")
            threading.Event().wait()
        return tool.run(args, context)

    return replace(tool, run=run)


@cache
def _door() -> Callable[[Any, Any], Any]:
    settings = RunToolSettings.from_environment(os.environ)
    tell = telemetry.start(settings)
    room = wiring.tool_room(settings)
    tools = {name: _hanging(tool) for name, tool in room.tools.items()}
    room = replace(room, tools=tools, wait=lambda done, seconds: done.wait(min(seconds, PATIENCE_S)))
    return run_tool.door(room, tell)


def handler(event: Any, context: Any) -> Any:
    return _door()(event, context)
