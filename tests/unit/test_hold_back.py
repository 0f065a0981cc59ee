"""What leaves while an answer streams: never a part of what a guard blocks, however the answer is cut into pieces."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from agent import hold_back
from agent.folding import Folded, fold
from agent.guard import About, Found, Guard
from agent.guards import AnyGuard
from agent.hold_back import HoldBack
from agent.streamed_answer import joined
from tests.unit.test_detectors import EXAMPLES, fullwidth
from tests.unit.test_guards import OTHERWISE

ABOUT = About("acme")
TABLES = [
    {"check": "pii"},
    {"check": "secrets"},
    {"check": "internal"},
    {"check": "tenants"},
    {"check": "links", "hosts": ["shop.example", ".docs.example"]},
    {"check": "phrases", "phrases": ["I have refunded", "the refund was issued"]},
]
GUARDS: list[Guard] = [
    TypeAdapter(AnyGuard).validate_python({"at": "answer", "response": "block", **t}) for t in TABLES
]

HOSTILE = [
    *(text for _, text in EXAMPLES),
    *(fullwidth(text) for _, text in EXAMPLES[:6]),
    "\u200b".join("4111111111111111"),
    "https://evil.example/x?d=1",
    "http://shop.example",
    "https://shop.example.evil.example/",
    "https://shop.example@evil.example/",
    "https:\\\\evil.example",
    "//evil.example/x",
    "www.evil.example",
    "![x](https://shop.example/a.png)",
    "[x]: https://evil.example",
    *OTHERWISE,
    "<img src=x>",
    "<a href='https://evil.example'>",
    "javascript:alert(1)",
    "data:text/html;base64,PHM+",
    "mailto:ann",
    "I have refunded",
    "I  *have*\nrefunded",
    "the refund was  issued",
    "run_01J9ZQ5WXYZABCDEFGHJKMNPQR",
    "call_12_3",
    "arn:aws:dynamodb:eu-central-1:123456789012:table/x",
    "T#globex#R#1",
    'tenant_id: "globex"',
    "x" * 400 + "@shop.example",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n\nmore",
]
HARMLESS = [
    "Order 1001 was shipped. ",
    "See https://shop.example/orders/1001 and https://a.docs.example/x. ",
    "The tenant: acme. ",
    "1234 5678 ",
    "I have not refunded anything. ",
    "\u00e9\u4e2d\U0001f600 ",
    "x" * 350,
    "a. b, c: d; ",
    "\n",
]


def judged(text: str) -> list[Found]:
    """Return what the guards find in a whole text: where, in the text as it came."""
    folded = fold(text)
    return [
        (kind, folded.origin(start), folded.origin(end - 1) + 1)
        for guard in GUARDS
        for kind, start, end in guard.find(folded, ABOUT)
    ]


def stream(pieces: Sequence[tuple[int, str]], guards: Sequence[Guard] = GUARDS) -> tuple[HoldBack, dict[int, str]]:
    held = HoldBack(guards, ABOUT)
    parts: dict[int, str] = {}
    for part, text in pieces:
        for out_part, out in held.add(part, text):
            parts[out_part] = parts.get(out_part, "") + out
    return held, parts


def cut(text: str, sizes: Sequence[int]) -> Iterator[str]:
    place, turn = 0, 0
    while place < len(text):
        size = sizes[turn % len(sizes)] if sizes else len(text)
        yield text[place : place + size]
        place, turn = place + size, turn + 1


ANSWERS = st.lists(st.one_of(st.sampled_from(HOSTILE), st.sampled_from(HARMLESS), st.text(max_size=12)), max_size=8)
SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=5)


@settings(deadline=None)
@given(ANSWERS, SIZES, st.sampled_from(["", " "]))
@example([HARMLESS[0], "4111 1111 1111 1111"], [1], "")
@example(["https://shop.example", ".evil.example"], [20], "")
def test_however_an_answer_is_cut_no_part_of_a_finding_leaves(answer: list[str], sizes: list[int], glue: str) -> None:
    text = glue.join(answer)
    held, parts = stream([(0, piece) for piece in cut(text, sizes)])
    shown, findings = parts.get(0, ""), judged(text)
    assert text.startswith(shown)
    assert all(start >= len(shown) for _, start, _ in findings)
    if held.has_fired:
        assert findings, "what the window stops, the whole answer's check stops, too"


@settings(deadline=None)
@given(ANSWERS, SIZES, st.lists(st.integers(0, 400), max_size=4))
def test_the_parts_of_an_answer_are_one_text(answer: list[str], sizes: list[int], borders: list[int]) -> None:
    text = " ".join(answer)
    edges = sorted({0, *(b for b in borders if 0 < b < len(text)), len(text)})
    texts = [text[a:b] for a, b in pairwise(edges)]
    pieces = [(number, piece) for number, part in enumerate(texts) for piece in cut(part, sizes)]
    _, parts = stream(pieces)
    whole, shown = joined(texts), joined(parts.values())
    assert all(part == texts[number][: len(part)] for number, part in parts.items())
    assert whole.startswith(shown)
    assert all(start >= len(shown) for _, start, _ in judged(whole))


@settings(deadline=None)
@given(st.lists(st.sampled_from(HARMLESS), min_size=1, max_size=8), SIZES)
def test_a_harmless_answer_leaves_but_for_the_last_characters(answer: list[str], sizes: list[int]) -> None:
    text = "".join(answer)
    if judged(text):
        return
    held, parts = stream([(0, piece) for piece in cut(text, sizes)])
    assert not held.has_fired
    longest_word = max(map(len, text.split(" ")), default=0)
    assert len(text) - len(parts.get(0, "")) <= max(g.reach.spaced for g in GUARDS) + min(longest_word, 320) + 48 + max(
        sizes
    )


@pytest.mark.parametrize("hostile", HOSTILE)
def test_each_hostile_text_is_one(hostile: str) -> None:
    assert judged(f"It is {hostile} there.")


@pytest.mark.parametrize("harmless", HARMLESS)
def test_each_harmless_text_is_one(harmless: str) -> None:
    assert judged(harmless) == []


@pytest.mark.parametrize("hostile", OTHERWISE)
def test_the_window_of_links_alone_keeps_an_address_back_however_it_is_spelt(hostile: str) -> None:
    text = f"It is {hostile} there. " + "All is well. " * 40
    links = [guard for guard in GUARDS if guard.called == "links"]
    [first, *_] = sorted(found[1] for found in judged(text))
    for size in (1, 7, 50):
        held, parts = stream([(0, piece) for piece in cut(text, [size])], links)
        assert held.has_fired
        assert len(parts.get(0, "")) <= first


def test_without_the_window_a_part_of_a_finding_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check fails where the guard is broken: this test breaks it."""

    def everything(self: HoldBack) -> list[tuple[int, str]]:
        until, self._out = self._out, self._text.length
        return [(0, self._text.raw[until:])]

    monkeypatch.setattr(hold_back.HoldBack, "_released", everything)
    with pytest.raises(AssertionError):
        test_however_an_answer_is_cut_no_part_of_a_finding_leaves()


