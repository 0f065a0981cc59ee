"""The two shops' data: readable by the tools, and with no fact in common under one order number."""

import json
from typing import Any

import pytest

from agent.tenant_items import require_id, require_item
from support_desk import seed
from support_desk.orders import Order


def orders(tenant_id: str) -> dict[str, Order]:
    return {item_id: Order.model_validate(item) for kind, item_id, item in seed.items(tenant_id) if kind == "order"}


@pytest.mark.parametrize("tenant_id", seed.TENANTS)
def test_everything_can_be_stored_and_read_by_the_tools(tenant_id: str) -> None:
    stored: list[tuple[str, str, dict[str, Any]]] = list(seed.items(tenant_id))
    for kind, item_id, item in stored:
        require_id(kind, item_id)
        require_item(item)
        assert item[f"{kind}_id"] == item_id
    assert len({(kind, item_id) for kind, item_id, _ in stored}) == len(stored)
    assert {order.status for order in orders(tenant_id).values()} == {
        "placed",
        "packed",
        "shipped",
        "delivered",
        "returned",
        "cancelled",
    }
    assert len(orders(tenant_id)) > 200


def test_the_same_order_number_means_different_facts_in_each_shop() -> None:
    acme, globex = orders("acme"), orders("globex")
    assert "1001" in acme.keys() & globex.keys()
    for number in acme.keys() & globex.keys():
        ours, theirs = acme[number], globex[number]
        for field in ("customer_name", "customer_email", "currency"):
            assert getattr(ours, field) != getattr(theirs, field)
        assert ours.carrier is None or ours.carrier != theirs.carrier
        assert ours.tracking_number is None or ours.tracking_number != theirs.tracking_number
    assert acme["1001"].placed_on != globex["1001"].placed_on


def test_a_shop_names_nobody_of_the_other() -> None:
    for tenant_id, other in (seed.TENANTS, seed.TENANTS[::-1]):
        text = json.dumps(list(seed.items(tenant_id)), ensure_ascii=False)
        shop = seed.SHOPS[other]
        names = {name for name, _ in shop.carriers} | set(shop.given_names) | set(shop.family_names)
        assert not {name for name in names if name in text}


def test_the_data_is_the_same_each_time() -> None:
    assert list(seed.items("acme")) == list(seed.items("acme"))
