"""A text as a person reads it, for whoever searches it: what hides a word from a search is undone.

Characters that show nothing are dropped, compatible forms (fullwidth, mathematical, enclosed) become plain ones, other
scripts' digits become ASCII, every dash and every blank is one. Each character is folded by itself, so the folded
text of a longer text begins with that of a shorter one, and each of its characters knows where it came from.

Known limit: letters of other scripts that look alike stay what they are: a Cyrillic a is no Latin one.
"""

import unicodedata
from bisect import bisect_left
from dataclasses import dataclass, field
from functools import lru_cache

_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\ufe58\ufe63\uff0d"
_JOINED_DOTS = "\u3002\uff0e\uff61\u2024"
"""Full stops that name resolution and browsers take for a dot."""


def is_unseen(character: str) -> bool:
    """Tell whether a character shows nothing: format characters, variation selectors, fillers, control characters.

    Source: Unicode's property Default_Ignorable_Code_Point, which holds what is not assigned yet, too; and the blank
    of Braille.
    """
    point = ord(character)
    return (
        (unicodedata.category(character) in {"Cf", "Cc"} and character not in "\n\r\t")
        or 0xFE00 <= point <= 0xFE0F
        or 0x180B <= point <= 0x180F
        or 0xFFF0 <= point <= 0xFFF8
        or 0xE0000 <= point <= 0xE0FFF
        or character in "\u034f\u115f\u1160\u17b4\u17b5\u2065\u2800\u3164\uffa0"
    )


@lru_cache(maxsize=4096)
def _folded(character: str) -> str:
    if is_unseen(character):
        return ""
    if character in _DASHES:
        return "-"
    if character in _JOINED_DOTS:
        return "."
    if (digit := unicodedata.decimal(character, None)) is not None:
        return str(digit)
    plain = unicodedata.normalize("NFKC", character)
    return " " if plain != "\n" and plain.isspace() and character not in "\n\r" else plain


@dataclass
class Folded:
    """A text and its folded form, both growing at the end only."""

    text: str = ""
    """Folded."""
    raw: str = ""
    """As it came."""
    _origins: list[int] | None = field(default=None)
    """For each folded character its place in the text; None while the two are the same."""

    def add(self, more: str) -> None:
        """Take more of the text."""
        if self._origins is None and not (more.isascii() and more.isprintable()):
            if all(_folded(character) == character for character in set(more)):
                pass
            else:
                self._origins = list(range(self.length))
        if self._origins is None:
            self.text += more
        else:
            pieces = []
            for place, character in enumerate(more, self.length):
                plain = _folded(character)
                pieces.append(plain)
                self._origins += [place] * len(plain)
            self.text += "".join(pieces)
        self.raw += more

    @property
    def length(self) -> int:
        """Of the text as it came, in characters."""
        return len(self.raw)

    def origin(self, place: int) -> int:
        """Return where in the text a folded character came from; the text's end for the place after the last."""
        if place >= len(self.text):
            return self.length
        return place if self._origins is None else self._origins[place]

    def place(self, origin: int) -> int:
        """Return where in the folded text the first character stands that came from there or later."""
        return min(origin, len(self.text)) if self._origins is None else bisect_left(self._origins, origin)

    def since(self, place: int) -> "Folded":
        """Return the rest of it, from a folded character on."""
        begin = self.origin(place)
        origins = self._origins and [origin - begin for origin in self._origins[place:]]
        return Folded(self.text[place:], self.raw[begin:], origins)


def fold(text: str) -> Folded:
    """Return a whole text folded."""
    folded = Folded()
    folded.add(text)
    return folded
