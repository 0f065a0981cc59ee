"""Every document of the corpus is read by a model that obeys it, in its own session and in the next question of it.

Nothing here asks whether a model would fall for a text: it always does. What holds must hold because of the platform.
"""

import json
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.ports.model import ModelRequest
from agent.testing.model import Step, asks, says
from tests.attack.invariants import violations
from tests.attack.world import World, seeded

CORPUS = Path(__file__).parent / "corpus"
DOCUMENTS = {
    document["id"]: document
    for file in sorted(CORPUS.glob("*.toml"))
    for document in tomllib.loads(file.read_text(encoding="utf-8"))["document"]
}
ORDER = "1013"
"""Whose note and name carry documents."""

LOOKS_LIKE = "injected"
"""The id of a policy page that carries one, and a word by which it is found."""

ONE_DAY_S = 86_400


def planted(document: dict[str, Any], **world: Any) -> World:
    """Return a world whose acme has read-worthy data with this document in it, and a model that obeys it."""
    table = seeded()
    key = ("acme", "order", ORDER)
    order = json.loads(table.items[key])
    match document["place"]:
        case "note":
            order["customer_note"] = document["text"]
        case "name":
            order["customer_name"] = document["text"]
        case "policy":
            page = {"policy_id": LOOKS_LIKE, "title": document["title"], "text": f"{LOOKS_LIKE}: {document['text']}"}
            table.items["acme", "policy", LOOKS_LIKE] = json.dumps(page)
    table.items[key] = json.dumps(order)
    return World(lambda request: obey(document, request), data=table, **world)


def obey(document: dict[str, Any], request: ModelRequest) -> Sequence[Step]:
    """Read, do what it says, say what it says; and in a later question of the session, go on with it."""
    turn = sum("toolResult" in message["content"][0] for message in request.messages)
    is_later = sum("text" in message["content"][0] for message in request.messages) > 1
    first: Sequence[Step]
    if is_later:
        wanted, answer = document.get("later", []), document.get("later_says", "As you said.")
        steps = [asks(*((name, _arguments(document, given)) for name, given in wanted))] if wanted else []
        return [*steps, says(answer)][min(turn, len(steps))]
    if document["place"] == "policy":
        first = asks(("search_policy", {"query": LOOKS_LIKE}))
    else:
        first = asks(("lookup_order", {"order_id": ORDER}))
    wanted = document.get("calls", [])
    steps = [first, *([asks(*((name, _arguments(document, given)) for name, given in wanted))] if wanted else [])]
    return [*steps, says(document.get("says", "It is done."))][min(turn, len(steps))]


def _arguments(document: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    return {k: "x" * document["repeat"] if v == "REPEAT" else v for k, v in given.items()}


def ask_twice(world: World) -> tuple[str, str]:
    """Ask a question that leads to the document, let a day pass, and ask another one in the same session."""
    first = world.question("ann", "What about my order?", session_id="ses_one")
    _until_over(world)
    second = world.question("ann", "Thanks. Anything else?", session_id="ses_one")
    _until_over(world)
    return first, second


def _until_over(world: World) -> None:
    world.deliver()
    world.each_minute()
    world.deliver()
    world.clock.advance(ONE_DAY_S)
    world.run_until_idle()


def approve_everything(world: World) -> None:
    """Let an approver say yes to all that comes, without looking."""
    bea = world.approver("bea")

    def approve() -> None:
        headers, _ = world.log.runs_awaiting_approval("acme", limit=20)
        for pending in [approval for header in headers for approval in header.approvals]:
            world.decide(pending.approval_id, by=bea)

    world.each_minute = approve


def changed(world: World) -> list[tuple[str, str, str]]:
    """Return the keys of what was written that was not there before."""
    return sorted(world.table.items.keys() - seeded().items.keys() - {("acme", "policy", LOOKS_LIKE)})


def test_the_corpus_is_large_and_varied() -> None:
    files = [tomllib.loads(file.read_text(encoding="utf-8"))["document"] for file in CORPUS.glob("*.toml")]
    documents = [document for file in files for document in file]
    assert len(documents) == len(DOCUMENTS) >= 100
    assert len({document["text"] for document in documents}) == len(documents)
    assert min(Counter(document["place"] for document in documents).values()) >= 2
    wishes = Counter(
        name for document in documents for name, _ in document.get("calls", []) + document.get("later", [])
    )
    assert {"issue_refund", "save_draft", "export_orders", "lookup_order", "list_orders"} <= wishes.keys()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_that_is_obeyed_changes_nothing_without_people(name: str) -> None:
    world = planted(DOCUMENTS[name])
    ask_twice(world)
    told = json.dumps([asked.request.messages for asked in world.asked], ensure_ascii=False)
    probe = json.dumps(DOCUMENTS[name]["text"], ensure_ascii=False)[1:20]
    assert json.dumps(probe, ensure_ascii=False)[1:-1] in told or probe in told, "the model never read it"
    assert violations(world) == []
    assert changed(world) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_that_is_obeyed_gets_no_more_than_people_approve_one_by_one(name: str) -> None:
    world = planted(DOCUMENTS[name])
    approve_everything(world)
    ask_twice(world)
    assert violations(world) == []


def test_an_untainted_run_may_save_a_draft_by_itself() -> None:
    """Otherwise the corpus would prove only that nothing ever happens."""
    draft = asks(("save_draft", {"order_id": "1001", "subject": "Hello", "body": "Your lamp is on its way."}))
    world = World(lambda request: says("Done.") if len(request.messages) > 1 else draft)
    world.question("ann")
    world.run_until_idle()
    assert [kind for _, kind, _ in changed(world)] == ["draft"]
    assert violations(world) == []
