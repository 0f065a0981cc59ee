"""Finds personal data and secrets in a text, validated where there is something to validate.

A pattern finds candidates and a check decides: check digits and each country's formats by `stdnum`, numbering plans by
`phonenumbers`, a token by what it decodes to. Searched is the text as a person reads it (`agent.folding`).

Every pattern is linear and bounded, and whether a finding begins somewhere is decided by the next `REACH` characters:
that is what lets `agent.hold_back` show a text before it is complete. Both libraries are imported when the first
candidate turns up; most processes never pay for them.

Known limits: names and addresses have no form to find them by; a phone number is found with its country code only
(`+…` or `00…`); a number broken by a line's end, or written in words, is not found; of national ids those are found
whose form and check digits make a chance hit unlikely.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple

from agent.folding import Folded, fold

MAX_CHARACTERS = 400_000
"""Of a text that is searched; more than that is refused."""
MAX_CHECKED = 2000
"""Candidates of one kind in a text that are checked. Of a text with more of them, all further ones are findings."""


class Kind(StrEnum):
    """What was found."""

    EMAIL = "email"
    PHONE = "phone"
    IBAN = "iban"
    CARD = "card"
    NATIONAL_ID = "national_id"
    AWS_KEY = "aws_key"
    TOKEN = "token"  # noqa: S105 - a kind of finding
    PRIVATE_KEY = "private_key"
    API_KEY = "api_key"


PII = frozenset({Kind.EMAIL, Kind.PHONE, Kind.IBAN, Kind.CARD, Kind.NATIONAL_ID})
SECRETS = frozenset({Kind.AWS_KEY, Kind.TOKEN, Kind.PRIVATE_KEY, Kind.API_KEY})


class Finding(NamedTuple):
    """A place in the text as it came: characters `start` up to, not including, `end`."""

    kind: str
    start: int
    end: int


class Reach(NamedTuple):
    """How many characters from where a finding begins decide that it is one."""

    spaced: int
    """Of findings that may hold blanks."""
    word: int
    """Of those that hold none, and so end with the word they stand in."""


REACH = Reach(spaced=80, word=320)

Span = tuple[int, int]


def find(text: str, kinds: frozenset[Kind] = PII | SECRETS) -> list[Finding]:
    """Return what a text holds of these kinds, in order, none inside another.

    Raises:
        ValueError: the text has more than `MAX_CHARACTERS`.
    """
    return find_folded(fold(text), kinds)


def find_folded(folded: Folded, kinds: frozenset[Kind] = PII | SECRETS) -> list[Finding]:
    """Do the same for a text that is folded already."""
    if folded.length > MAX_CHARACTERS:
        raise ValueError(f"a text of {folded.length} characters is not searched")
    findings: list[Finding] = []
    last = -1
    for start, minus_end, kind in sorted((start, -end, kind) for kind, (start, end) in spans(folded.text, kinds)):
        if -minus_end > last:
            # Overlapping ones are both told; one that adds nothing is not.
            findings.append(Finding(kind, folded.origin(start), folded.origin(-minus_end - 1) + 1))
            last = -minus_end
    return findings


def spans(text: str, kinds: frozenset[Kind]) -> Iterator[tuple[Kind, Span]]:
    """Yield what a folded text holds of these kinds, in no order, and where in the folded text."""
    for kind, search in _SEARCHES:
        if kind in kinds:
            yield from ((kind, span) for span in search(text))


# --- personal data ----------------------------------------------------------------------------------------------------


def _stdnum(path: str) -> Any:  # noqa: ANN401 - a module of the library
    import importlib

    return importlib.import_module(f"stdnum.{path}")


_BEFORE_AT = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}\Z")
_AFTER_AT = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,3}[A-Za-z]{2,24}(?![A-Za-z0-9-])")


def _emails(text: str) -> Iterator[Span]:
    # From each @ outwards: a pattern that began with the local part would try each character of a long word.
    at = text.find("@")
    while at >= 0:
        before, after = _BEFORE_AT.search(text, max(0, at - 64), at), _AFTER_AT.match(text, at + 1, at + 240)
        if before and after:
            yield before.start(), after.end()
        at = text.find("@", at + 1)


def _longest(text: str, start: int, step: str, lengths: range, is_valid: Callable[[str], bool]) -> Span | None:
    """Return the longest valid number that begins at a place: so many steps, and no letter or digit after it."""
    for length in reversed(lengths):
        found = re.compile(rf"(?:{step}){{{length}}}(?![A-Za-z0-9])").match(text, start)
        if found and is_valid(found[0]):
            return found.span()
    return None


def _each(text: str, begins: re.Pattern[str], longest: Callable[[int], Span | None], at_least: int) -> Iterator[Span]:
    checked, place = 0, 0
    while begin := begins.search(text, place):
        checked += 1
        found = longest(begin.start()) if checked <= MAX_CHECKED else (begin.start(), begin.start() + at_least)
        if found:
            yield found
        place = found[1] if found else begin.start() + 1


_CARD = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)
"""Issuers' first digits and lengths (ISO/IEC 7812): Visa, Mastercard, Amex, Diners, Discover, JCB, UnionPay."""
_CARD_BEGINS = re.compile(r"(?<![A-Za-z0-9])(?<!\d[.,])[2-6](?=(?:[ -]?\d){12})")


