"""From a stream's parts to the blocks of an answer, and what a complete answer means for the run.

The model's output is hostile input: whatever it streams becomes blocks that can be stored, hashed and sent back. Text
that is no valid Unicode is mended, arguments that are no JSON object become None (the gate denies them), a tool name
that Converse would refuse in the next request is replaced, and the whole has a byte cap.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from agent.events import Block, EndReason, Reasoning, Text, ToolUse, Usage
from agent.identity import call_id
from agent.ports import ModelPart, ModelStopped, ReasoningDone, TextDelta, ToolAsked, UsageReported
from agent.runlog import Turn
from agent.tools import canonical_json

MAX_ANSWER_BYTES = 120_000
"""Of one answer, tool arguments and reasoning included: its event and the decisions' copy stay below 400 KB."""

MAX_ASKED = 64
"""Tool calls of one answer that are looked at; a model that asks for more is not heard further."""

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What Converse takes as a tool's name when the conversation is sent back."""

CUT_OFF = frozenset({"max_tokens", "model_context_window_exceeded", "answer_too_large"})
REFUSED = frozenset({"content_filtered", "guardrail_intervened", "refusal"})
MALFORMED = frozenset({"malformed_model_output", "malformed_tool_use"})
"""Stop reasons by meaning; all others (`end_turn`, `tool_use`, `stop_sequence`) end an answer as it should end."""

ENDING_CODES = {
    "max_tool_calls": EndReason.MAX_TOOL_CALLS,
    "policy_unavailable": EndReason.POLICY_UNAVAILABLE,
}
"""Decisions that end the run, because the next answer could not do better."""


@dataclass
class Answer:
    """An answer as it comes in."""

    stop_reason: str | None = None
    usage: Usage | None = None
    size: int = 0
    _blocks: dict[int, list[str] | ToolAsked | Reasoning] = field(default_factory=dict)

    def take(self, part: ModelPart) -> None:
        """Add a part."""
        match part:
            case TextDelta(block=block, text=text):
                pieces = self._blocks.setdefault(block, [])
                if isinstance(pieces, list):
                    pieces.append(mended(text))
                    self.size += len(text.encode(errors="replace"))
            case ToolAsked(block=block):
                self._blocks[block] = part
                self.size += len(part.arguments_json.encode(errors="replace")) + len(part.tool)
            case ReasoningDone(block=block, reasoning=reasoning):
                self._blocks[block] = reasoning
                self.size += len(reasoning.model_dump_json().encode(errors="replace"))
            case ModelStopped(stop_reason=stop_reason):
                self.stop_reason = stop_reason
            case UsageReported(usage=usage):
                self.usage = usage
        if self.size > MAX_ANSWER_BYTES:
            self.stop_reason = "answer_too_large"

    @property
    def is_too_large(self) -> bool:
        """Whether the answer has more bytes than may be stored; nothing more of it should be read."""
        return self.stop_reason == "answer_too_large"

    def part_of(self, block: int) -> int:
        """Return which text part of the message a text block is."""
        return sum(1 for index, content in self._blocks.items() if index < block and isinstance(content, list))

    def content(self, turn: int, *, tools_offered: bool) -> tuple[Block, ...]:
        """Return the answer's blocks, tool calls under Keepgate's own ids.

        A tool call that the answer's end cut off is dropped; so are all of a refused answer, and of a model that was
        offered no tools: Converse would not take them back.
        """
        blocks: list[Block] = []
        asked = 0
        last = max(self._blocks, default=0)
        for index, content in sorted(self._blocks.items()):
            match content:
                case list():
                    blocks.append(Text(text="".join(content)))
                case Reasoning():
                    blocks.append(content)
                case ToolAsked():
                    arguments = parsed(content.arguments_json)
                    cut_off = self.stop_reason in CUT_OFF and index == last and not content.arguments_json.endswith("}")
                    if cut_off or self.stop_reason in REFUSED or not tools_offered or asked == MAX_ASKED:
                        continue
                    name = content.tool if TOOL_NAME.fullmatch(content.tool) else "unusable_name"
                    blocks.append(ToolUse(call_id=call_id(turn, asked), tool=name, arguments=arguments))
                    asked += 1
        return () if self.is_too_large else tuple(blocks)


def mended(text: str) -> str:
    """Return the text with what is no valid Unicode (lone surrogates) replaced."""
    return text.encode(errors="replace").decode()


def parsed(arguments_json: str) -> dict[str, JsonValue] | None:
    """Return a call's arguments, {} for none, or None where they are no JSON object that can be stored."""
    try:
        value: Any = json.loads(arguments_json or "{}")
        canonical_json(value).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def conclusion(turn: Turn) -> tuple[EndReason, str | None] | None:
    """Return why a turn ends the run, and the answer; None where its calls come next."""
    done = turn.completed
    for decision in done.decisions:
        if decision.code in ENDING_CODES:
            return ENDING_CODES[decision.code], None
    if done.stop_reason in REFUSED:
        return EndReason.MODEL_REFUSED, None
    if turn.uses:
        return None
    text = "\n\n".join(block.text for block in done.content if isinstance(block, Text) and block.text.strip())
    if done.stop_reason in CUT_OFF:
        return EndReason.ANSWER_TRUNCATED, text or None
    return (EndReason.ANSWERED, text) if text else (EndReason.ANSWER_EMPTY, None)
