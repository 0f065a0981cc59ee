"""The rules of Cedar that DESIGN demands of every policy file, and of every query that is put to it."""

from pathlib import Path
from typing import Any

import pytest
from cedarpy import is_authorized

from agent.errors import ConfigurationInvalid
from agent.policy import CedarPolicy, entities, request
from agent.policy_lint import problems
from agent.ports.policy import PolicyQuery
from support_desk.policy_matrix import CASES, PEOPLE
from support_desk.tools import TOOLS
from tests.unit.test_policy import PERMIT_ALL, SCHEMA, ask
from tests.unit.test_policy_matrix import POLICIES, effect_query
from tests.unit.test_policy_matrix import SCHEMA as DESK_SCHEMA

PERMIT = '@id("pay") permit (principal, action == Action::"pay", resource);'


def forbid(condition: str, kind: str = "when") -> str:
    return f'@id("no") forbid (principal, action, resource) {kind} {{ {condition} }};'


@pytest.mark.parametrize(
    "condition",
    [
        "context.arguments has amount && context.arguments.amount + 1 > 5",
        "context.arguments has amount && context.arguments.amount * 2 == 4",
        "context.arguments has amount && context.arguments.amount - 1 == 4",
        "context.arguments has amount && context.arguments.amount > 5",
        'ip("127.0.0.1").isLoopback()',
        'decimal("1.0") == decimal("2.0")',
        'User::"boss".tenant == principal.tenant',
        'principal.tenant == "acme" && !(context.tainted == (1 + 1 == 2))',
        "if context.tainted then context.arguments has amount && context.arguments.amount < 1 else false",
    ],
)
@pytest.mark.parametrize("kind", ["when", "unless"])
def test_a_forbid_that_could_err_or_sets_a_limit_is_refused_at_load(tmp_path: Path, condition: str, kind: str) -> None:
    policies = PERMIT + forbid(condition, kind)
    CedarPolicy(policies, SCHEMA)  # Cedar's validator takes it
    assert problems(policies) != []
    (tmp_path / "one.cedar").write_text(policies)
    (tmp_path / "schema.cedarschema").write_text(SCHEMA)
    with pytest.raises(ConfigurationInvalid, match="no is a forbid and"):
        CedarPolicy.load(tmp_path)


@pytest.mark.parametrize(
    "condition",
    [
        "context.tainted && !context.approved",
        'context.arguments has note && context.arguments.note like "*bomb*"',
        'principal in [User::"a", User::"b"]',
        'principal.roles.contains("operator") || principal.roles.containsAny(["a", "b"])',
        'if context.read_only then true else resource.tenant != "acme"',
        "resource is Order && context.arguments has amount && -1 == context.arguments.amount",
    ],
)
def test_a_forbid_that_only_compares_is_taken(condition: str) -> None:
    CedarPolicy(PERMIT + forbid(condition), SCHEMA)
    assert problems(PERMIT + forbid(condition)) == []


@pytest.mark.parametrize("condition", ["context.arguments.amount == 1", 'context.arguments.note == "x"'])
def test_an_optional_attribute_read_without_has_is_refused_by_cedars_validator(condition: str) -> None:
    with pytest.raises(ConfigurationInvalid, match="optional"):
        CedarPolicy(PERMIT + forbid(condition), SCHEMA)


@pytest.mark.parametrize(
    ("policies", "what"),
    [
        (PERMIT_ALL, "has no @id"),
        (f'@id("x") {PERMIT_ALL}', "permits every action"),
        (PERMIT + PERMIT, "two policies are called pay"),
        ('@id("") ' + PERMIT.removeprefix('@id("pay") '), "has no @id"),
    ],
)
def test_a_policy_that_a_decision_could_not_name_or_that_permits_everything_is_refused(
    policies: str, what: str
) -> None:
    assert any(what in problem for problem in problems(policies))