def _is_card(candidate: str) -> bool:
    digits = re.sub(r"[ -]", "", candidate)
    return bool(_CARD.fullmatch(digits)) and len(set(digits)) > 1 and bool(_stdnum("luhn").is_valid(digits))


def _cards(text: str) -> Iterator[Span]:
    return _each(
        text, _CARD_BEGINS, lambda start: _longest(text, start, "[ -]?[0-9]", range(13, 20), _is_card), at_least=13
    )


_IBAN_BEGINS = re.compile(r"(?<![A-Za-z0-9])([A-Za-z]{2})[0-9]{2}(?=(?:[ -]?[A-Za-z0-9]){11})")


@cache
def _iban_length(country: str) -> int:
    """Return how many characters a country's IBAN has; 0 where it has none."""
    registered = _stdnum("numdb").get("iban").info(country)[0][1]
    own = sum(map(int, re.findall(r"(\d+)!", registered.get("bban", ""))))
    return own and 4 + own


def _ibans(text: str) -> Iterator[Span]:
    def longest(start: int) -> Span | None:
        length = _iban_length(text[start : start + 2].upper())
        is_valid = _stdnum("iban").is_valid
        return _longest(
            text, start, "[ -]?[A-Za-z0-9]", range(length, length + 1), lambda c: is_valid(c, check_country=False)
        )

    return _each(text, _IBAN_BEGINS, longest, at_least=15)


FEWEST_DIGITS = 7
"""Of a national id below."""

_NATIONAL_IDS = tuple(
    (re.compile(rf"(?<![A-Za-z0-9])(?<!\d[.,-])(?:{form})(?![A-Za-z0-9])(?![.,-]\d)"), path)
    for form, path in (
        (r"\d{11}", "pl.pesel"),
        (r"\d{6}[-+]\d{4}", "se.personnummer"),
        (r"\d{6}[-+A-FU-Y]\d{3}[0-9A-Y]", "fi.hetu"),
        (r"[12]\d{14}|[12] \d\d \d\d (?:\d\d|2[AB]) \d{3} \d{3} \d\d", "fr.nir"),
        (r"[A-Z]{6}[0-9L-V]{2}[A-EHLMPRST][0-9L-V]{2}[A-Z][0-9L-V]{3}[A-Z]", "it.codicefiscale"),
        (r"\d{8}-?[A-Z]", "es.dni"),
        (r"[XYZ]-?\d{7}-?[A-Z]", "es.nie"),
        (r"756[. ]?\d{4}[. ]?\d{4}[. ]?\d{2}", "ch.ssn"),
        (r"\d{3}\.\d{3}\.\d{3}-\d{2}", "br.cpf"),
        (r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", "be.nn"),
        (r"\d{3}-\d{2}-\d{4}", "us.ssn"),
    )
)
"""Forms as they are written, and whose rules decide. An id that is just a few digits is left out."""


def _national_ids(text: str) -> Iterator[Span]:
    if sum(map(text.count, "0123456789")) < FEWEST_DIGITS:
        return
    for form, path in _NATIONAL_IDS:
        for checked, candidate in enumerate(form.finditer(text)):
            if checked >= MAX_CHECKED or _stdnum(path).is_valid(candidate[0]):
                yield candidate.span()


_PHONE_BEGINS = re.compile(r"(?<![A-Za-z0-9.+])(?:\+|00)[1-9](?=(?:[ .()/-]{0,2}[0-9]){6})")


def _is_phone(candidate: str) -> bool:
    import phonenumbers

    digits = re.sub(r"[^0-9]", "", candidate)
    try:
        number = phonenumbers.parse("+" + digits.removeprefix("00"), None)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_number(number)


def _phones(text: str) -> Iterator[Span]:
    return _each(
        text,
        _PHONE_BEGINS,
        lambda start: _longest(text, start, r"[ .()/+-]{0,2}[0-9]", range(8, 18), _is_phone),
        at_least=8,
    )


# --- secrets ----------------------------------------------------------------------------------------------------------

_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]{0,24}PRIVATE KEY|PuTTY-User-Key-File-[0-9]")
_KEY_ENDS = re.compile(r"-----END [A-Z0-9 ]{0,24}PRIVATE KEY[A-Z ]{0,8}-----|Private-MAC: ?[0-9a-f]{0,64}")


