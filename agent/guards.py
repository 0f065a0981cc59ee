"""The checks a release can declare in its `[[guards]]` tables: what each finds in a text, by which parameters.

Plain data and pure functions: a check sees a text (folded, `agent.folding`) and what is known of the run, and says what
it found. When guards are asked and what follows is `agent.guardrails`' matter. No check takes a regular expression from
the release file: phrases are words, so every search is linear and its length bounded.

What each can and can't do is said in docs/guards.md.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from agent import detectors, encoding_tricks
from agent.addresses import REACH, Respelt, runs_on
from agent.detectors import Kind, Reach, Span
from agent.folding import Folded
from agent.guard import About, Found, Guard, ended
from agent.word_checks import Injection, Phrases, Scope

Host = Annotated[str, Field(max_length=253, pattern=r"^\.?[a-z0-9-]+(\.[a-z0-9-]+)+$")]


class Length(Guard):
    """More characters than an input should have."""

    PLACES = frozenset({"input"})
    check: Literal["length"]
    max_characters: int = Field(ge=1, le=32_768)

    def find(self, text: Folded, about: About, *, is_whole: bool = True) -> Iterator[Found]:  # noqa: ARG002
        """See `Guard`."""
        if text.length > self.max_characters:
            yield "too_long", 0, len(text.text)


class Size(Guard):
    """More bytes than a result should have."""

    PLACES = frozenset({"tool_output"})
    check: Literal["size"]
    max_bytes: int = Field(ge=1, le=300_000)

    def find(self, text: Folded, about: About, *, is_whole: bool = True) -> Iterator[Found]:  # noqa: ARG002
        """See `Guard`."""
        if len(text.text.encode(errors="replace")) > self.max_bytes:
            yield "too_large", 0, len(text.text)


class Encoding(Guard):
    """Text made to be read differently by people and machines."""

    PLACES = frozenset({"input", "tool_output"})
    check: Literal["encoding"]
    max_invisible: int = Field(default=8, ge=0, le=1000)
    max_base64: int = Field(default=400, ge=40, le=10_000)
    """Characters in one run."""

    def find(self, text: Folded, about: About, *, is_whole: bool = True) -> Iterator[Found]:  # noqa: ARG002
        """See `Guard`."""
        for kind in encoding_tricks.find(text.raw, max_invisible=self.max_invisible, max_base64=self.max_base64):
            yield kind, 0, len(text.text)


_AUTHORITY = r"([^\s/\\?#\"'<>()\[\]{}|^`]{0,261})"
_HTTP = re.compile(rf"(?i)(https?):([/\\]{{0,4}}){_AUTHORITY}")
_BARE = re.compile(rf"(?i)(?:(?<![\w/\\])(?<!\w:)[/\\]{{2,200}}|(?<![\w./\\@-])(?=www\.)){_AUTHORITY}")
_HOST = re.compile(r"[.@%]|^[0-9]|[^\x00-\x7f]")
"""What a host has in it, and the first word of a comment behind two slashes has not."""
_SLASHES = re.compile(r"(?i)https?:[/\\]{5}|[/\\]{201}")
"""Browsers take any number of them."""
_SPELT_SLASHES = re.compile(r"[/\\]{9}")
_SCHEMES = re.compile(
    r"(?i)(?<![a-z0-9])(?!https?:)(?:[a-z][a-z0-9+.-]{1,20}:[/\\]{2}|(?:javascript|vbscript|blob|mailto|tel|sms):(?=\S)"
    r"|data:[a-z]{1,20}/|file:[/\\])"
)
_HTML = re.compile(
    r"(?i)</?(?:a|img|iframe|script|object|embed|svg|math|link|style|form|input|button|video|audio|source|base|meta|body"
    r"|html|area|map|picture|frame|image|details|template)(?=[\s/>])"
)
_IMAGE = re.compile(r"!\[")


class Links(Guard):
    """Addresses outside the hosts that are allowed, as text, Markdown or HTML; and images."""

    PLACES = frozenset({"tool_output", "answer"})
    check: Literal["links"]
    hosts: tuple[Host, ...] = ()
    """Allowed, over https; with a dot in front, everything below, too."""
    images: bool = False
    """Whether a Markdown image from an allowed host may stand."""

    @property
    def reach(self) -> Reach:
        """See `Guard`."""
        return Reach(0, REACH)

    def find(self, text: Folded, about: About, *, is_whole: bool = True) -> Iterator[Found]:  # noqa: ARG002
        """See `Guard`."""
        spans = (("link", span) for span in self._addresses(text))
        yield from ended(spans, len(text.text), is_whole=is_whole)
        patterns = [("link", _SLASHES), ("link", _SCHEMES), ("html", _HTML)]
        for kind, pattern in [*patterns, *([] if self.images else [("image", _IMAGE)])]:
            yield from ((kind, *found.span()) for found in pattern.finditer(text.text))
        if "&" in text.text or "\\" in text.text:
            # However it goes on: whoever means an allowed host has no reason to spell it so.
            respelt = Respelt.of(text)
            spelt = [found.span() for p in (_SPELT_SLASHES, _SCHEMES) for found in p.finditer(respelt.text.text)]
            yield from (
                ("link", *respelt.span(*span))
                for span in [*spelt, *self._addresses(respelt.text, are_spelt=True)]
                if respelt.has_spelt(*span)
            )

    def _addresses(self, text: Folded, *, are_spelt: bool = False) -> Iterator[Span]:
        """Yield where addresses stand that are not allowed; of those that are spelt otherwise, all."""
        for found in _HTTP.finditer(text.text):
            is_one = bool(found[3]) or (bool(found[2]) and runs_on(text, found.start(), found.end()))
            if is_one and (are_spelt or not self._allows(found[1], found[2], found[3], text, found.span())):
                yield found.span()
        for found in _BARE.finditer(text.text):
            is_one = bool(_HOST.search(found[1])) or runs_on(text, found.start(), found.end())
            if is_one and (are_spelt or not self._allows("https", "//", found[1], text, found.span())):
                yield found.span()

    def _allows(self, scheme: str, slashes: str, authority: str, text: Folded, span: Span) -> bool:
        host = authority.lower().rstrip(".,;:!*_~'\"")
        known = any(host == h or (h.startswith(".") and host.endswith(h)) for h in self.hosts)
        return known and scheme.lower() == "https" and slashes == "//" and not runs_on(text, *span)


class Pii(Guard):
    """Personal data with a form and check digits: see `agent.detectors`."""

    PLACES = frozenset({"input", "tool_output", "answer"})
    check: Literal["pii"]
    kinds: frozenset[Literal["email", "phone", "iban", "card", "national_id"]] = Field(
        default=frozenset({"email", "phone", "iban", "card", "national_id"}), min_length=1
    )

    @property
    def reach(self) -> Reach:
        """See `Guard`."""
        return detectors.REACH

    def find(self, text: Folded, about: About, *, is_whole: bool = True) -> Iterator[Found]:  # noqa: ARG002
        """See `Guard`."""
        return _detected(text, frozenset(map(Kind, self.kinds)), is_whole=is_whole)


class Secrets(Guard):
    """Keys, tokens and passwords: see `agent.detectors`."""

    PLACES = frozenset({"input", "tool_output", "answer"})
    check: Literal["secrets"]

    @property
    def reach(self) -> Reach:
        """See `Guard`."""
        return detectors.REACH

    def find(self, text: Folded, about: About, *, is_whole: bool = True) -> Iterator[Found]:  # noqa: ARG002
        """See `Guard`."""
        return _detected(text, detectors.SECRETS, is_whole=is_whole)


def _detected(text: Folded, kinds: frozenset[Kind], *, is_whole: bool) -> Iterator[Found]:
    spans = detectors.spans(text.text, kinds)
    # A token is one by how it begins, however it goes on; a number that goes on is another number.
    return (
        (kind.value, start, end)
        for kind, (start, end) in spans
        if is_whole or end < len(text.text) or kind in {Kind.TOKEN, Kind.PRIVATE_KEY, Kind.API_KEY}
    )


_INTERNAL = re.compile(
    r"(?i)(?<![a-z0-9])(?:run_[0-9A-HJKMNP-TV-Z]{26}|(?:apr|res)_[0-9A-HJKMNP-TV-Z]{26}_|(?<!-)call_[0-9]{1,4}_[0-9]{1,3}(?![0-9])"
    r"|msg_[0-9]{1,4}_[0-9]{1,3}(?![0-9])|arn:aws[a-z-]{0,10}:|T#[a-z0-9-]{1,40}#|KEEPGATE_[A-Z]{2}"
    r"|(?:RELEASE|SWITCH|LIMIT|BREAKER|AUDIT|STOPPED)#|B#(?:user|tenant|platform)#)|\.amazonaws\.com(?![a-z])"
)


class Internal(Guard):
    """Keepgate's own ids, table keys and names of AWS resources. A call's id within a file's name is none."""

    PLACES = frozenset({"answer"})
    check: Literal["internal"]

    @property
    def reach(self) -> Reach:
        """See `Guard`."""
        return Reach(0, 64)

    def find(self, text: Folded, about: About, *, is_whole: bool = True) -> Iterator[Found]:  # noqa: ARG002
        """See `Guard`."""
        spans = (("internal_id", found.span()) for found in _INTERNAL.finditer(text.text))
        return ended(spans, len(text.text), is_whole=is_whole)


_TENANT = re.compile(
    r"(?i)(?<![a-z0-9])(?:T#([a-z0-9-]{1,40})#|tenant(?:[_ -]?id)?[\"'`*]{0,3}[ ]{0,2}[:=][ ]{0,2}[\"'`*]{0,3}"
    r"([a-z0-9-]{1,40})(?![a-z0-9-]))"
)


class Tenants(Guard):
    """Another tenant's id, where it is written as one: in a table key or after the word tenant."""

    PLACES = frozenset({"answer", "tool_output"})
    check: Literal["tenants"]

    @property
    def reach(self) -> Reach:
        """See `Guard`."""
        return Reach(72, 0)

    def find(self, text: Folded, about: About, *, is_whole: bool = True) -> Iterator[Found]:
        """See `Guard`."""
        spans = (
            ("tenant", found.span())
            for found in _TENANT.finditer(text.text)
            if (found[1] or found[2]).lower() != about.tenant_id
        )
        return ended(spans, len(text.text), is_whole=is_whole)


AnyGuard = Annotated[
    Length | Size | Encoding | Phrases | Scope | Injection | Links | Pii | Secrets | Internal | Tenants,
    Field(discriminator="check"),
]