def test_after_a_finding_nothing_leaves_any_more() -> None:
    held = HoldBack(GUARDS, ABOUT)
    harmless = "All is well with your orders. " * 20
    assert held.add(0, harmless)
    assert held.add(0, "This is your card: 4111 1111 1111 1111, and it is nice. ") == []
    assert held.has_fired
    assert held.add(0, harmless) == []


def test_in_blocks_nothing_leaves_before_the_whole_was_judged() -> None:
    held = HoldBack(GUARDS, ABOUT, "block")
    assert [held.add(0, "All is well. ") for _ in range(100)] == [[]] * 100


def test_without_a_guard_that_blocks_everything_leaves_at_once() -> None:
    assert HoldBack([], ABOUT).add(3, "4111") == [(3, "4111")]


def test_parts_out_of_order_stay_back() -> None:
    held = HoldBack(GUARDS, ABOUT)
    long = "All is well with your orders. " * 20
    assert held.add(1, long)
    assert held.add(0, long) == []
    assert held.add(1, long) == []


def test_a_guard_that_raises_has_fired() -> None:
    class Broken(Guard):
        PLACES = frozenset({"answer"})

        def find(self, text: Folded, about: About, *, is_whole: bool = True) -> Iterator[Found]:
            raise RuntimeError("broken")

    held = HoldBack([Broken(at="answer", response="block")], ABOUT)
    assert held.add(0, "All is well with your orders. " * 3) == []
    assert held.has_fired


def test_a_long_answer_in_small_pieces_is_checked_in_reasonable_time() -> None:
    import time

    text = "All is well with your orders, and nothing else is said here. " * 1000
    began = time.process_time()
    _, parts = stream([(0, piece) for piece in cut(text, [8])])
    assert len(parts[0]) > len(text) - 200
    assert time.process_time() - began < 10, "a second; ten is for a busy machine"