def test_templates_are_refused() -> None:
    with pytest.raises(ConfigurationInvalid, match="templates"):
        problems('@id("x") permit (principal == ?principal, action == Action::"pay", resource);')


def test_the_support_desks_policies_keep_to_all_of_it() -> None:
    assert problems(POLICIES) == []


# --- queries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("attribute", ["approved", "tainted", "force_review", "read_only", "arguments"])
def test_every_attribute_of_every_actions_context_is_required(tool: str, attribute: str) -> None:
    query = effect_query(tool)
    asked = request(query, approved=True)
    permit_all = POLICIES + '@id("x") permit (principal, action, resource);'
    assert is_authorized(asked, permit_all, entities(query), DESK_SCHEMA).allowed
    context: dict[str, Any] = {name: value for name, value in asked["context"].items() if name != attribute}
    without = is_authorized({**asked, "context": context}, permit_all, entities(query), DESK_SCHEMA)
    assert not without.allowed
    assert without.diagnostics.errors
    more = {**asked, "context": {**asked["context"], "trusted": True}}
    assert not is_authorized(more, permit_all, entities(query), DESK_SCHEMA).allowed


@pytest.mark.parametrize("tool", TOOLS)
def test_policies_without_a_tools_action_deny_it(tool: str) -> None:
    others = [part for part in POLICIES.split("@id(") if f'Action::"{tool}"' not in part]
    assert CedarPolicy("@id(".join(others), DESK_SCHEMA).decide(effect_query(tool)).verdict == "deny"
    start = DESK_SCHEMA.index(f"action {tool} ")
    schema = DESK_SCHEMA[:start] + DESK_SCHEMA[DESK_SCHEMA.index("};", start) + 2 :]
    assert (
        CedarPolicy('@id("x") permit (principal, action, resource);', schema).decide(effect_query(tool)).verdict
        == "deny"
    )


@pytest.mark.parametrize("quoted", ['a"b', "a\nb", 'x", "tenant": "globex', "\\", "Order::1", "\x00", "'"])
def test_ids_are_data_and_never_syntax(quoted: str) -> None:
    policy = CedarPolicy('@id("x") permit (principal, action, resource == Order::"1001");', SCHEMA)
    assert ask(policy, {}, resource=f"Order::{quoted}").verdict == "deny"
    asked = request(PolicyQuery(effect_query("save_draft").principal, quoted, {}, f"Order::{quoted}"), approved=False)
    assert asked["resource"] == {"type": "Order", "id": quoted}
    assert asked["action"] == {"type": "Action", "id": quoted}


def test_an_error_in_either_evaluation_is_a_no_also_where_the_other_permits() -> None:
    # Errs only while nobody has approved: without the rule, the call would be asked about.
    errs = "when { !context.approved && context.arguments has amount && context.arguments.amount + 1 > 5 }"
    policy = CedarPolicy(f"{PERMIT_ALL} forbid (principal, action, resource) {errs};", SCHEMA)
    assert ask(policy, {"amount": 1}).verdict == "allow"
    assert ask(policy, {"amount": 9}).verdict == "ask"
    assert ask(policy, {"amount": 2**63 - 1}).verdict == "deny"


def test_what_is_allowed_only_while_nobody_has_approved_it_is_a_contradiction_and_denied() -> None:
    policy = CedarPolicy("permit (principal, action, resource) when { !context.approved };", SCHEMA)
    assert ask(policy, {}).verdict == "deny"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.tool}, {case.what}")
def test_a_resource_says_nothing_of_itself_but_what_the_platform_read(case: Any) -> None:
    claimed = {"tenant": "globex", "handler": "me"}
    query = PolicyQuery(
        principal=effect_query("save_draft").principal.model_copy(update={"roles": PEOPLE["user"]}),
        tool=case.tool,
        arguments={**case.arguments, **claimed},
        resource="Order::1001",
        facts={"tenant": "globex"},
    )
    [_, resource] = entities(query)
    assert resource["attrs"] == {"tenant": "acme"}
