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

from agent.contracts import canonical_json
from agent.endings import EndReason
from agent.events import Block, Reasoning, Text, ToolUse, Usage
from agent.identity import call_id
from agent.ports.model import GuardrailTold, ModelPart, ModelStopped, ReasoningDone, TextDelta, ToolAsked, UsageReported
from agent.run_state import Turn

MAX_ANSWER_BYTES = 120_000
"""Of one answer, tool arguments and reasoning included: its event and the decisions' copy stay below 400 KB."""

MAX_ASKED = 64
"""Tool calls of one answer that are looked at; a model that asks for more is not heard further."""

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What Converse takes as a tool's name when the conversation is sent back."""

TOO_LARGE = "answer_too_large"
"""Keepgate's own stop reason, beside the provider's."""

CUT_OFF = frozenset({"max_tokens", "model_context_window_exceeded", TOO_LARGE})
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
    interventions: tuple[str, ...] = ()
    """What a guardrail at the model's service found."""
    _size: int = 0
    _blocks: dict[int, list[str] | ToolAsked | Reasoning] = field(default_factory=dict)

    def take(self, part: ModelPart) -> bool:
        """Add a part; False where the answer would have more bytes than can be stored, and nothing more is read."""
        match part:
            case ModelStopped(stop_reason=stop_reason):
                self.stop_reason = stop_reason
                return True
            case UsageReported(usage=usage):
                self.usage = usage
                return True
            case GuardrailTold(kinds=kinds):
                self.interventions = kinds
                return True
            case TextDelta(text=text):
                size = len(text.encode(errors="replace"))
            case ToolAsked(tool=tool, arguments_json=arguments):
                size = len(tool) + len(arguments.encode(errors="replace"))
            case ReasoningDone(reasoning=reasoning):
                size = len(canonical_json(reasoning.block).encode(errors="replace"))
        if self._size + size > MAX_ANSWER_BYTES:
            self.stop_reason = TOO_LARGE
            return False
        self._size += size
        self._add(part)
        return True

    def _add(self, part: TextDelta | ToolAsked | ReasoningDone) -> None:
        match part:
            case TextDelta(block=block, text=text):
                pieces = self._blocks.setdefault(block, [])
                if isinstance(pieces, list):
                    pieces.append(mended(text))
            case ToolAsked(block=block):
                self._blocks[block] = part
            case ReasoningDone(block=block, reasoning=reasoning):
                self._blocks[block] = reasoning

    def part_of(self, block: int) -> int:
        """Return which text part of the message a text block is."""
        return sum(1 for index, content in self._blocks.items() if index < block and isinstance(content, list))

    def content(self, turn: int, *, tools_offered: bool) -> tuple[Block, ...]:
        """Return the answer's blocks, tool calls under Keepgate's own ids.

        Tool calls are dropped where the answer's end cut them off, where it is refused or too large, and where no tools
        were offered: Converse would not take them back.
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
                    if not tools_offered or asked == MAX_ASKED or self._is_dropped(content, is_last=index == last):
                        continue
                    arguments = parsed(content.arguments_json)
                    name = content.tool if TOOL_NAME.fullmatch(content.tool) else "unusable_name"
                    blocks.append(ToolUse(call_id=call_id(turn, asked), tool=name, arguments=arguments))
                    asked += 1
        return tuple(blocks)

    def _is_dropped(self, asked: ToolAsked, *, is_last: bool) -> bool:
        if self.stop_reason in CUT_OFF:
            return self.stop_reason == TOO_LARGE or (is_last and not asked.arguments_json.endswith("}"))
        return self.stop_reason in REFUSED


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
    if done.replacement is not None:
        return (EndReason.ANSWERED, done.replacement) if done.replacement else (EndReason.ANSWER_BLOCKED, None)
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
