"""The guards that look for words: phrases, what an agent is for, and sentences that speak to the model."""

import re
from collections.abc import Iterator
from functools import cache, cached_property
from typing import Annotated, Literal
from unicodedata import normalize

from pydantic import Field

from agent.detectors import Reach
from agent.folding import Folded
from agent.guard import About, Found, Guard, ended

Phrase = Annotated[str, Field(min_length=3, max_length=80, pattern=r"\w")]

Word = Annotated[str, Field(min_length=2, max_length=40, pattern=r"^\w[\w -]*$")]

_GAP = r"[\W_]{1,4}"


def _as_pattern(phrases: tuple[str, ...]) -> re.Pattern[str]:
    """Return what finds these phrases, whatever stands between their words."""
    forms = (_GAP.join(map(_either, re.findall(r"\w+", normalize("NFC", phrase)))) for phrase in phrases)
    return re.compile(rf"(?i)(?<!\w)(?:{'|'.join(forms)})(?!\w)")


def _either(word: str) -> str:
    """Return what finds a word whether its accents are parts of its letters or characters of their own."""
    letters = ((letter, normalize("NFD", letter)) for letter in normalize("NFC", word))
    return "".join(re.escape(one) if one == two else f"(?:{re.escape(one)}|{re.escape(two)})" for one, two in letters)


def _reach_of(phrases: tuple[str, ...]) -> Reach:
    return Reach(max(len(normalize("NFD", phrase)) + 4 * len(re.findall(r"\w+", phrase)) for phrase in phrases) + 2, 0)


class Phrases(Guard):
    """Words in this order, whatever their case and what stands between them."""

    PLACES = frozenset({"input", "tool_output", "answer"})
    check: Literal["phrases"]
    phrases: tuple[Phrase, ...] = Field(min_length=1, max_length=200)
    unless_done: str = ""
    """At the answer: a tool whose result makes the phrases true, such as a refund that was issued."""

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return _as_pattern(self.phrases)

    @property
    def reach(self) -> Reach:
        """See `Guard`."""
        return _reach_of(self.phrases)

    def find(self, text: Folded, about: About, *, is_whole: bool = True) -> Iterator[Found]:
        """See `Guard`."""
        if self.unless_done and self.unless_done in about.done:
            return iter(())
        spans = (("phrase", found.span()) for found in self._pattern.finditer(text.text))
        return ended(spans, len(text.text), is_whole=is_whole)


class Scope(Guard):
    """An input that names nothing this agent is for."""

    PLACES = frozenset({"input"})
    check: Literal["scope"]
    topics: tuple[Word, ...] = Field(min_length=1, max_length=200)
    """Beginnings of words, one of which must be there."""

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?i)(?<!\w)(?:{'|'.join(map(_either, self.topics))})")

    def find(self, text: Folded, about: About, *, is_whole: bool = True) -> Iterator[Found]:  # noqa: ARG002
        """See `Guard`."""
        if not self._pattern.search(text.text):
            yield "off_topic", 0, len(text.text)


_MARKERS = (
    "ignore previous instructions",
    "ignore all previous instructions",
    "ignore your instructions",
    "ignore the above",
    "ignore your rules",
    "ignore all rules",
    "disregard previous instructions",
    "disregard all previous",
    "disregard your instructions",
    "forget your instructions",
    "forget previous instructions",
    "forget everything above",
    "override your instructions",
    "new instructions for you",
    "your new instructions",
    "you are now",
    "you must now",
    "system prompt",
    "developer mode",
    "do not tell the user",
    "don't tell the user",
    "without telling the user",
    "without asking the user",
    "the user has already approved",
    "has been approved by",
    "begin system message",
    "end of document",
    "instructions for the assistant",
    "instructions for the ai",
    "attention ai",
    "note to the assistant",
    "ignoriere alle vorherigen anweisungen",
    "ignoriere deine anweisungen",
    "ignore les instructions precedentes",
    "ignorez les instructions",
    "ignora las instrucciones anteriores",
    "ignora le istruzioni precedenti",
)


@cache
def _markers() -> re.Pattern[str]:
    """Compiled at first use: most doors that read a release ask no guard."""
    return _as_pattern(_MARKERS)


_MARKUP = re.compile(
    r"(?i)<\|?/?(?:im_start|im_end|system|endoftext|assistant|tool_use|tool_result|function_call)s?\|?>|\[/?INST\]"
    r"|<</?SYS>>|(?m:^[ \t]{0,4}(?:#{1,4}[ ]?)?(?:system|assistant|developer)[ ]?:)|\"toolUse\"|\"tool_calls\""
)


class Injection(Guard):
    """Sentences and markup that speak to the model instead of saying something."""

    PLACES = frozenset({"input", "tool_output"})
    check: Literal["injection"]

    def find(self, text: Folded, about: About, *, is_whole: bool = True) -> Iterator[Found]:  # noqa: ARG002
        """See `Guard`."""
        for pattern in (_markers(), _MARKUP):
            yield from (("instruction", *found.span()) for found in pattern.finditer(text.text))