def _private_keys(text: str) -> Iterator[Span]:
    place = 0
    while begin := _KEY_BEGINS.search(text, place):
        end = _KEY_ENDS.search(text, begin.end())
        place = end.end() if end else len(text)
        yield begin.start(), place


_JSON_HEAD = re.compile(rb'\{ ?"[A-Za-z0-9_]{2,9}" ?:')
# As lookaheads, so that a head which is none can't hide one that begins within it; searched where their hint is.
_TOKENS = (
    ("eyj", re.compile(r"(?=(eyJ[A-Za-z0-9_-]{17}))")),
    ("z", re.compile(r"(?=((?:IQoJb3JpZ2lu|FwoGZXIvYXdz)[A-Za-z0-9/+]{8}))")),
    ("bearer", re.compile(r"(?=((?i:\bbearer)[ ]{1,3}[A-Za-z0-9._~+/-]{16}))")),
)
_REST_OF_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]*")


def _tokens(text: str) -> Iterator[Span]:
    lower = text.lower()
    for hint, pattern in _TOKENS:
        if hint not in lower:
            continue
        done = 0
        for found in pattern.finditer(text):
            head = found[1]
            is_token = _begins_json(head) if head.startswith("eyJ") else _is_random(head.split(" ")[-1])
            if is_token and found.start() >= done and (rest := _REST_OF_TOKEN.match(text, found.end(1))):
                done = rest.end()
                yield found.start(), done


def _begins_json(base64_text: str) -> bool:
    try:
        return bool(_JSON_HEAD.match(base64.urlsafe_b64decode(base64_text)))
    except (binascii.Error, ValueError):
        return False


def _is_random(value: str) -> bool:
    """Tell a secret from words: digits among letters, and not the same few again and again."""
    return any(c.isdigit() for c in value) and any(c.isalpha() for c in value) and len(set(value)) >= 7


_AWS_KEYS = (
    re.compile(r"(?<![A-Za-z0-9])(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}(?![A-Za-z0-9])"),
    re.compile(
        r"(?i:secret[_ -]?(?:access[_ -]?)?key)[\"']?[ ]{0,3}[:=]?[ ]{0,3}[\"']?[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])"
    ),
)
_API_KEYS = (
    re.compile(r"(?<![A-Za-z0-9])gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22}"),
    re.compile(r"(?<![A-Za-z0-9])xox[abeoprs]-[A-Za-z0-9-]{10}"),
    re.compile(r"(?<![A-Za-z0-9])AIza[A-Za-z0-9_-]{35}"),
    re.compile(r"(?<![A-Za-z0-9])[rs]k_(?:live|test)_[A-Za-z0-9]{16}"),
    re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20}"),
    re.compile(
        r"(?i:(?<![a-z0-9])(?:password|passwd|api[_-]?key|client[_-]?secret|access[_-]?token))[\"']?"
        r"[ ]{0,2}[:=][ ]{0,2}[\"']?[A-Za-z0-9._~+/!@#$%^&*-]{8}"
    ),
)
"""GitHub, Slack, Google, Stripe, the `sk-` of several makers, and whatever is said to be one."""
_SECRET = re.compile(r"[A-Za-z0-9._~+/!@#$%^&*-]+\Z")


def _aws_keys(text: str) -> Iterator[Span]:
    for pattern in _AWS_KEYS:
        for found in pattern.finditer(text):
            if found[0].isupper() or _is_random(found[0][-40:]):
                yield found.span()


def _api_keys(text: str) -> Iterator[Span]:
    for pattern in _API_KEYS:
        for found in pattern.finditer(text):
            value, rest = _SECRET.search(found[0]), _REST_OF_TOKEN.match(text, found.end())
            if value and rest and (_is_random(found[0]) if len(value[0]) > 8 else any(c.isdigit() for c in value[0])):
                yield found.start(), rest.end()


_SEARCHES: tuple[tuple[Kind, Callable[[str], Iterator[Span]]], ...] = (
    (Kind.PRIVATE_KEY, _private_keys),
    (Kind.TOKEN, _tokens),
    (Kind.AWS_KEY, _aws_keys),
    (Kind.API_KEY, _api_keys),
    (Kind.EMAIL, _emails),
    (Kind.IBAN, _ibans),
    (Kind.CARD, _cards),
    (Kind.NATIONAL_ID, _national_ids),
    (Kind.PHONE, _phones),
)
