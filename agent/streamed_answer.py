"""The text of one model call as far as it is known: one string, whichever pieces and parts it arrives in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agent.events import Delta

BLANK_LINE = "\n\n"
"""Between the text parts of one answer."""


def joined(parts: Iterable[str]) -> str:
    """Return the parts as one text: longer parts, and more of them, only ever add to its end."""
    return BLANK_LINE.join(part for part in parts if part)


@dataclass
class StreamedAnswer:
    """The newest model call, and how much of its text a reader has had."""

    seq: int
    """Of its `model.started`."""
    message_id: str
    sent: int | None
    """In characters; None before the message was opened."""
    is_streaming: bool = True
    pieces: int = 0
    """How many deltas are in `parts`."""
    parts: dict[int, str] = field(default_factory=dict)

    def text(self) -> str:
        """Return what is known of the text."""
        return joined(self.parts.values())

    def extend(self, deltas: Sequence[Delta]) -> None:
        """Take more pieces, up to the first that is missing: `model.completed` will have it."""
        for delta in deltas:
            part = self.parts.setdefault(delta.part, "")
            if delta.offset > len(part):
                return
            self.parts[delta.part] = part + delta.text[len(part) - delta.offset :]
            self.pieces += 1
