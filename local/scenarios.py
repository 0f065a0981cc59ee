"""How a tester makes the scripted model misbehave: a JSON file, read again at every call. A user's text never can.

The file belongs to whoever runs the local cloud. A scenario applies to the conversations whose newest question holds
its `match`, a marker only the tester knows, so tests that run side by side do not disturb each other:

    {"scenarios": [{"match": "marker-7f3a", "steps": [{"error": "ThrottlingException"}, {"pace_s": 0.5}]}]}

The first model call of such a conversation gets the first step, and so on; after the last the model behaves again,
unless `repeat` says that the last step stays. Each step changes only what it names.
"""

import hashlib
from collections import Counter
from pathlib import Path
from threading import Lock
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ErrorCode = Literal[
    "AccessDeniedException",
    "InternalServerException",
    "ModelErrorException",
    "ModelNotReadyException",
    "ModelTimeoutException",
    "ResourceNotFoundException",
    "ServiceUnavailableException",
    "ThrottlingException",
    "ValidationException",
]
StreamErrorCode = Literal[
    "internalServerException",
    "modelStreamErrorException",
    "serviceUnavailableException",
    "throttlingException",
    "validationException",
]


class Part(BaseModel):
    """A piece of the file: no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ForcedCall(Part):
    """A tool call, right or wrong. `input_json` goes out unparsed."""

    tool: str
    input_json: str = "{}"
    tool_use_id: str | None = None


class Step(Part):
    """What is different about one model call."""

    pause_s: float = Field(default=0, ge=0, le=600)
    """Before the first event."""
    pace_s: float = Field(default=0, ge=0, le=60)
    """Between the events."""
    error: ErrorCode | None = None
    """Refuse the call with this error."""
    break_after: int | None = Field(default=None, ge=1)
    """How many events go out before the stream breaks."""
    break_with: StreamErrorCode | None = None
    """The exception a broken stream ends with; None cuts the connection."""
    text: str | None = None
    calls: tuple[ForcedCall, ...] | None = None
    stop_reason: str | None = None
    guardrail: tuple[str, ...] | None = None
    """Topics for which a guardrail of the service intervenes: its words stand in the answer's place."""
    usage: Literal["reported", "missing"] = "reported"


class Scenario(Part):
    """Steps for the conversations that hold `match`."""

    match: str = Field(min_length=6)
    steps: tuple[Step, ...] = Field(min_length=1)
    repeat: bool = False


class ScenarioFile(Part):
    """The whole file."""

    scenarios: tuple[Scenario, ...] = ()


NORMAL = Step()


class Scenarios:
    """Gives each model call its step. Counts calls per scenario and question, in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._calls: Counter[tuple[str, str]] = Counter()
        self._lock = Lock()

    def step(self, question: str) -> Step:
        """Return the step of the next call about `question`.

        Raises:
            pydantic.ValidationError: the file says something that no scenario can.
        """
        if self._path is None or not self._path.exists():
            return NORMAL
        file = ScenarioFile.model_validate_json(self._path.read_bytes())
        scenario = next((s for s in file.scenarios if s.match in question), None)
        if scenario is None:
            return NORMAL
        key = (scenario.match, hashlib.sha256(question.encode()).hexdigest())
        with self._lock:
            number = self._calls[key]
            self._calls[key] += 1
        if number < len(scenario.steps):
            return scenario.steps[number]
        return scenario.steps[-1] if scenario.repeat else NORMAL
