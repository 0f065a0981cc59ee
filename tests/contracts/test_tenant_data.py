"""What every `TenantData` does: the suite of the port, in memory and on DynamoDB (moto)."""

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto import mock_aws

from agent.aws.tenant_data import DynamoDbTenantData, load
from agent.testing.tenant_data import MemoryTable, MemoryTenantData
from agent.tools import TenantData

Open = Callable[[str], TenantData]


@pytest.fixture(scope="module")
def dynamodb() -> Iterator[Any]:
    with mock_aws():
        yield boto3.client("dynamodb", region_name="eu-central-1")


@pytest.fixture
def table(dynamodb: Any) -> Iterator[str]:
    dynamodb.create_table(
        TableName="tenant",
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n in ("pk", "sk")],
    )
    yield "tenant"
    dynamodb.delete_table(TableName="tenant")


@pytest.fixture(params=["memory", "dynamodb"])
def open_tenant(request: pytest.FixtureRequest, dynamodb: Any, table: str) -> Open:
    memory = MemoryTable()
    opens: dict[str, Open] = {
        "memory": lambda tenant_id: MemoryTenantData(memory, tenant_id),
        "dynamodb": lambda tenant_id: DynamoDbTenantData(dynamodb, table, tenant_id),
    }
    return opens[request.param]


def test_an_item_comes_back_as_it_went_in(open_tenant: Open) -> None:
    data = open_tenant("acme")
    item = {"n": 3, "text": "grün", "none": None, "yes": True, "list": [1, {"deep": ["x"]}], "empty": "", "big": 2**60}
    assert data.put("order", "1001", item)
    found = data.get("order", "1001")
    assert found == item
    assert [type(value) for value in (found or {}).values()] == [type(found[name]) for name in found or {}]
    assert found is not None
    assert isinstance(found["n"], int)
    assert found["yes"] is True


def test_a_missing_item_is_none(open_tenant: Open) -> None:
    assert open_tenant("acme").get("order", "1001") is None


def test_a_tenant_sees_nothing_of_another(open_tenant: Open) -> None:
    open_tenant("acme").put("order", "1001", {"of": "acme"})
    globex = open_tenant("globex")
    assert globex.get("order", "1001") is None
    assert globex.query("order") == []
    assert globex.put("order", "1001", {"of": "globex"}, only_if_new=True)
    assert open_tenant("acme").get("order", "1001") == {"of": "acme"}


def test_only_if_new_writes_once_and_says_so(open_tenant: Open) -> None:
    data = open_tenant("acme")
    assert data.put("draft", "d", {"v": 1}, only_if_new=True)
    assert not data.put("draft", "d", {"v": 2}, only_if_new=True)
    assert data.get("draft", "d") == {"v": 1}
    assert data.put("draft", "d", {"v": 3})
    assert data.get("draft", "d") == {"v": 3}


def test_a_query_is_in_id_order_within_its_kind(open_tenant: Open) -> None:
    data = open_tenant("acme")
    for item_id in ("b", "a-1", "B", "a", "a.1", "a_1", "10", "9"):
        data.put("order", item_id, {"id": item_id})
    data.put("orders", "0", {"id": "another kind"})
    data.put("orde", "z", {"id": "another kind"})
    assert [item["id"] for item in data.query("order")] == ["10", "9", "B", "a", "a-1", "a.1", "a_1", "b"]


def test_a_query_begins_with_the_prefix_and_behind_after(open_tenant: Open) -> None:
    data = open_tenant("acme")
    for item_id in ("1", "1-01", "1-02", "1-03", "10-01", "2"):
        data.put("refund", item_id, {"id": item_id})

    def ids(**asked: Any) -> list[str]:
        return [item["id"] for item in data.query("refund", **asked)]

    assert ids(prefix="1-") == ["1-01", "1-02", "1-03"]
    assert ids(prefix="1-", after="1-01") == ["1-02", "1-03"]
    assert ids(after="1") == ["1-01", "1-02", "1-03", "10-01", "2"]
    assert ids(after="1-01", limit=2) == ["1-02", "1-03"]
    assert ids(after="1-015") == ["1-02", "1-03", "10-01", "2"]
    assert ids(after="3") == []
    assert ids(prefix="1-", after="2") == []


