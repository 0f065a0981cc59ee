"""Who may do what at the support desk: the reviewed matrix, and an oracle of its own that Cedar has to agree with."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.contracts import Effect
from agent.errors import ConfigurationInvalid
from agent.events import Decision, Verdict
from agent.identity import Principal, Role
from agent.policy import CedarPolicy
from agent.ports.policy import PolicyQuery
from support_desk import policy_matrix
from support_desk.policy_matrix import CASES, COLLEAGUE, ME, PEOPLE, STATES, decided, main, matrix
from support_desk.tools import TOOLS

FOLDER = Path("support_desk/policies")
POLICIES, SCHEMA = (FOLDER / "support_desk.cedar").read_text(), (FOLDER / "schema.cedarschema").read_text()
EFFECTS = [name for name, tool in TOOLS.items() if tool.contract.effect is not Effect.READ]
STRICTNESS = {"allow": 0, "ask": 1, "deny": 2}


@pytest.fixture(scope="module")
def desk() -> CedarPolicy:
    return CedarPolicy.load(FOLDER)


# --- the reviewed copy ------------------------------------------------------------------------------------------------


def test_the_reviewed_matrix_is_what_the_policies_decide() -> None:
    assert policy_matrix.PATH.read_text(encoding="utf-8") == matrix(), "after a review: make policy ARGS=write"


def test_each_tool_stands_in_it_and_each_declared_fact_is_told() -> None:
    assert {case.tool for case in CASES} == set(TOOLS)
    for case in CASES:
        declared = set((TOOLS[case.tool].contract.facts or {"properties": {}})["properties"])
        assert case.facts is None or set(case.facts) == declared


def test_a_policy_that_is_loosened_shows_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loose = CedarPolicy(POLICIES.replace('containsAny(["user", "approver"])', 'containsAny(["operator"])'), SCHEMA)
    monkeypatch.setattr(policy_matrix, "_policy", lambda: loose)
    assert policy_matrix.PATH.read_text(encoding="utf-8") != matrix()


def test_no_state_makes_any_decision_milder_than_the_usual_one() -> None:
    for case in CASES:
        for roles in PEOPLE.values():
            usual, *stricter = (STRICTNESS[decided(case, roles, state).verdict] for state in STATES)
            assert all(verdict >= usual for verdict in stricter)


# --- an oracle --------------------------------------------------------------------------------------------------------


ALWAYS_ASKED = {"issue_refund"}


def oracle(query: PolicyQuery) -> str:
    """Say what the support desk means, in another language than Cedar."""
    roles, effect = query.principal.roles, TOOLS[query.tool].contract.effect is not Effect.READ
    if effect and query.read_only:
        return "deny"
    reads = query.tool in {"search_policy", "lookup_order", "list_orders"}
    if not roles & ({Role.USER, Role.APPROVER, Role.OPERATOR} if reads else {Role.USER, Role.APPROVER}):
        return "deny"
    if query.tool == "issue_refund":
        amount, facts = query.arguments["amount_cents"], query.facts
        fits = {"total_cents", "refunded_cents"} <= facts.keys() and amount <= 50_000
        return "ask" if fits and facts["refunded_cents"] + amount <= facts["total_cents"] else "deny"
    if query.tool in ALWAYS_ASKED:
        return "ask"
    if query.tool == "save_draft" and "handler" not in query.facts:
        return "deny"
    colleagues = query.tool == "save_draft" and query.facts["handler"] not in {"", query.principal.user_id}
    return "ask" if effect and (query.tainted or query.force_review or colleagues) else "allow"


cents = st.one_of(st.integers(0, 200_000), st.sampled_from([0, 1, 49_999, 50_000, 50_001, 100_000, 2**62, 2**63 - 1]))


@st.composite
def queries(draw: Any) -> PolicyQuery:
    case = draw(st.sampled_from(CASES))
    arguments = TOOLS[case.tool].arguments.model_validate(case.arguments).model_dump()
    facts: dict[str, Any] = {}
    if TOOLS[case.tool].facts:
        facts = {"handler": draw(st.sampled_from([ME, COLLEAGUE, "", "m", "ME", " me", '" || true', "me\x00"]))}
    if case.tool == "issue_refund":
        arguments["amount_cents"] = draw(cents)
        facts |= {"total_cents": draw(cents), "refunded_cents": draw(cents)}
    missing = draw(st.sets(st.sampled_from(sorted(facts)), max_size=1)) if facts and draw(st.booleans()) else set()
    return PolicyQuery(
        principal=Principal(tenant_id="acme", user_id=ME, roles=draw(st.frozensets(st.sampled_from(list(Role))))),
        tool=case.tool,
        arguments=arguments,
        resource=TOOLS[case.tool].contract.resource.replace("{order_id}", "1001"),
        tainted=draw(st.booleans()),
        force_review=draw(st.booleans()),
        read_only=draw(st.booleans()),
        facts={name: value for name, value in facts.items() if name not in missing},
    )


@settings(max_examples=500, deadline=None)
@given(query=queries())
def test_cedar_decides_as_the_oracle_says_for_any_roles_amounts_facts_and_states(
    desk: CedarPolicy, query: PolicyQuery
) -> None:
    expected = oracle(query)
    overflows = query.tool == "issue_refund" and (
        query.facts.get("refunded_cents", 0) + query.arguments["amount_cents"] >= 2**63
    )
    assert desk.decide(query).verdict == ("deny" if overflows else expected)


def loosened(*policy_ids: str) -> CedarPolicy:
    """Return the desk's policies without some of them."""
    kept = [part for part in POLICIES.split("@id(") if not part.startswith(tuple(f'"{p}"' for p in policy_ids))]
    assert len(kept) == len(POLICIES.split("@id(")) - len(policy_ids)
    return CedarPolicy("@id(".join(kept), SCHEMA)


