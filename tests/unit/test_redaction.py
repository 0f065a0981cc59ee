"""What is told outside holds no personal data and no secret; redacting is idempotent and bounded."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.detectors import find
from agent.redaction import CUT, MAX_CHARACTERS, MAX_MEMBERS, WITHHELD, redact, redacted
from tests.unit.test_detectors import EXAMPLES

TEXTS = [text for _, text in EXAMPLES]
MIXED = st.lists(st.one_of(st.sampled_from(TEXTS), st.text(max_size=6), st.sampled_from("7aA-+.@ _")), max_size=10)


@given(MIXED, st.sampled_from(["", " ", "x"]))
def test_nothing_is_left_and_redacting_again_changes_nothing(pieces: list[str], between: str) -> None:
    text = between.join(pieces)
    once = redact(text)
    assert find(once) == []
    assert redact(once) == once
    assert len(once) <= max(2 * len(text), len(WITHHELD))


def test_what_was_taken_out_is_named_and_the_rest_stands() -> None:
    told = redact("order 1001 of ann@shop.example, paid with 4111 1111 1111 1111")
    assert told == "order 1001 of [email], paid with [card]"


def test_a_long_text_is_cut_also_within_what_it_hides() -> None:
    told = redact("x" * (MAX_CHARACTERS - 12) + " 4111111111111111")
    assert told.endswith(CUT)
    assert len(told) == MAX_CHARACTERS
    assert len(redact("ann@shop.example " * 100_000)) <= 2 * MAX_CHARACTERS


@pytest.mark.parametrize("secret", TEXTS)
def test_where_a_long_text_is_cut_no_part_of_a_finding_is_left(secret: str) -> None:
    for kept in (8, len(secret) // 2, len(secret) - 1):
        head = "." * (MAX_CHARACTERS - len(CUT) - kept - 1)
        assert secret[:8] not in redact(f"{head} {secret} and more, so that it is cut")


@pytest.mark.parametrize("secret", TEXTS)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"a": [s, {"b": (s,)}]},
        lambda s: {s: 1},
        lambda s: ValueError(s),
        lambda s: {s},
        lambda s: [[[[[[[[[[s]]]]]]]]]],
    ],
    ids=["deep", "a key", "an object", "a set", "too deep"],
)
def test_no_place_in_a_value_is_overlooked(secret: str, wrap: Any) -> None:
    assert secret not in str(redacted(wrap(secret)))


def test_a_number_is_looked_at_like_its_digits_and_plain_values_stay() -> None:
    assert redacted(4111111111111111) == "[card]"
    assert "4111" not in str(redacted([4111111111111111.0]))
    plain = {"n": 5, "t": 1795186800123, "f": 0.5, "b": True, "none": None, "l": ["run_1"], "tuple": (1,)}
    assert redacted(plain) == plain
    assert len(redacted(list(range(10_000)))) == MAX_MEMBERS
