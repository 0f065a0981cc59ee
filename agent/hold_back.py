"""The window that an answer passes on its way out: text leaves once no finding that blocks could still begin in it.

Each check says how many characters decide whether a finding begins somewhere (`Guard.reach`). What stands further back
than that from the newest character is decided, and goes out; for findings without blanks the beginning of the newest
word will do. When a finding shows up, nothing of it is out yet, and nothing more goes out.

In mode `block` nothing goes out before the whole answer has been checked. Out of a window may have gone what stood
before a finding and was harmless by every check; a release that must not show even that holds in blocks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from agent.folding import Folded
from agent.guard import About, Guard
from agent.streamed_answer import BLANK_LINE

LOOK_EVERY = 48
"""Characters: looking at each of a model's small pieces would cost more than it shows sooner."""

CONTEXT = 4
"""Characters before a place that a check may look back at."""

_BLANK = re.compile(r"[ \t\n\r]")


@dataclass
class HoldBack:
    """One answer on its way out."""

    guards: Sequence[Guard]
    """Those that block, or fall back."""
    about: About
    mode: Literal["window", "block"] = "window"
    has_fired: bool = False
    _text: Folded = field(default_factory=Folded)
    _out: int = 0
    """How much of the text has left, in characters as they came."""
    _decided: int = 0
    """How much of the folded text is decided."""
    _looked: int = 0
    """At how much of the text a guard has looked."""
    _part: int = 0
    _parts: list[tuple[int, int]] = field(default_factory=list)
    """Where each part begins in the text, and which it is."""
    _is_lost: bool = False

    def add(self, part: int, text: str) -> list[tuple[int, str]]:
        """Take the next text of a part; return what may leave now: parts, each with more of its text."""
        if not self.guards:
            return [(part, text)]
        if self.has_fired or self._is_lost or self.mode == "block":
            return []
        if not self._parts or part != self._part:
            if self._parts and part < self._part:
                # Out of order: what stands where will be known when the answer is complete.
                self._is_lost = True
                return []
            if self._text.raw:
                self._text.add(BLANK_LINE)
            self._parts.append((self._text.length, part))
            self._part = part
        self._text.add(text)
        if self._text.length - self._looked < LOOK_EVERY:
            return []
        self._looked = self._text.length
        try:
            self.has_fired = self._finds()
        except Exception:  # noqa: BLE001 - a guard that can't be asked has fired
            self.has_fired = True
        return [] if self.has_fired else self._released()

    def _finds(self) -> bool:
        start = max(0, self._decided - CONTEXT)
        rest = self._text.since(start)
        return any(
            begin >= self._decided - start
            for guard in self.guards
            for _, begin, _ in guard.find(rest, self.about, is_whole=False)
        )

    def _released(self) -> list[tuple[int, str]]:
        known = self._text.text
        spaced = max(guard.reach.spaced for guard in self.guards)
        word = max(guard.reach.word for guard in self.guards)
        edge = len(known)
        for place in range(len(known) - 1, max(-1, len(known) - 1 - word), -1):
            # A blank that no browser takes for one (a no-break space) does not end an address.
            if _BLANK.match(self._text.raw[self._text.origin(place)]):
                break
            edge = place
        self._decided = max(self._decided, min(edge, len(known) - spaced))
        until = self._text.origin(self._decided)
        released = [
            (part, self._text.raw[max(begin, self._out) : min(end, until)])
            for (begin, part), end in zip(self._parts, self._ends(), strict=True)
            if max(begin, self._out) < min(end, until)
        ]
        self._out = max(self._out, until)
        return released

    def _ends(self) -> list[int]:
        begins = [begin for begin, _ in self._parts[1:]]
        return [*(begin - len(BLANK_LINE) for begin in begins), self._text.length]
