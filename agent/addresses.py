"""Where an address ends, and how else it may be spelt: what browsers and Markdown make of the characters in it.

A browser takes everything before an `@` for a user's name, up to the first slash, question mark or hash that is one,
and not a character that merely looks like one. Markdown undoes character references (`&colon;`) and backslashes before
punctuation in the address of a link.

Known limit: a reference that HTML alone reads, with no semicolon or with more zeros than Markdown takes, is not undone.
"""

import html
import re
from dataclasses import dataclass
from typing import Self

from agent.folding import Folded, fold

REACH = 320
"""Characters from an address's beginning in which it is decided whose host it has."""

_SPELT = re.compile(r"&(?:#[0-9]{1,8}|#[xX][0-9a-fA-F]{1,8}|[A-Za-z][A-Za-z0-9]{1,30});|\\([!-/:-@\[-`{-~])")
_SIX_GROUPS = re.compile(r"\[[0-9A-Fa-f:]")
"""How a host begins that is an address of IPv6."""


def runs_on(text: Folded, begin: int, end: int) -> bool:
    """Tell whether what follows the host of an address could make something else the host.

    `begin` is the address's place in the folded text, `end` the one behind its host. One that has not come to its end
    `REACH` characters after its beginning could.
    """
    if begin < end < len(text.text) and _SIX_GROUPS.match(text.text, end) and text.text[end - 1] in "/\\":
        return True
    for place in range(end, min(begin + REACH, len(text.text))):
        character = text.raw[text.origin(place)]
        if character in "@&":
            return True
        if character in "/?#>\n\r":
            return False
        if character in " \t":
            # Markdown's pointed brackets take blanks into the address.
            return begin > 0 and text.text[begin - 1] == "<"
    return len(text.text) >= begin + REACH


@dataclass(frozen=True)
class Respelt:
    """A text as Markdown reads the addresses in it, which knows what was spelt otherwise."""

    text: Folded
    _origins: list[int]
    """For each character as it came, its place in the text it was made of; one more for the end."""
    _spelt: list[bool]

    @classmethod
    def of(cls, text: Folded) -> Self:
        """Return it for a text."""
        pieces: list[str] = []
        origins: list[int] = []
        spelt: list[bool] = []

        def add(piece: str, begin: int, *, is_spelt: bool) -> None:
            pieces.append(piece)
            origins.extend([begin] * len(piece) if is_spelt else range(begin, begin + len(piece)))
            spelt.extend([is_spelt] * len(piece))

        done = 0
        for found in _SPELT.finditer(text.raw):
            add(text.raw[done : found.start()], done, is_spelt=False)
            plain = found[1] or html.unescape(found[0])
            add(plain, found.start(), is_spelt=plain != found[0])
            done = found.end()
        add(text.raw[done:], done, is_spelt=False)
        return cls(fold("".join(pieces)), [text.place(o) for o in (*origins, len(text.raw))], spelt)

    def has_spelt(self, begin: int, end: int) -> bool:
        """Tell whether a part of it was spelt otherwise."""
        return any(self._spelt[self.text.origin(begin) : self.text.origin(end)])

    def span(self, begin: int, end: int) -> tuple[int, int]:
        """Return where a part of it stands in the text it was made of."""
        return self._origins[self.text.origin(begin)], self._origins[self.text.origin(end)]
