"""The scripted model against the support desk's real tools: what it calls validates, what it says was brought."""

import json
from typing import Any

import pytest

from local.scripted_model import Answer, answer, read
from support_desk.tools import TOOLS

TOOL_CONFIG = {
    "tools": [
        {"toolSpec": {"name": name, "inputSchema": {"json": tool.contract.schema_}}} for name, tool in TOOLS.items()
    ]
}
ORDER = {"order_id": "1001", "status": "shipped", "total_cents": 4990, "carrier": "Blue Heron Freight"}


def conversation(question: str, *more: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"text": question}]}, *more], "toolConfig": TOOL_CONFIG}


def after(question: str, *rounds: list[tuple[Any, str]]) -> Answer:
    """Ask, and bring these results (content, status) for the calls of each round."""
    body = conversation(question)
    for results in rounds:
        calls = answer(read(body)).calls
        uses = [{"toolUseId": c.tool_use_id, "name": c.tool, "input": json.loads(c.input_json)} for c in calls]
        brought = [
            {
                "toolUseId": call.tool_use_id,
                "content": [{"text": json.dumps({"notice": "data", "data": content})}],
                "status": status,
            }
            for call, (content, status) in zip(calls, results, strict=True)
        ]
        body["messages"] += [
            {"role": "assistant", "content": [{"toolUse": use} for use in uses]},
            {"role": "user", "content": [{"toolResult": result} for result in brought]},
        ]
    return answer(read(body))


def calls_of(said: Answer) -> list[tuple[str, dict[str, Any]]]:
    """Return the calls, each with arguments that its tool takes."""
    for call in said.calls:
        TOOLS[call.tool].arguments.model_validate_json(call.input_json)
    return [(call.tool, json.loads(call.input_json)) for call in said.calls]


@pytest.mark.parametrize(
    ("question", "calls"),
    [
        ("Where is order 1001?", [("lookup_order", {"order_id": "1001"})]),
        (
            "Compare orders 1001 and 1002",
            [("lookup_order", {"order_id": "1001"}), ("lookup_order", {"order_id": "1002"})],
        ),
        ("List the last 5 orders that are delivered", [("list_orders", {"status": "delivered", "limit": 5})]),
        ("List orders of ada@shop.example", [("list_orders", {"customer_email": "ada@shop.example"})]),
        ("Which orders came since 2026-01-01?", [("list_orders", {"placed_from": "2026-01-01"})]),
        ("What is the return policy?", [("search_policy", {"query": "What is the return policy?"})]),
        ("Export all orders that are shipped", [("list_orders", {"status": "shipped"})]),
        ("Export our orders as CSV", [("export_orders", {})]),
    ],
)
def test_words_of_the_desk_become_calls_with_valid_arguments(
    question: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    said = answer(read(conversation(question)))
    assert calls_of(said) == calls
    assert said.stop_reason == "tool_use"


def test_a_refund_is_looked_up_first_and_takes_the_orders_total_where_no_amount_is_named() -> None:
    said = after("Please refund order 1001", [(ORDER, "success")])
    assert calls_of(said) == [("issue_refund", {"order_id": "1001", "amount_cents": 4990, "reason": "damaged"})]


def test_a_refund_takes_the_amount_and_reason_the_user_names() -> None:
    said = after("Please refund order 1001: 12.50 EUR, it came late", [(ORDER, "success")])
    assert calls_of(said) == [("issue_refund", {"order_id": "1001", "amount_cents": 1250, "reason": "late"})]


def test_a_refused_call_is_told_with_its_reason() -> None:
    refusal = {"error": "policy_denied", "message": "A refund needs an approver."}
    said = after("Please refund order 1001", [(ORDER, "success")], [(refusal, "error")])
    assert said.text.endswith("I could not issue refund: A refund needs an approver.")
    assert said.calls == ()


def test_a_failed_lookup_stops_what_was_to_follow() -> None:
    said = after("Draft a reply about order 9999", [({"message": "There is no order 9999."}, "error")])
    assert said == Answer("I could not lookup order: There is no order 9999.")


def test_a_draft_holds_the_facts_that_were_looked_up() -> None:
    [(tool, arguments)] = calls_of(after("Draft a reply about order 1001", [(ORDER, "success")]))
    assert tool == "save_draft"
    assert "Blue Heron Freight" in arguments["body"]


def test_a_question_that_refers_back_is_about_the_order_of_the_question_before() -> None:
    earlier = [
        {"role": "assistant", "content": [{"text": "Order 1002 is shipped, it cost 43800."}]},
        {"role": "user", "content": [{"text": "Who is its carrier?"}]},
    ]
    said = answer(read(conversation("Where is order 1002?", *earlier)))
    assert calls_of(said) == [("lookup_order", {"order_id": "1002"})]


def test_an_amount_is_no_order() -> None:
    assert answer(read(conversation("Is $1200 or 1500.00 EUR much?"))).calls == ()


def test_without_words_of_the_desk_it_says_what_it_can_do() -> None:
    assert "lookup order" in answer(read(conversation("Good morning"))).text


def test_it_calls_only_what_is_offered() -> None:
    body = conversation("Where is order 1001?") | {"toolConfig": {"tools": TOOL_CONFIG["tools"][:1]}}
    assert answer(read(body)).calls == ()
