"""Cedar's verdicts: default deny, errors deny, and no argument talks its way out of its type."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from cedarpy import is_authorized
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigurationInvalid
from agent.identity import Principal, Role
from agent.policy import CedarPolicy, entities, request
from agent.ports.policy import PolicyDecision, PolicyQuery
from support_desk.tools import TOOLS

FOLDER = Path("support_desk/policies")
SCHEMA = """
entity User { tenant: String, user_id: String, roles: Set<String> };
entity Order { tenant: String };
action pay appliesTo {
  principal: User,
  resource: Order,
  context: {
    approved: Bool,
    tainted: Bool,
    force_review: Bool,
    read_only: Bool,
    arguments: { amount?: Long, note?: String },
  }
};
"""
PERMIT_ALL = "permit (principal, action, resource);"


@pytest.fixture(scope="module")
def desk() -> CedarPolicy:
    return CedarPolicy.load(FOLDER)


def principal(*roles: Role, tenant: str = "acme") -> Principal:
    return Principal(tenant_id=tenant, user_id="u-1", roles=frozenset(roles))


def ask(
    policy: CedarPolicy, arguments: dict[str, Any], *, tool: str = "pay", resource: str = "Order::1001"
) -> PolicyDecision:
    return policy.decide(PolicyQuery(principal(Role.USER), tool, arguments, resource))


EXAMPLES: dict[str, dict[str, Any]] = {
    "search_policy": {"query": "return shoes"},
    "lookup_order": {"order_id": "1001"},
    "list_orders": {
        "status": "placed",
        "customer_email": "a@example.com",
        "placed_from": "2026-01-01",
        "placed_to": "2026-02-01",
        "after_order_id": "1001",
        "limit": 5,
    },
    "save_draft": {"order_id": "1001", "subject": "Hello", "body": "Dear …"},
    "issue_refund": {"order_id": "1001", "amount_cents": 100, "reason": "late"},
    "export_orders": {"status": "placed", "placed_from": "2026-01-01", "placed_to": "2026-02-01"},
    "parcels__track_parcel": {"tracking_number": "JD014600007919"},
}
FACTS: dict[str, dict[str, Any]] = {
    "save_draft": {"handler": ""},
    "issue_refund": {"handler": "", "total_cents": 100_000, "refunded_cents": 0},
}
MAY = {
    Role.USER: {"search_policy", "lookup_order", "list_orders", "save_draft", "export_orders", "parcels__track_parcel"},
    Role.APPROVER: {
        "search_policy",
        "lookup_order",
        "list_orders",
        "save_draft",
        "export_orders",
        "parcels__track_parcel",
    },
    Role.OPERATOR: {"search_policy", "lookup_order", "list_orders"},
    None: set(),
}
MAY_ONCE_APPROVED = {(Role.USER, "issue_refund"), (Role.APPROVER, "issue_refund")}


@pytest.mark.parametrize("role", MAY)
@pytest.mark.parametrize("name", TOOLS)
def test_each_role_may_exactly_what_the_table_says(desk: CedarPolicy, role: Role | None, name: str) -> None:
    tool = TOOLS[name]
    for given_arguments in (EXAMPLES[name], {k: v for k, v in EXAMPLES[name].items() if k in _required(name)}):
        arguments = tool.arguments.model_validate(given_arguments)
        roles = [role] if role else []
        resource = tool.resource_of(arguments)
        query = PolicyQuery(principal(*roles), name, arguments.model_dump(), resource, facts=FACTS.get(name, {}))
        decision = desk.decide(query)
        verdict = "allow" if name in MAY[role] else "ask" if (role, name) in MAY_ONCE_APPROVED else "deny"
        assert decision.verdict == verdict
        assert bool(decision.policies) == (decision.verdict != "deny")


def _resource(name: str) -> str:
    return TOOLS[name].resource_of(TOOLS[name].arguments.model_validate(EXAMPLES[name]))


def _required(name: str) -> list[str]:
    required: list[str] = TOOLS[name].contract.schema_.get("required", [])
    return required


def test_no_tool_is_missing_from_the_table() -> None:
    assert set(EXAMPLES) == set(TOOLS)


@pytest.mark.parametrize(("amount_cents", "verdict"), [(1, "ask"), (50_000, "ask"), (50_001, "deny"), (2**62, "deny")])
def test_a_refund_always_needs_a_person_and_above_the_limit_no_person_helps(
    desk: CedarPolicy, amount_cents: int, verdict: str
) -> None:
    arguments = {**EXAMPLES["issue_refund"], "amount_cents": amount_cents}
    query = PolicyQuery(principal(*Role), "issue_refund", arguments, "Order::1001", facts=FACTS["issue_refund"])
    assert desk.decide(query).verdict == verdict


def test_permitted_only_when_approved_means_ask() -> None:
    policy = CedarPolicy("permit (principal, action, resource) when { context.approved };", SCHEMA)
    assert ask(policy, {"amount": 1}).verdict == "ask"


@pytest.mark.parametrize("name", TOOLS)
def test_what_the_desk_allows_unapproved_it_allows_approved_too(name: str) -> None:
    schema = (FOLDER / "schema.cedarschema").read_text()
    policies = (FOLDER / "support_desk.cedar").read_text()
    for roles in (itertools.compress(Role, chosen) for chosen in itertools.product((0, 1), repeat=len(Role))):
        query = PolicyQuery(principal(*roles), name, EXAMPLES[name], _resource(name), facts=FACTS.get(name, {}))
        unapproved, approved = (
            is_authorized(request(query, approved=value), policies, entities(query), schema).allowed
            for value in (False, True)
        )
        assert approved or not unapproved


def test_a_forbid_whose_condition_errs_denies_though_cedar_itself_would_allow() -> None:
    # Adding one to the largest Long overflows at evaluation: the forbid is skipped and the permit stands.
    condition = "when { context.arguments has amount && context.arguments.amount + 1 > 5 };"
    policy = CedarPolicy(f"{PERMIT_ALL} forbid (principal, action, resource) {condition}", SCHEMA)
    assert ask(policy, {"amount": 1}).verdict == "allow"
    assert ask(policy, {"amount": 2**63 - 1}).verdict == "deny"


def test_a_limit_on_a_permit_denies_when_its_condition_errs() -> None:
    condition = "when { context.arguments has amount && context.arguments.amount + 1 < 5 };"
    policy = CedarPolicy(f"permit (principal, action, resource) {condition}", SCHEMA)
    assert ask(policy, {"amount": 1}).verdict == "allow"
    assert ask(policy, {"amount": 2**63 - 1}).verdict == "deny"


def test_the_resource_is_in_the_tenant_of_the_principal_whatever_its_id_claims() -> None:
    other = 'permit (principal, action, resource) when { resource.tenant == "globex" };'
    policy = CedarPolicy(other, SCHEMA)
    assert ask(policy, {}, resource='Order::1", "tenant": "globex').verdict == "deny"
    query = PolicyQuery(principal(Role.USER, tenant="globex"), "pay", {}, "Order::1")
    assert policy.decide(query).verdict == "allow"


@pytest.mark.parametrize(
    "arguments",
    [
        {"amount": "1"},
        {"amount": 1.0},
        {"amount": 2**63},
        {"amount": True},
        {"amount": float("nan")},
        {"unknown": 1},
        {"note": {"__entity": {"type": "User", "id": "u-1"}}},
        {"note": {"__extn": {"fn": "ip", "arg": "10.0.0.1"}}},
        {"note": ["a"]},
        {"note": "\ud800"},
        {"approved": True},
    ],
)
def test_an_argument_that_does_not_fit_the_schema_is_denied_even_where_everything_is_permitted(
    arguments: dict[str, Any],
) -> None:
    policy = CedarPolicy(PERMIT_ALL, SCHEMA)
    assert ask(policy, {"amount": 1, "note": "fine"}).verdict == "allow"
    assert ask(policy, arguments).verdict == "deny"


def test_cedars_escapes_are_refused_even_where_the_schema_asks_for_an_entity() -> None:
    schema = SCHEMA.replace("note?: String", "note?: User")
    policy = CedarPolicy(PERMIT_ALL, schema)
    assert ask(policy, {"note": {"__entity": {"type": "User", "id": "u-1"}}}).verdict == "deny"


def test_cedars_escapes_are_refused_within_lists_and_objects_too() -> None:
    schema = SCHEMA.replace("note?: String", "note?: Set<User>, more?: { who: User }")
    policy = CedarPolicy(PERMIT_ALL, schema)
    somebody = {"__entity": {"type": "User", "id": "u-1"}}
    assert ask(policy, {"note": []}).verdict == "allow"
    assert ask(policy, {"note": [somebody]}).verdict == "deny"
    assert ask(policy, {"more": {"who": somebody}}).verdict == "deny"


def test_a_fact_that_is_not_known_is_one_that_the_resource_does_not_have() -> None:
    policy = CedarPolicy(PERMIT_ALL, SCHEMA.replace("tenant: String }", "tenant: String, total?: Long }"))
    query = PolicyQuery(principal(Role.USER), "pay", {}, "Order::1001", facts={"total": None})
    assert policy.decide(query).verdict == "allow"


@pytest.mark.parametrize("resource", ["Order", "", "User::u-1", "Nothing::1", "order::1"])
def test_a_resource_of_the_wrong_kind_is_denied(resource: str) -> None:
    assert ask(CedarPolicy(PERMIT_ALL, SCHEMA), {}, resource=resource).verdict == "deny"


def test_an_unknown_tool_is_denied(desk: CedarPolicy) -> None:
    assert ask(desk, {"order_id": "1001"}, tool='lookup_order" || true').verdict == "deny"


@given(order_id=st.text(), resource_id=st.text(), tool=st.text())
def test_no_text_makes_a_refund_run_unapproved_or_an_unknown_tool_anything_but_denied(
    desk: CedarPolicy, order_id: str, resource_id: str, tool: str
) -> None:
    refund = {"order_id": order_id, "amount_cents": 1, "reason": order_id}
    assert ask(desk, refund, tool="issue_refund", resource=f"Order::{resource_id}").verdict != "allow"
    if tool not in TOOLS:
        assert ask(desk, {"order_id": order_id}, tool=tool).verdict == "deny"


@pytest.mark.parametrize(
    ("policies", "schema"),
    [
        ("permit (principal", SCHEMA),
        ("permit (principal, action, resource) when { principal.boss };", SCHEMA),
        ('permit (principal, action == Action::"pray", resource);', SCHEMA),
        (PERMIT_ALL, "entity User {"),
    ],
)
def test_a_wrong_policy_or_schema_is_refused_at_load(policies: str, schema: str) -> None:
    with pytest.raises(ConfigurationInvalid, match="policies"):
        CedarPolicy(policies, schema)


def test_a_folder_without_policies_is_refused_at_load(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"no \.cedar file"):
        CedarPolicy.load(tmp_path)
    (tmp_path / "one.cedar").write_text(PERMIT_ALL)
    with pytest.raises(ConfigurationInvalid, match="schema"):
        CedarPolicy.load(tmp_path)


def test_the_hash_changes_with_a_policy_and_with_the_schema() -> None:
    variants = [(PERMIT_ALL, SCHEMA), (PERMIT_ALL + "\n", SCHEMA), (PERMIT_ALL, SCHEMA + "\n")]
    assert len({ask(CedarPolicy(*variant), {}).policy_sha256 for variant in variants}) == 3
