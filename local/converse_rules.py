"""What Bedrock refuses about a Converse request before any model sees it, so that our own client's mistakes show here.

Shapes come from botocore's service model. The rules on the conversation itself stand in no model; their sentences
follow those that Bedrock sends. Not checked: quotas, which models exist, and media blocks, which Keepgate never sends.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import botocore.session
from botocore.model import OperationModel
from botocore.validate import ParamValidator

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
TOOL_USE_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")

Message = dict[str, Any]


class Refused(Exception):
    """An error before the stream begins: an HTTP status, and `code` as the SDK names it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@cache
def converse_stream() -> OperationModel:
    """Return botocore's model of the ConverseStream operation."""
    return botocore.session.get_session().get_service_model("bedrock-runtime").operation_model("ConverseStream")


def require_valid(model_id: str, body: dict[str, Any]) -> None:
    """Check a request.

    Raises:
        Refused: as `ValidationException`, with the first thing that is wrong.
    """
    shape = converse_stream().input_shape
    assert shape is not None  # noqa: S101 - every operation that takes a body has one
    report = ParamValidator().validate({"modelId": model_id, **body}, shape)
    if report.has_errors():
        raise Refused("ValidationException", report.generate_report())
    for problem in _problems(body):
        raise Refused("ValidationException", problem)


def _problems(body: dict[str, Any]) -> Iterator[str]:
    messages: list[Message] = body.get("messages") or []
    if not messages or messages[0]["role"] != "user":
        yield "A conversation must start with a user message. Try again with a conversation that starts with one."
    if messages[-1]["role"] != "user":
        yield "This model does not support assistant message prefill. The conversation must end with a user message."
    for index, (before, message) in enumerate(zip([None, *messages], messages, strict=False)):
        if before is not None and before["role"] == message["role"]:
            yield "A conversation must alternate between user and assistant roles."
        yield from _block_problems(f"messages.{index}", message)
        yield from _pairing_problems(f"messages.{index}.content", before, message)
    if _uses_tools(messages) and not body.get("toolConfig"):
        yield "The toolConfig field must be defined when using toolUse and toolResult content blocks."
    yield from _configuration_problems(body)


def _block_problems(where: str, message: Message) -> Iterator[str]:
    if not message["content"]:
        yield f"The content field in the Message object at {where} is empty. Add a ContentBlock object to it."
    for index, block in enumerate(message["content"]):
        place = f"{where}.content.{index}"
        if "text" in block and not block["text"].strip():
            yield f"The text field in the ContentBlock object at {place} is blank. Add text to it, and try again."
        if use := block.get("toolUse"):
            yield from _tool_use_problems(place, use)
        if result := block.get("toolResult"):
            if result.get("status") == "error" and not result["content"]:
                yield f"The content field at {place}.toolResult cannot be empty when status value is error."
            if any("text" in part and not part["text"].strip() for part in result["content"]):
                yield f"The text field in the ToolResultContentBlock at {place}.toolResult is blank."


def _tool_use_problems(place: str, use: dict[str, Any]) -> Iterator[str]:
    if not TOOL_USE_ID.fullmatch(use["toolUseId"]):
        yield f"The value at {place}.toolUse.toolUseId does not satisfy the pattern {TOOL_USE_ID.pattern}"
    if not TOOL_NAME.fullmatch(use["name"]):
        yield f"The value at {place}.toolUse.name does not satisfy the pattern {TOOL_NAME.pattern}"
    if not isinstance(use["input"], dict):
        yield f"The format of the value at {place}.toolUse.input is invalid. Provide a json object for the field."


def _pairing_problems(where: str, before: Message | None, message: Message) -> Iterator[str]:
    asked = [b["toolUse"]["toolUseId"] for b in (before["content"] if before else []) if "toolUse" in b]
    given = [b["toolResult"]["toolUseId"] for b in message["content"] if "toolResult" in b]
    if len(set(asked)) != len(asked):
        yield f"The toolUse blocks before {where} contain duplicate Ids."
    if missing := [identity for identity in asked if identity not in given]:
        yield f"Expected toolResult blocks at {where} for the following Ids: {', '.join(missing)}"
    if len(given) > len(asked):
        yield f"The number of toolResult blocks at {where} exceeds the number of toolUse blocks of previous turn."
    if len(set(given)) != len(given):
        yield f"The toolResult blocks at {where} contain duplicate Ids."


def _uses_tools(messages: list[Message]) -> bool:
    return any("toolUse" in block or "toolResult" in block for message in messages for block in message["content"])


def _configuration_problems(body: dict[str, Any]) -> Iterator[str]:
    names = [tool["toolSpec"]["name"] for tool in (body.get("toolConfig") or {}).get("tools", []) if "toolSpec" in tool]
    if wrong := [name for name in names if not TOOL_NAME.fullmatch(name)]:
        yield f"The tool name {wrong[0]} does not satisfy the pattern {TOOL_NAME.pattern}"
    if len(set(names)) != len(names):
        yield "The toolConfig contains duplicate tool names."
    inference = body.get("inferenceConfig") or {}
    if not 0 <= inference.get("temperature", 0) <= 1:
        yield "The value at inferenceConfig.temperature must be between 0 and 1."
    if inference.get("maxTokens", 1) < 1:
        yield "The value at inferenceConfig.maxTokens must be at least 1."
    for index, block in enumerate(body.get("system") or []):
        if "text" in block and not block["text"].strip():
            yield f"The text field at system.{index} is blank."
