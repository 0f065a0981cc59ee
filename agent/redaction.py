"""Takes personal data and secrets out of what is told outside: logs, spans, metrics, problem documents.

The second line. The first is that contents are never told at all: a line of the log is a fixed sentence with ids and
codes. This is for what slips through, in a library's warning or an error's message.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agent import detectors

MAX_CHARACTERS = 16_384
"""Of one text that is told; what is longer is cut."""
MAX_DEPTH = 8
MAX_MEMBERS = 500
"""Of one list or object."""
CUT = "[cut]"
WITHHELD = "[withheld]"
MAX_ROUNDS = 5


def redact(text: str) -> str:
    """Return the text with what `detectors` finds in it replaced by its kind, `[email]`.

    Never longer than twice the text or `2 * MAX_CHARACTERS`; redacting again changes nothing.
    """
    is_too_long = len(text) > MAX_CHARACTERS
    # Cut when it has been searched: the first half of a number is no number, and would be told.
    text = text[: MAX_CHARACTERS + detectors.REACH.word]
    for _ in range(MAX_ROUNDS):
        findings = detectors.find(text)
        if findings:
            text = _without(text, findings)
            # A number that began within a word begins a line of its own once its neighbour is gone: look again.
        elif is_too_long:
            text, is_too_long = text[: MAX_CHARACTERS - len(CUT)] + CUT, False
        else:
            return text
    return WITHHELD


def _without(text: str, findings: Sequence[detectors.Finding]) -> str:
    pieces: list[str] = []
    done = 0
    for kind, start, end in findings:
        if start >= done:
            pieces += [text[done:start], f"[{kind}]"]
        done = max(done, end)
    return "".join([*pieces, text[done:]])


def redacted(value: Any, depth: int = 0) -> Any:  # noqa: ANN401 - JSON, and what a library puts into a record
    """Return a value with every text in it redacted, keys included; what is too deep, or no JSON, is withheld."""
    match value:
        case None | bool():
            return value
        case int() | float():
            return value if (text := str(value)) == (told := redact(text)) else told
        case str():
            return redact(value)
        case Mapping() | list() | tuple() | set() | frozenset() if depth >= MAX_DEPTH:
            return WITHHELD
        case Mapping():
            members = list(value.items())[:MAX_MEMBERS]
            return {redact(str(name)): redacted(inner, depth + 1) for name, inner in members}
        case tuple():
            return tuple(redacted(inner, depth + 1) for inner in value[:MAX_MEMBERS])
        case list() | set() | frozenset():
            return [redacted(inner, depth + 1) for inner in list(value)[:MAX_MEMBERS]]
        case _:
            return redact(str(value))
