"""A language model that streams, and what is sent to it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from agent.events import Reasoning, Usage


@dataclass(frozen=True)
class ToolSpec:
    """A tool as the model is told of it."""

    name: str
    description: str
    schema: dict[str, Any]
    """JSON Schema of the arguments."""


@dataclass(frozen=True)
class ModelRequest:
    """One model call. `messages` are in the Converse form, roles alternating, the first and the last from the user."""

    model_id: str
    system: str
    messages: list[dict[str, Any]]
    tools: tuple[ToolSpec, ...]
    max_tokens: int
    temperature: float | None = None


@dataclass(frozen=True)
class TextDelta:
    """A piece of text of the block at `block`."""

    block: int
    text: str


@dataclass(frozen=True)
class ToolAsked:
    """A whole tool call, as the model wrote it. `arguments_json` is unparsed: it may be anything."""

    block: int
    provider_id: str
    tool: str
    arguments_json: str


@dataclass(frozen=True)
class ReasoningDone:
    """A whole reasoning block."""

    block: int
    reasoning: Reasoning


@dataclass(frozen=True)
class ModelStopped:
    """The model ended its answer: `end_turn`, `tool_use`, `max_tokens`, `content_filtered` or another."""

    stop_reason: str


@dataclass(frozen=True)
class UsageReported:
    """Arrives last, if at all."""

    usage: Usage


@dataclass(frozen=True)
class GuardrailTold:
    """What a guardrail of the model's service found in question or answer, as kinds; never its text."""

    kinds: tuple[str, ...]


ModelPart = TextDelta | ToolAsked | ReasoningDone | ModelStopped | UsageReported | GuardrailTold


class Model(Protocol):
    """A language model that streams. One attempt, no retries of its own."""

    def stream(self, request: ModelRequest, *, timeout_s: float) -> Iterator[ModelPart]:
        """Yield the answer's parts as they come. Closing the iterator abandons the call.

        Raises:
            ModelError: one of its subclasses, at the call or from the iterator.
        """
        ...