GUARDS = {
    "a-person-reviews-what-came-of-outside-text": {"tainted": True},
    "a-person-reviews-effects": {"force_review": True},
    "nothing-while-read-only": {"read_only": True},
}


def effect_query(tool: str, **state: bool) -> PolicyQuery:
    case = next(case for case in CASES if case.tool == tool)
    arguments = TOOLS[tool].arguments.model_validate(case.arguments)
    roles = frozenset({Role.USER})
    return PolicyQuery(
        principal=Principal(tenant_id="acme", user_id=ME, roles=roles),
        tool=tool,
        arguments=arguments.model_dump(),
        resource=TOOLS[tool].resource_of(arguments),
        facts=case.facts or {},
        **state,
    )


@pytest.mark.parametrize("tool", EFFECTS)
@pytest.mark.parametrize("guard", GUARDS)
def test_the_policies_alone_keep_effects_back_whatever_else_is_permitted_and_no_floor_is_needed(
    guard: str, tool: str
) -> None:
    permit_all = '@id("careless") permit (principal, action, resource);'
    query = effect_query(tool, **GUARDS[guard])
    expected = "deny" if query.read_only else "ask"
    assert CedarPolicy(POLICIES + permit_all, SCHEMA).decide(query).verdict == expected
    kept = loosened(guard).texts[0] + permit_all
    assert CedarPolicy(kept, SCHEMA).decide(query).verdict == "allow", "it is this policy that keeps it back"


@pytest.mark.parametrize("tool", TOOLS)
def test_exactly_the_tools_with_an_effect_stand_below_the_action_effects(tool: str) -> None:
    only_effects = CedarPolicy('permit (principal, action in Action::"effects", resource);', SCHEMA)
    expected = "allow" if tool in EFFECTS else "deny"
    assert only_effects.decide(effect_query(tool)).verdict == expected


@pytest.mark.parametrize("guard", GUARDS)
def test_a_policy_file_without_a_guard_meets_the_gates_floor(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_matrix, "_policy", lambda: loosened(guard))
    [state] = [state for state in STATES if GUARDS[guard].items() <= vars(state).items()]
    own_draft = next(case for case in CASES if case.tool == "save_draft")
    verdict = decided(own_draft, PEOPLE["user"], state).verdict
    assert verdict is (Verdict.DENY if state.read_only else Verdict.ASK)


# --- why --------------------------------------------------------------------------------------------------------------

REFUND = "explain --role user --tool issue_refund --arg order_id=1001 --arg reason=late"
ORDER = "--fact handler=me --fact total_cents=500 --fact refunded_cents=0"


