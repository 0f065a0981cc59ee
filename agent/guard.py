"""What every guard of a release is: where it looks, what follows, and what it may know besides the text."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.detectors import Reach, Span
from agent.folding import Folded

Place = Literal["input", "tool_output", "answer"]

Response = Literal["block", "flag", "ask", "fall_back"]

RESPONSES: dict[Place, frozenset[Response]] = {
    "input": frozenset({"block", "flag", "ask"}),
    "tool_output": frozenset({"block", "flag", "ask"}),
    # No `ask`: nobody decides about words that were never shown; `block` is the answer to that.
    "answer": frozenset({"block", "flag", "fall_back"}),
}


Found = tuple[str, int, int]
"""A kind, and where: characters of the folded text."""


@dataclass(frozen=True)
class About:
    """What a check may know besides the text."""

    tenant_id: str
    done: frozenset[str] = field(default=frozenset())
    """Tools that have brought a result in this run."""


class Guard(BaseModel):
    """One table: where it looks, for what, and what follows."""

    # Built with the release that holds them and not twice: each door of room 1 pays for its imports at every start.
    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,), defer_build=True)

    PLACES: ClassVar[frozenset[Place]]

    name: str = Field(default="", pattern=r"^[a-z][a-z0-9_-]{0,39}$|^$")
    """In the log and the record; the check's name where it is not given."""
    at: Place
    response: Response
    text: str = Field(default="", max_length=1000)
    """What the user gets instead, for `fall_back`."""
    tools: tuple[str, ...] = ()
    """Whose output is looked at; every result that is not trusted where none is named, errors among them."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        check = getattr(self, "check", "")
        if self.at not in self.PLACES:
            raise ValueError(f"at: the check {check} looks at {sorted(self.PLACES)}, not at {self.at}")
        if self.response not in RESPONSES[self.at]:
            raise ValueError(f"response: at {self.at} it is one of {sorted(RESPONSES[self.at])}, not {self.response}")
        if (self.response == "fall_back") != bool(self.text.strip()):
            raise ValueError("text: it goes with the response fall_back, and only with that")
        if self.tools and self.at != "tool_output":
            raise ValueError("tools: they go with tool_output only")
        return self

    @property
    def called(self) -> str:
        """The guard's name."""
        return self.name or str(getattr(self, "check", ""))

    @property
    def reach(self) -> Reach:
        """How much text decides whether one of its findings begins somewhere."""
        return Reach(0, 0)

    def find(self, text: Folded, about: About, *, is_whole: bool = True) -> Iterator[Found]:
        """Yield what is found. Where the text is not whole yet, what its continuation could still undo is left out."""
        raise NotImplementedError


def ended(spans: Iterator[tuple[str, Span]], length: int, *, is_whole: bool) -> Iterator[Found]:
    """Yield the findings that no continuation of a text of this length could undo."""
    return ((kind, start, end) for kind, (start, end) in spans if is_whole or end < length)
