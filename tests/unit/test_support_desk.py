"""The six tools on a tenant's items, and nothing of another tenant's."""

import csv
import io
import json
import sys
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.identity import Principal, Role
from agent.testing.tenant_data import MemoryTable, MemoryTenantData
from agent.testing.tenant_files import MemoryTenantFiles
from agent.tools import ToolContext, ToolFailed
from support_desk.tools import TOOLS
from support_desk.tools.export_orders import ExportOrders
from support_desk.tools.list_orders import ListOrders
from support_desk.tools.search_policy import Passage, rank

RUN = "run_01JABCDEFGHJKMNPQRSTVWXYZ0"


class Shop:
    """Two tenants' data and what a tool is given for one of them."""

    def __init__(self) -> None:
        self.table = MemoryTable()
        self.notes: list[str] = []

    def context(self, tool: str, tenant_id: str = "acme", call_id: str = "call_1_0") -> ToolContext:
        contract = TOOLS[tool].contract
        objects = self.table.objects
        return ToolContext(
            principal=Principal(tenant_id=tenant_id, user_id="u-1", roles=frozenset({Role.USER})),
            run_id=RUN,
            call_id=call_id,
            idempotency_key=f"{RUN}/{call_id}",
            data=MemoryTenantData(self.table, tenant_id, contract.data_actions),
            files=MemoryTenantFiles(objects, tenant_id, RUN, may_write=contract.writes_files),
            progress=self.notes.append,
        )

    def call(self, tool: str, arguments: dict[str, Any], **of: str) -> dict[str, Any]:
        declared = TOOLS[tool]
        result = declared.run(declared.arguments.model_validate(arguments), self.context(tool, **of))
        answer: dict[str, Any] = json.loads(result.model_dump_json())
        return answer

    def add_order(self, number: int, tenant_id: str = "acme", **fields: Any) -> None:
        order = {
            "order_id": str(number),
            "status": "shipped",
            "customer_name": f"Customer {number} of {tenant_id}",
            "customer_email": f"c{number}@example.com",
            "placed_on": str(date(2026, 1, 1) + timedelta(days=number - 1001)),
            "lines": [{"sku": "A", "title": "Lamp", "quantity": 1, "unit_price_cents": 5000}],
            "total_cents": 5000,
            "currency": "EUR",
            **fields,
        }
        MemoryTenantData(self.table, tenant_id).put("order", str(number), order)

    def refunds(self) -> list[dict[str, Any]]:
        return [json.loads(text) for (_, kind, _), text in sorted(self.table.items.items()) if kind == "refund"]


@pytest.fixture
def shop() -> Shop:
    return Shop()


def fails(shop: Shop, tool: str, arguments: dict[str, Any], **of: str) -> str:
    with pytest.raises(ToolFailed) as failed:
        shop.call(tool, arguments, **of)
    return failed.value.code


def test_an_order_is_found_in_the_own_tenant_alone(shop: Shop) -> None:
    shop.add_order(1001, carrier="DHL")
    shop.add_order(1001, "globex", carrier="UPS")
    assert shop.call("lookup_order", {"order_id": "1001"})["carrier"] == "DHL"
    assert shop.call("lookup_order", {"order_id": "1001"}, tenant_id="globex")["carrier"] == "UPS"
    shop.add_order(1002, "globex")
    assert fails(shop, "lookup_order", {"order_id": "1002"}) == "order_not_found"


@pytest.mark.parametrize(
    "order_id", ["", "1", "T#globex", "1001#", "../1001", "1001\n", "\uff11\uff10\uff10\uff11", 1001, None, "1" * 11]
)
@pytest.mark.parametrize("tool", ["lookup_order", "save_draft", "issue_refund"])
def test_what_is_no_order_number_never_reaches_a_tool(tool: str, order_id: Any) -> None:
    others: dict[str, dict[str, Any]] = {
        "lookup_order": {},
        "save_draft": {"subject": "s", "body": "b"},
        "issue_refund": {"amount_cents": 1, "reason": "late"},
    }
    TOOLS[tool].arguments.model_validate({"order_id": "1001", **others[tool]})
    with pytest.raises(ValidationError):
        TOOLS[tool].arguments.model_validate({"order_id": order_id, **others[tool]})


def numbers(page: dict[str, Any]) -> list[int]:
    return [int(order["order_id"]) for order in page["orders"]]


def test_orders_are_listed_by_every_filter_at_once(shop: Shop) -> None:
    for number in range(1001, 1011):
        shop.add_order(number, status="placed" if number % 2 else "shipped")
    shop.add_order(1011, "globex", status="placed")
    assert numbers(shop.call("list_orders", {"status": "placed"})) == [1001, 1003, 1005, 1007, 1009]
    assert numbers(shop.call("list_orders", {"customer_email": "C1004@Example.com"})) == [1004]
    days = {"placed_from": "2026-01-03", "placed_to": "2026-01-05"}
    assert numbers(shop.call("list_orders", days)) == [1003, 1004, 1005]
    assert numbers(shop.call("list_orders", {**days, "status": "shipped"})) == [1004]


