"""A model by rules: it reads the offered tools and the conversation, calls tools, and answers from their results.

It stands where a language model would, so that the whole system works on a laptop and in tests without one, the same
way each time. It knows what the words of a support desk ask for; the arguments it writes come from each tool's own
schema, the facts of its answers from tool results alone. It does not understand language, and follows no instruction.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

ORDER_ID = re.compile(r"(?<![\d.,$€£-])\b([A-Z]{1,4}-)?\d{4,}\b(?![.,-]\d)")
AMOUNT = re.compile(
    r"[$€£]\s*(\d+(?:[.,]\d{1,2})?)|\b(\d+(?:[.,]\d{1,2})?)\s*(?:USD|EUR|GBP|dollars?|euros?|pounds?)\b", re.I
)
REFERS_BACK = re.compile(r"\b(it|its|that|this|the order)\b", re.I)
LIST_LENGTH = re.compile(r"\b(?:last|first|newest|latest|top)\s+(\d{1,3})\b", re.I)
DAY = r"(\d{4}-\d{2}-\d{2})"
WORDS_OF = {
    "tracking": re.compile(r"\b([A-Z]{1,4}\d{6,20})\b"),
    "email": re.compile(r"([\w.+-]+@[\w-]+(?:\.[\w-]+)+)"),
    "_from": re.compile(rf"\b(?:since|from|after)\s+{DAY}", re.I),
    "_to": re.compile(rf"\b(?:until|to|before)\s+{DAY}", re.I),
}
"""What the value of an argument looks like in a question, by a part of the argument's name."""


@dataclass(frozen=True)
class Intent:
    """A tool, and the words that ask for it. A `per_order` one is called once for each order the question names."""

    tool: str
    words: re.Pattern[str]
    per_order: bool = False


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


READS = (
    Intent("lookup_order", ORDER_ID, per_order=True),
    Intent(
        "list_orders",
        _words(r"\b(list|all (my |our |the )?orders|(which|recent|open|last \d+) orders|how many orders)\b"),
    ),
    Intent(
        "search_policy", _words(r"\b(polic(y|ies)|returns?|warranty|how long|allowed|rules?|shipping (cost|time)s?)\b")
    ),
)
EFFECTS = (
    Intent("parcels__track_parcel", _words(r"\b(track|parcel [A-Z]+[0-9]+)\b")),
    Intent(
        "issue_refund",
        _words(r"\b(issue|give|pay|want|make|please)\b.*\brefund|\brefund (order|me|it|the customer)\b"),
        True,
    ),
    Intent("export_orders", _words(r"\b(export|csv|spreadsheet|download)\b")),
    Intent("save_draft", _words(r"\b(draft|write (a|an|the)|reply to)\b")),
)


@dataclass(frozen=True)
class Call:
    """A tool call as it goes out."""

    tool: str
    input_json: str
    tool_use_id: str


@dataclass(frozen=True)
class Answer:
    """What the model says in one call."""

    text: str
    calls: tuple[Call, ...] = ()
    stop_reason: str = "end_turn"


@dataclass(frozen=True)
class Result:
    """What a tool brought."""

    tool: str
    arguments: dict[str, JsonValue]
    failed: bool
    content: JsonValue


@dataclass(frozen=True)
class Conversation:
    """A Converse request, read: the newest question, the earlier ones, and what tools have brought since."""

    question: str
    earlier: str
    schemas: Mapping[str, Mapping[str, Any]]
    rounds: int
    """How many answers with tool calls have followed the question."""
    results: tuple[Result, ...] = field(default=())

    @property
    def order_ids(self) -> list[str]:
        """The orders the question names, or those it refers back to."""
        found = _order_ids(self.question)
        if not found and REFERS_BACK.search(self.question):
            found = _order_ids(self.earlier)[-1:]
        return found


def read(body: Mapping[str, Any]) -> Conversation:
    """Return the conversation of a valid Converse request."""
    messages: Sequence[Mapping[str, Any]] = body["messages"]
    start = max(i for i, m in enumerate(messages) if m["role"] == "user" and not _blocks(m, "toolResult"))
    since = messages[start + 1 :]
    uses = {use["toolUseId"]: use for m in since for use in _blocks(m, "toolUse")}
    tools = (body.get("toolConfig") or {}).get("tools", [])
    return Conversation(
        question=_text(messages[start]),
        earlier="\n".join(_text(message) for message in messages[:start] if message["role"] == "user"),
        schemas={t["toolSpec"]["name"]: t["toolSpec"]["inputSchema"]["json"] for t in tools if "toolSpec" in t},
        rounds=sum(1 for message in since if _blocks(message, "toolUse")),
        results=tuple(
            Result(
                tool=uses[result["toolUseId"]]["name"],
                arguments=uses[result["toolUseId"]]["input"],
                failed=result.get("status") == "error",
                content=_content(result),
            )
            for message in since
            for result in _blocks(message, "toolResult")
        ),
    )


def answer(conversation: Conversation) -> Answer:
    """Return what the model says next: the calls of the next stage, or the answer from all results."""
    stages = [stage for stage in (_asked(conversation, READS), _asked(conversation, EFFECTS)) if stage]
    failed = any(result.failed for result in conversation.results)
    if conversation.rounds < len(stages) and not failed:
        calls = tuple(_calls(conversation, stages[conversation.rounds]))
        if calls:
            names = " and ".join(dict.fromkeys(call.tool.replace("_", " ") for call in calls))
            return Answer(text=f"One moment: {names}.", calls=calls, stop_reason="tool_use")
    if not conversation.results:
        abilities = ", ".join(name.replace("_", " ") for name in conversation.schemas) or "answer in words"
        return Answer(text=f"I can {abilities}. Name an order, or say what you need.")
    return Answer(text="\n".join(_sentence(result) for result in conversation.results))


