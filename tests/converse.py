"""Converse's rules about a conversation, as far as Bedrock enforces them and its API reference states them."""

import json
import re
from collections.abc import Iterator
from typing import Any

from agent.ports.model import ModelRequest

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
USE_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")


def problems(request: ModelRequest) -> list[str]:
    """Return what Converse would refuse about the request."""
    messages = request.messages
    found = list(_of_the_whole(request))
    asked: list[str] = []
    for index, message in enumerate(messages):
        if index and messages[index - 1]["role"] == message["role"]:
            found.append(f"{index}: roles don't alternate")
        found += (f"{index}: {problem}" for block in message["content"] for problem in _of_block(block))
        answered = [block["toolResult"]["toolUseId"] for block in message["content"] if "toolResult" in block]
        if answered != asked:
            found.append(f"{index}: results {answered} for calls {asked}")
        asked = [block["toolUse"]["toolUseId"] for block in message["content"] if "toolUse" in block]
        if len(set(asked)) != len(asked):
            found.append(f"{index}: a call id twice")
        if asked and message["role"] != "assistant":
            found.append(f"{index}: a user's tool use")
    return found


def _of_the_whole(request: ModelRequest) -> Iterator[str]:
    if not request.messages or request.messages[0]["role"] != "user" or request.messages[-1]["role"] != "user":
        yield "the first and the last message must be the user's"
    if any(not message["content"] for message in request.messages):
        yield "a message without content"
    if not request.system.strip():
        yield "an empty system prompt"
    uses = any("toolUse" in block for message in request.messages for block in message["content"])
    if uses and not request.tools:
        yield "tool use without a tool configuration"
    try:
        json.dumps(request.messages, ensure_ascii=False).encode()
    except (TypeError, ValueError) as wrong:
        yield f"not sendable: {wrong}"


def _of_block(block: dict[str, Any]) -> Iterator[str]:
    match block:
        case {"text": text} if not text.strip():
            yield "a blank text"
        case {"toolUse": {"toolUseId": use_id, "name": name, "input": arguments}}:
            if not USE_ID.fullmatch(use_id) or not NAME.fullmatch(name) or not isinstance(arguments, dict):
                yield f"a tool use that can't be sent: {use_id} {name!r}"
        case {"toolResult": {"content": content, "status": status}}:
            if status not in {"success", "error"} or not content or not all(c["text"].strip() for c in content):
                yield "an empty tool result"
        case {"text": _} | {"reasoningContent": _}:
            pass
        case _:
            yield f"an unknown block: {sorted(block)}"