def test_pages_of_orders_put_together_give_each_once(shop: Shop) -> None:
    for number in range(1001, 1124):
        shop.add_order(number, status="placed" if number % 3 else "shipped")
    got: list[int] = []
    after: str | None = None
    for _ in range(50):
        page = shop.call("list_orders", {"status": "placed", "limit": 7, "after_order_id": after})
        assert len(page["orders"]) <= 7
        got += numbers(page)
        after = page["next"]
        if after is None:
            break
    assert got == [number for number in range(1001, 1124) if number % 3]


def test_a_filter_that_matches_nothing_stops_at_its_bound_and_says_where(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[ListOrders.__module__], "MAX_READ", 20)
    for number in range(1001, 1031):
        shop.add_order(number, status="cancelled" if number == 1030 else "placed")
    page = shop.call("list_orders", {"status": "cancelled"})
    assert page == {"orders": [], "next": "1020"}
    page = shop.call("list_orders", {"status": "cancelled", "after_order_id": "1020"})
    assert (numbers(page), page["next"]) == ([1030], None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 0},
        {"limit": 26},
        {"status": "lost"},
        {"placed_from": "2026-02-30"},
        {"placed_to": "yesterday"},
        {"customer_email": "x"},
    ],
)
def test_a_wrong_filter_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TOOLS["list_orders"].arguments.model_validate(wrong)


def test_a_draft_is_saved_once_however_often_its_call_runs(shop: Shop) -> None:
    shop.add_order(1001)
    draft = {"order_id": "1001", "subject": "Your order", "body": "It is on its way."}
    first = shop.call("save_draft", draft)
    assert shop.call("save_draft", draft) == first
    assert shop.call("save_draft", draft, call_id="call_2_0") != first
    saved = [json.loads(text) for (_, kind, _), text in shop.table.items.items() if kind == "draft"]
    assert len(saved) == 2
    about = {"draft_id": "", "author": "u-1", "status": "draft", "tainted": False}
    assert saved[0] | {"draft_id": ""} == {**draft, **about}


def test_a_draft_about_no_order_is_not_saved(shop: Shop) -> None:
    shop.add_order(1001, "globex")
    assert fails(shop, "save_draft", {"order_id": "1001", "subject": "s", "body": "b"}) == "order_not_found"
    assert {kind for _, kind, _ in shop.table.items} == {"order"}


def refund(amount: int, reason: str = "late") -> dict[str, Any]:
    return {"order_id": "1001", "amount_cents": amount, "reason": reason}


def test_a_refund_happens_once_however_often_its_call_runs(shop: Shop) -> None:
    shop.add_order(1001)
    first = shop.call("issue_refund", refund(1200))
    assert first == {
        "refund_id": "1001-01",
        "order_id": "1001",
        "amount_cents": 1200,
        "currency": "EUR",
        "refunded_total_cents": 1200,
    }
    assert shop.call("issue_refund", refund(1200)) == first
    assert len(shop.refunds()) == 1
    assert shop.refunds()[0]["requested_by"] == "u-1"


def test_refunds_never_exceed_what_was_paid(shop: Shop) -> None:
    shop.add_order(1001)
    shop.call("issue_refund", refund(3000))
    assert fails(shop, "issue_refund", refund(2001), call_id="call_2_0") == "refund_too_large"
    assert shop.call("issue_refund", refund(2000), call_id="call_3_0")["refunded_total_cents"] == 5000
    assert fails(shop, "issue_refund", refund(1), call_id="call_4_0") == "refund_too_large"


def test_two_refunds_at_once_can_not_refund_more_than_was_paid(shop: Shop) -> None:
    shop.add_order(1001)
    tool = TOOLS["issue_refund"]
    context = shop.context("issue_refund")

    class Overtaken(MemoryTenantData):
        """Another call's refund lands between this call's read and its write."""

        overtaken = False

        def put(self, *args: Any, **options: Any) -> bool:
            if not self.overtaken:
                self.overtaken = True
                shop.call("issue_refund", refund(3000), call_id="call_9_0")
            return super().put(*args, **options)

    racing = replace(context, data=Overtaken(shop.table, "acme"))
    with pytest.raises(ToolFailed):
        tool.run(tool.arguments.model_validate(refund(3000)), racing)
    assert [entry["amount_cents"] for entry in shop.refunds()] == [3000]
    smaller = replace(context, data=Overtaken(shop.table, "acme"), idempotency_key="another", call_id="call_5_0")
    smaller.data.overtaken = True  # type: ignore[attr-defined] # the test's own double
    tool.run(tool.arguments.model_validate(refund(2000)), smaller)
    assert sum(entry["amount_cents"] for entry in shop.refunds()) == 5000


