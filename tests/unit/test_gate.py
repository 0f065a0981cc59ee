"""Every call passes the gate in one fixed order, and the first check that fails decides."""

from collections import Counter
from dataclasses import replace

import pytest

from agent.events import ToolUse, Verdict
from agent.gate import MAX_ARGUMENT_BYTES, MAX_ARGUMENT_DEPTH, Gate
from agent.identity import Principal, Role
from agent.testing.rooms import FixedPolicy
from agent.tools import sha256_of
from tests.sample_agent import release, tools

ANN = Principal(tenant_id="acme", user_id="ann", roles=frozenset({Role.USER}))
TOOLS = tools(Counter())


def gate(**changes):
    fields = {
        "tools": TOOLS,
        "release": release(),
        "policy": FixedPolicy(),
        "hooks": (),
        "principal": ANN,
        "calls_before": 0,
        "seconds_left": 60.0,
    }
    return Gate(**{**fields, **changes})


def use(tool="look", arguments=None, index=0):
    return ToolUse(call_id=f"call_1_{index}", tool=tool, arguments={"item": "a"} if arguments is None else arguments)


def code(made, **changes):
    (decision,) = gate(**changes).decide([made])
    assert (decision.verdict is Verdict.ALLOW) == (decision.code == "allowed")
    assert decision.message or decision.verdict is not Verdict.DENY
    return decision.code


class Unasked:
    def decide(self, query):
        raise AssertionError("the policy was asked")


def test_an_allowed_call_is_frozen_with_its_defaults_and_bound_to_its_contract_and_policy():
    (decision,) = gate().decide([use("pay", {"item": "a"})])
    assert decision.verdict is Verdict.ALLOW
    assert decision.arguments == {"item": "a", "count": 1}
    assert decision.arguments_sha256 == sha256_of({"item": "a", "count": 1})
    assert decision.contract_sha256 == TOOLS["pay"].contract.sha256()
    assert (decision.policy_sha256, decision.policies, decision.queued) == ("fixed", ("fixed",), False)
    assert gate().decide([use("export")])[0].queued


def test_an_unknown_tool_comes_before_all_else():
    assert code(use("rm_rf", {}), policy=Unasked()) == "unknown_tool"


def test_a_tool_the_release_does_not_name_is_not_enabled():
    narrow = release().model_copy(update={"tools": ("look",)})
    assert code(use("pay", {"wrong": 1}), release=narrow, policy=Unasked()) == "not_in_release"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"item": 7},
        {"item": "a", "count": "1"},
        {"item": "a", "tenant_id": "globex"},
        {"item": "x" * MAX_ARGUMENT_BYTES},
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_the_policy_sees_them(arguments):
    assert code(use(arguments=arguments), policy=Unasked()) == "invalid_arguments"


def test_arguments_that_are_no_json_object_are_refused():
    assert code(ToolUse(call_id="call_1_0", tool="look", arguments=None)) == "invalid_arguments"


def test_nesting_is_bounded_without_recursion():
    deep: dict = {"item": "a"}
    for _ in range(MAX_ARGUMENT_DEPTH):
        deep = {"item": deep}
    made = use().model_copy(update={"arguments": deep})
    assert "deeper" in gate(policy=Unasked()).decide([made])[0].message


def test_a_call_the_policy_does_not_allow_is_denied():
    assert code(use("pay"), policy=FixedPolicy({"pay": "deny"}), calls_before=99) == "policy_denied"


def test_a_call_the_policy_asks_about_waits_for_a_person_with_its_arguments_frozen():
    (decision,) = gate(policy=FixedPolicy({"pay": "ask"})).decide([use("pay")])
    assert (decision.verdict, decision.code) == (Verdict.ASK, "approval_needed")
    assert decision.arguments == {"item": "a", "count": 1}
    assert decision.arguments_sha256 == sha256_of(decision.arguments)


def test_a_call_that_is_asked_about_passes_the_other_checks_first_and_counts():
    asking = FixedPolicy({"pay": "ask"})
    assert code(use("pay"), policy=asking, calls_before=99) == "max_tool_calls"
    assert code(use("pay"), policy=asking, seconds_left=0.5) == "no_time_left"
    decisions = gate(policy=asking, release=release(max_tool_calls=2)).decide([use("pay", index=i) for i in range(3)])
    assert [d.code for d in decisions] == ["approval_needed", "approval_needed", "max_tool_calls"]


def test_a_policy_that_breaks_is_a_no():
    assert code(use(), policy=Unasked()) == "policy_unavailable"


def test_a_resource_that_cannot_be_told_is_a_no():
    lost = replace(
        TOOLS["look"], contract=TOOLS["look"].contract.model_copy(update={"resource": "Item::{not_an_argument}"})
    )
    assert code(use(), tools={"look": lost}, policy=Unasked()) == "resource_unknown"


def test_more_calls_at_once_than_the_cap_are_denied_one_by_one():
    few = release(max_calls_per_turn=2)
    decisions = gate(release=few).decide([use(index=i) for i in range(4)])
    assert [d.code for d in decisions] == ["allowed", "allowed", "too_many_calls", "too_many_calls"]


def test_denied_calls_do_not_use_up_the_runs_calls():
    few = release(max_tool_calls=3)
    made = [use("nope"), use(index=1), use(index=2), use(index=3)]
    decisions = gate(release=few, calls_before=1).decide(made)
    assert [d.code for d in decisions] == ["unknown_tool", "allowed", "allowed", "max_tool_calls"]


def test_no_call_begins_when_the_time_is_up():
    assert code(use(), seconds_left=0.5) == "no_time_left"


def test_a_hook_may_deny_and_say_why():
    (decision,) = gate(hooks=(lambda e: replace(e, verdict=Verdict.DENY, message="Not on Sundays."),)).decide([use()])
    assert (decision.code, decision.message) == ("hook_denied", "Not on Sundays.")


def test_a_hook_may_ask_for_approval():
    assert code(use(), hooks=(lambda e: replace(e, verdict=Verdict.ASK),)) == "approval_needed"


def test_a_hook_cannot_allow_what_the_policy_asks_about():
    loosening = (lambda e: replace(e, verdict=Verdict.ALLOW),)
    assert code(use("pay"), policy=FixedPolicy({"pay": "ask"}), hooks=loosening) == "hook_failed"


@pytest.mark.parametrize(
    "hook",
    [
        lambda e: replace(e, arguments_json='{"item":"b"}'),
        lambda e: replace(e, principal=ANN.model_copy(update={"tenant_id": "globex"})),
        lambda e: None,
        lambda e: 1 / 0,
    ],
)
def test_a_hook_that_breaks_or_meddles_is_a_no(hook):
    assert code(use(), hooks=(hook,)) == "hook_failed"


def test_a_later_hook_cannot_allow_what_an_earlier_one_denied():
    hooks = (lambda e: replace(e, verdict=Verdict.DENY), lambda e: replace(e, verdict=Verdict.ALLOW))
    assert code(use(), hooks=hooks) == "hook_failed"


def test_hooks_are_not_asked_about_calls_that_are_denied_already():
    seen = []
    assert code(use("nope"), hooks=(seen.append,)) == "unknown_tool"
    assert seen == []