def explain(words: str) -> str:
    return main(words.split())


def test_an_explanation_names_the_condition_that_did_not_hold() -> None:
    told = explain(f"{REFUND} --arg amount_cents=600 {ORDER}")
    assert told.startswith("issue_refund on Order::1001: deny (policy_denied)\n")
    unapproved, approved = told.split("once approved: not permitted")
    assert "does not hold  context.approved" in unapproved
    assert "holds          context.arguments.amount_cents <= 50000" in approved
    assert (
        "does not hold  (resource.refunded_cents + context.arguments.amount_cents) <= resource.total_cents" in approved
    )
    assert '"total_cents": 500' in told


def test_an_explanation_says_which_policies_permit_once_approved() -> None:
    told = explain(f"{REFUND} --arg amount_cents=500 {ORDER} --tainted")
    assert told.startswith("issue_refund on Order::1001: ask (approval_needed)\n")
    unapproved, approved = told.split("once approved: permitted")
    assert "forbid a-person-reviews-what-came-of-outside-text: holds" in unapproved
    assert "permit refund-once-approved: holds" in approved
    assert "tainted true" in told


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("explain --tool lookup_order --arg order_id=1001", "lookup_order on Order::1001: deny (policy_denied)"),
        (
            "explain --role user --tool lookup_order --arg order_id=x",
            "lookup_order on nothing: deny (invalid_arguments)",
        ),
        (f"{REFUND} --arg amount_cents=1 --missing", "issue_refund on Order::1001: deny (resource_missing)"),
        (f"{REFUND} --arg amount_cents=1", "issue_refund on Order::1001: deny (facts_unavailable)"),
        (f"{REFUND} --arg amount_cents=1 {ORDER} --read-only", "issue_refund on nothing: deny (read_only)"),
    ],
)
def test_what_the_gate_refused_before_the_policy_is_named_too(words: str, first: str) -> None:
    assert explain(words).startswith(first + "\n")


def test_an_error_of_an_evaluation_is_told() -> None:
    huge = f"--fact handler= --fact total_cents=1 --fact refunded_cents={2**63 - 1}"
    told = explain(f"{REFUND} --arg amount_cents=1 {huge}")
    assert "error:" in told
    assert "errs           (resource.refunded_cents + context.arguments.amount_cents) <= resource.total_cents" in told


def test_the_decisions_of_a_recorded_event_are_explained(tmp_path: Path) -> None:
    refund = next(case for case in CASES if case.tool == "issue_refund")
    decisions = [decided(refund, PEOPLE["user"], state) for state in STATES]
    event = {"tenant_id": "acme", "data": {"decisions": [decision.model_dump(mode="json") for decision in decisions]}}
    file = tmp_path / "event.json"
    file.write_text(json.dumps(event))
    told = main(["explain", "--event", str(file), "--role", "user"])
    assert told.count("issue_refund on") == len(STATES)
    assert "changed since" not in told
    older = [
        Decision.model_validate(d).model_copy(update={"policy_sha256": "0" * 64}) for d in event["data"]["decisions"]
    ]
    file.write_text(json.dumps({"decisions": [decision.model_dump(mode="json") for decision in older]}))
    assert "changed since" in main(["explain", "--event", str(file), "--role", "user"])


def test_without_a_command_it_prints_the_matrix_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = policy_matrix.PATH.stat().st_mtime_ns
    assert main([]) == matrix()
    assert policy_matrix.PATH.stat().st_mtime_ns == before
    with pytest.raises(SystemExit):
        main(["explain"])
    assert "needs --tool" in capsys.readouterr().err


def test_a_pair_that_is_none_is_named() -> None:
    with pytest.raises(ConfigurationInvalid, match="'order_id' is no NAME=VALUE"):
        explain("explain --role user --tool lookup_order --arg order_id")


@pytest.mark.parametrize(
    "text", [None, "", "no JSON", "[]", "{}", '{"data": 1}', '{"decisions": [{}]}', '{"decisions": 1}']
)
def test_a_file_that_is_no_recorded_event_is_named(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "event.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigurationInvalid, match=r"event\.json holds no model\.completed event"):
        main(["explain", "--event", str(file)])