def test_an_order_has_a_bounded_number_of_refunds(shop: Shop) -> None:
    shop.add_order(1001)
    for number in range(20):
        shop.call("issue_refund", refund(1), call_id=f"call_{number}_0")
    assert fails(shop, "issue_refund", refund(1), call_id="call_20_0") == "refund_too_large"


@pytest.mark.parametrize("amount", [0, -1, 12.5, "100", True, 1_000_001])
def test_an_amount_is_a_positive_number_of_cents(amount: Any) -> None:
    with pytest.raises(ValidationError):
        TOOLS["issue_refund"].arguments.model_validate(refund(amount))


def exported(shop: Shop, answer: dict[str, Any], tenant_id: str = "acme") -> list[dict[str, str]]:
    content = shop.table.objects[f"T/{tenant_id}/{RUN}/{answer['file']}"].decode()
    return list(csv.DictReader(io.StringIO(content, newline="")))


def test_an_export_has_every_matching_order_of_the_tenant(shop: Shop) -> None:
    for number in range(1001, 1251):
        shop.add_order(number, status="placed" if number % 2 else "shipped", carrier="DHL")
    shop.add_order(9999, "globex")
    answer = shop.call("export_orders", {"status": "placed"})
    assert answer == {"file": "orders-call_1_0.csv", "rows": 125, "complete": True}
    rows = exported(shop, answer)
    assert [int(row["order_id"]) for row in rows] == list(range(1001, 1251, 2))
    assert rows[0]["carrier"] == "DHL"
    assert rows[0]["tracking_number"] == ""


def test_an_export_tells_how_far_it_is_and_stops_at_its_bound(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1001, 3102):
        shop.add_order(number, placed_on="2026-01-01")
    shop.call("export_orders", {})
    assert shop.notes == [
        "1000 orders read, 1000 exported",
        "2000 orders read, 2000 exported",
        "2101 orders read, 2101 exported; writing the file",
    ]
    monkeypatch.setattr(sys.modules[ExportOrders.__module__], "MAX_ROWS", 250)
    answer = shop.call("export_orders", {})
    assert (answer["rows"], answer["complete"]) == (250, False)


@pytest.mark.parametrize("name", ['=cmd|"/c calc"!A1', "+1", "-1", "@SUM(A1)", "\tx", "\r=1"])
def test_a_customers_name_never_becomes_a_formula(shop: Shop, name: str) -> None:
    shop.add_order(1001, customer_name=name)
    shop.add_order(1002, customer_name='O\'Hara, "Bob"\nLine')
    rows = exported(shop, shop.call("export_orders", {}))
    assert rows[0]["customer_name"] == f"'{name}"
    assert rows[1]["customer_name"] == 'O\'Hara, "Bob"\nLine'


POLICIES = {
    "returns": ("Returns", "You may return shoes within 30 days.\n\nWorn shoes are not taken back."),
    "delivery": ("Delivery", "We deliver with DHL in two to four days.\n\nDelivery abroad takes a week."),
}


def test_the_best_passages_of_the_tenants_policies_come_first(shop: Shop) -> None:
    for tenant_id in ("acme", "globex"):
        for item_id, (title, text) in POLICIES.items():
            MemoryTenantData(shop.table, tenant_id).put(
                "policy", item_id, {"title": title, "text": text.replace("30 days", f"30 days at {tenant_id}")}
            )
    found = shop.call("search_policy", {"query": "Can I return worn shoes?"})["passages"]
    assert found[0] == {"document": "Returns", "text": "Worn shoes are not taken back."}
    assert found[1] == {"document": "Returns", "text": "You may return shoes within 30 days at acme."}
    assert "globex" not in json.dumps(found)
    assert shop.call("search_policy", {"query": "warranty"}) == {"passages": []}


def test_a_search_brings_a_bounded_amount_of_text(shop: Shop) -> None:
    for number in range(10):
        MemoryTenantData(shop.table, "acme").put("policy", f"p{number}", {"title": "Gifts", "text": "gift " * 2000})
    found = shop.call("search_policy", {"query": "gifts"})["passages"]
    assert len(found) == 4
    assert all(len(passage["text"]) <= 1500 for passage in found)


def test_a_rare_word_counts_more_than_a_common_one() -> None:
    passages = [Passage(document="", text=f"order number {word}") for word in ("apple", "berry", "cherry")]
    assert rank("order cherry", passages)[0].text == "order number cherry"


@given(query=st.text(max_size=200), texts=st.lists(st.text(max_size=100), max_size=5))
def test_any_query_over_any_text_ranks_a_part_of_it(query: str, texts: list[str]) -> None:
    passages = [Passage(document="", text=text) for text in texts]
    ranked = rank(query, passages)
    assert all(passage in passages for passage in ranked)
    assert len(ranked) <= len(passages)
