"""A model that says what its script says, and remembers what it was asked.

Which turn of the script is played follows from the request (how many messages of tool results it holds), so a repeated
call gets the same answer, as after a crash it must.
"""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from agent.errors import ModelError
from agent.events import Usage
from agent.ports.model import ModelPart, ModelRequest, ModelStopped, TextDelta, ToolAsked, UsageReported

Step = ModelPart | ModelError | Callable[[], None]
"""A part to yield, an error to raise, or something to do in between (let time pass, wait for the test)."""

USAGE = Usage(input_tokens=100, output_tokens=20)


def says(*texts: str, stop_reason: str = "end_turn", usage: Usage | None = USAGE) -> list[Step]:
    """Return the steps of an answer in text, streamed in these pieces."""
    return [*(TextDelta(0, text) for text in texts), *_end(stop_reason, usage)]


def asks(*calls: tuple[str, Mapping[str, Any] | str], text: str = "", usage: Usage | None = USAGE) -> list[Step]:
    """Return the steps of an answer that asks for tool calls; arguments given as text go out unparsed."""
    steps: list[Step] = [TextDelta(0, text)] if text else []
    for block, (name, arguments) in enumerate(calls, start=len(steps)):
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        steps.append(ToolAsked(block, f"provider-{block}", name, written))
    return [*steps, *_end("tool_use", usage)]


def _end(stop_reason: str, usage: Usage | None) -> Iterable[Step]:
    return (ModelStopped(stop_reason), *([UsageReported(usage)] if usage else []))


class ScriptedModel:
    """`ports.Model` that plays one list of steps for each turn; beyond the last turn it repeats the last."""

    def __init__(self, *turns: Sequence[Step], failing: Mapping[int, Sequence[Sequence[Step]]] | None = None) -> None:
        self._turns = turns
        self._failing = {turn: list(attempts) for turn, attempts in (failing or {}).items()}
        """By turn, from 0: what is played before the turn itself, once each."""
        self._lock = threading.Lock()
        self.requests: list[ModelRequest] = []

    def stream(self, request: ModelRequest, *, timeout_s: float) -> Iterator[ModelPart]:  # noqa: ARG002 - the port's
        """See `ports.Model`."""
        turn = sum(1 for message in request.messages if any("toolResult" in block for block in message["content"]))
        with self._lock:
            self.requests.append(request)
            first = self._failing.get(turn)
            steps = first.pop(0) if first else self._turns[min(turn, len(self._turns) - 1)]
        for step in steps:
            match step:
                case ModelError():
                    raise step
                case _ if callable(step):
                    step()
                case _:
                    yield step
