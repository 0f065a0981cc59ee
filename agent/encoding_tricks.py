"""Text that machines read differently than people: characters that don't show, turn the direction, or look like others.

Searched is the text as it came. What writing really needs is left alone: joiners between emoji or within scripts that
use them, marks of direction without overriding, words wholly in one script.
"""

import re
import unicodedata
from collections.abc import Iterator

from agent.folding import is_unseen

_TAGS = re.compile("(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]")
"""Not behind a black flag, where they name a region."""
_OVERRIDES = re.compile("[\u202a-\u202e\u2066-\u2069]")
_JOINERS = "\u200c\u200d\ufe0e\ufe0f\u200e\u200f"
_JOINERS_IN_A_ROW = 2
"""The most that an emoji needs: a selector, and what joins it to the next. Longer rows carry something else."""
_WORDS = re.compile(r"[^\W\d_]{2,60}")
_LATIN, _LOOKALIKES = re.compile("[A-Za-z]"), re.compile("[\u0370-\u03ff\u0400-\u052f\u0531-\u058f\u13a0-\u13ff]")
"""Greek, Cyrillic, Armenian, Cherokee: alphabets with letters that look like Latin ones."""
_FORMULAS = re.compile("[\u03b1\u03b2\u03b3\u03b4\u03bb\u03bc\u03c0\u03c3\u03c9\u0394\u03a3\u03a9]")
"""Greek letters that science writes beside Latin ones, as in `μm`."""


def find(text: str, *, max_invisible: int, max_base64: int) -> Iterator[str]:
    """Yield the kinds of tricks in a text, each once."""
    if not text.isascii():
        if _TAGS.search(text):
            yield "tag_characters"
        if _OVERRIDES.search(text):
            yield "bidi_override"
        if _invisible(text) > max_invisible:
            yield "invisible_characters"
        if any(_is_mixed(word) for word in _WORDS.findall(text)):
            yield "mixed_scripts"
    if re.search(rf"[A-Za-z0-9+/_-]{{{max_base64 + 1}}}", text):
        yield "base64_blob"


def _invisible(text: str) -> int:
    count, joiners, before = 0, 0, ""
    for character in text:
        if not is_unseen(character):
            joiners, before = 0, character
        elif character in _JOINERS and _may_join(before) and joiners < _JOINERS_IN_A_ROW:
            joiners += 1
        else:
            count += 1
    return count


def _may_join(before: str) -> bool:
    return bool(before) and ord(before) > 0x2FF and unicodedata.category(before) in {"So", "Sk", "Lo", "Mn", "Mc"}


def _is_mixed(word: str) -> bool:
    return bool(_LATIN.search(word) and _LOOKALIKES.search(_FORMULAS.sub("", word)))