def test_pages_of_any_size_put_together_give_everything_once(open_tenant: Open) -> None:
    data = open_tenant("acme")
    names = [f"{n:04d}" for n in range(1001, 1024)]
    for name in names:
        data.put("order", name, {"id": name})
    for limit in (1, 2, 7, 23, 100):
        got: list[str] = []
        while page := data.query("order", after=got[-1] if got else "", limit=limit):
            assert len(page) <= limit
            got += [item["id"] for item in page]
        assert got == names


def test_a_query_goes_on_where_dynamodb_ends_a_page_at_a_megabyte(open_tenant: Open) -> None:
    data = open_tenant("acme")
    for number in range(30):
        data.put("note", f"{number:02d}", {"id": number, "text": "x" * 50_000})
    assert [item["id"] for item in data.query("note")] == list(range(30))


@pytest.mark.parametrize("kind", ["", "Order", "a#b", "x" * 33, "order#1001"])
def test_what_is_no_kind_is_refused(open_tenant: Open, kind: str) -> None:
    data = open_tenant("acme")
    for call in (lambda: data.get(kind, "1"), lambda: data.query(kind), lambda: data.put(kind, "1", {})):
        with pytest.raises(ValueError, match="kind"):
            call()


@pytest.mark.parametrize("item_id", ["", "a#b", "a b", "~", "x" * 129, "a\n", "é"])
def test_what_is_no_id_is_refused(open_tenant: Open, item_id: str) -> None:
    data = open_tenant("acme")
    for call in (lambda: data.get("order", item_id), lambda: data.put("order", item_id, {})):
        with pytest.raises(ValueError, match="id"):
            call()
    if item_id:
        with pytest.raises(ValueError, match="prefix"):
            data.query("order", prefix=item_id)
        with pytest.raises(ValueError, match="after"):
            data.query("order", after=item_id)


@pytest.mark.parametrize("limit", [0, -1, 101])
def test_a_page_is_bounded(open_tenant: Open, limit: int) -> None:
    with pytest.raises(ValueError, match="page"):
        open_tenant("acme").query("order", limit=limit)


@pytest.mark.parametrize(
    "item",
    [
        {"a": 1.5},
        {"a": [{"b": 0.1}]},
        {"pk": "T#globex"},
        {"sk": "x"},
        {"a": b"bytes"},
        {"a": {1}},
        {"a": {"": 1}},
        {"a": 10**38},
        {"a": "x" * 64_001},
    ],
)
def test_an_item_that_would_not_come_back_the_same_is_refused(open_tenant: Open, item: dict[str, Any]) -> None:
    data = open_tenant("acme")
    with pytest.raises(ValueError, match="item"):
        data.put("order", "1001", item)
    assert data.get("order", "1001") is None


LEAVES = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(max_size=20)
NAMES = st.text(min_size=1, max_size=10)
ITEMS = st.dictionaries(
    NAMES.filter(lambda name: name not in {"pk", "sk"}),
    st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
    ),
    max_size=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(item=ITEMS)
def test_any_json_object_without_floats_comes_back_as_it_went_in(open_tenant: Open, item: dict[str, Any]) -> None:
    data = open_tenant("acme")
    data.put("thing", "1", item)
    assert data.get("thing", "1") == item


def test_loading_writes_what_the_tools_read(dynamodb: Any, table: str) -> None:
    assert load(dynamodb, table, "acme", (("order", f"{n}", {"n": n}) for n in range(1001, 1061))) == 60
    data = DynamoDbTenantData(dynamodb, table, "acme")
    assert [item["n"] for item in data.query("order", limit=100)] == list(range(1001, 1061))
    with pytest.raises(ValueError, match="kind"):
        load(dynamodb, table, "acme", [("order", "#", {})])