def count_tokens(text: str) -> int:
    """Return a plausible number of tokens: four bytes each, and never none."""
    return max(1, -(-len(text.encode()) // 4))


def _asked(conversation: Conversation, intents: Sequence[Intent]) -> list[Intent]:
    asked = [
        intent
        for intent in intents
        if intent.tool in conversation.schemas
        and (conversation.order_ids if intent.words is ORDER_ID else intent.words.search(conversation.question))
    ]
    return [intent for intent in asked if conversation.order_ids or not intent.per_order]


def _calls(conversation: Conversation, stage: Sequence[Intent]) -> Iterator[Call]:
    wanted = [
        (intent.tool, order_id)
        for intent in stage
        for order_id in (conversation.order_ids if intent.per_order else conversation.order_ids[:1] or [""])
    ]
    for index, (tool, order_id) in enumerate(wanted):
        arguments = _arguments(conversation.schemas[tool], conversation, order_id)
        yield Call(tool, json.dumps(arguments), f"tooluse_{conversation.rounds + 1}_{index}")


def _arguments(schema: Mapping[str, Any], conversation: Conversation, order_id: str) -> dict[str, JsonValue]:
    required = schema.get("required", [])
    known = {key: value for result in conversation.results for key, value in _scalars(result.content)}
    arguments: dict[str, JsonValue] = {}
    for name, declared in schema.get("properties", {}).items():
        value = _value(name, _shape(declared, schema), conversation, order_id if name in required else "")
        if value is None and name in required:
            source = "total_cents" if name == "amount_cents" else name
            value = known.get(source, _default(_shape(declared, schema), conversation))
        if value is not None:
            arguments[name] = value
    return arguments


def _value(name: str, shape: Mapping[str, Any], conversation: Conversation, order_id: str) -> JsonValue:
    question = conversation.question
    if "enum" in shape:
        return next((e for e in shape["enum"] if re.search(rf"\b{re.escape(str(e))}\b", question, re.I)), None)
    if shape.get("type") in {"integer", "number"}:
        return _number(name, shape["type"], question)
    if shape.get("type") != "string":
        return None
    if "order" in name:
        return order_id or None
    for part, pattern in WORDS_OF.items():
        if part in name:
            found = pattern.search(question)
            return found[1] if found else None
    if name == "subject":
        return f"Your order {order_id}".strip()
    if name in {"query", "question", "topic", "reason"}:
        return question[: shape.get("maxLength", 200)]
    if name in {"body", "text", "content", "message"}:
        facts = "\n".join(_sentence(result) for result in conversation.results)
        return (facts or question)[: shape.get("maxLength", 2000)]
    return None


def _number(name: str, kind: str, question: str) -> float | int | None:
    if re.search(r"amount|cents", name):
        found = AMOUNT.search(question)
        if not found:
            return None
        amount = float((found[1] or found[2]).replace(",", "."))
        return round(amount * 100) if kind == "integer" else amount
    length = LIST_LENGTH.search(question)
    return int(length[1]) if length and re.search(r"limit|count|max", name) else None


def _default(shape: Mapping[str, Any], conversation: Conversation) -> JsonValue:
    if "enum" in shape:
        first: JsonValue = shape["enum"][0]
        return first
    defaults: dict[str, JsonValue] = {"integer": 1, "number": 1, "boolean": False, "array": [], "object": {}}
    return defaults.get(shape.get("type", ""), conversation.question[: shape.get("maxLength", 100)])


def _shape(declared: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference, and see through `X | None`."""
    if reference := declared.get("$ref"):
        return _shape(schema["$defs"][reference.rsplit("/", 1)[-1]], schema)
    options = [option for option in declared.get("anyOf", []) if option.get("type") != "null"]
    return _shape(options[0], schema) if options else declared


def _sentence(result: Result) -> str:
    name = result.tool.replace("_", " ")
    if result.failed:
        message = result.content.get("message") if isinstance(result.content, dict) else None
        return f"I could not {name}: {message or _prose(result.content)}"
    return f"{name.capitalize()}: {_prose(result.content)}."


def _prose(value: JsonValue) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{key.replace('_', ' ')} {_prose(inner)}" for key, inner in value.items() if inner not in (None, "", [])
        )
    if isinstance(value, list):
        return "; ".join(_prose(inner) for inner in value) or "none"
    return str(value)


def _scalars(value: JsonValue) -> Iterator[tuple[str, JsonValue]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, str | int | float):
                yield key, inner
            else:
                yield from _scalars(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _scalars(inner)


def _order_ids(text: str) -> list[str]:
    return list(dict.fromkeys(found.group() for found in ORDER_ID.finditer(text)))


def _blocks(message: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    return [block[kind] for block in message["content"] if kind in block]


def _text(message: Mapping[str, Any]) -> str:
    return "\n".join(block["text"] for block in message["content"] if "text" in block)


def _content(result: Mapping[str, Any]) -> JsonValue:
    """Return what a tool brought: JSON where it is, and without the notice beside what comes from outside."""
    parts = result["content"]
    text = "\n".join(part["text"] for part in parts if "text" in part)
    try:
        content: JsonValue = parts[0]["json"] if "json" in parts[0] else json.loads(text)
    except json.JSONDecodeError:
        return text
    if isinstance(content, dict) and content.keys() == {"notice", "data"}:
        return content["data"]
    return content
