"""Every call passes the gate in one fixed order, and the first check that fails decides."""

from collections import Counter
from dataclasses import replace

import pytest
from pydantic import JsonValue, create_model

from agent.contracts import Effect, sha256_of
from agent.controls import Controls
from agent.errors import StoreUnavailable
from agent.events import ToolUse, Verdict
from agent.gate import MAX_ARGUMENT_BYTES, MAX_ARGUMENT_DEPTH, Gate
from agent.held_run import read_state
from agent.identity import Principal, Role
from agent.messages import request
from agent.release import DeclaredServer, DeclaredTool
from agent.testing.decided_run import DecidedRun
from agent.testing.limits import AMPLE, ample
from agent.testing.rooms import FixedPolicy
from agent.tool_servers import ServerPin
from tests.sample_agent import release, tools

ANN = Principal(tenant_id="acme", user_id="ann", roles=frozenset({Role.USER}))
TOOLS = tools(Counter())
COUNTED = tools(Counter(), allowances=("count.user_day",))


def gate(kind=Gate, **changes):
    fields = {
        "tools": TOOLS,
        "release": release(),
        "controls": Controls(),
        "policy": FixedPolicy(),
        "facts": lambda *, tool, resource: None,
        "hooks": (),
        "principal": ANN,
        "calls_before": 0,
        "seconds_left": 60.0,
        "limits": lambda: AMPLE,
        "tainted": False,
    }
    return kind(**{**fields, **changes})


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


PIN = ServerPin(server="parcels", url="https://parcels.example/mcp", tool="post", sha256="1" * 64)
POST = TOOLS["post"].contract.model_copy(update={"name": "parcels__post", "server": PIN})
BOTH = {**TOOLS, "parcels__post": replace(TOOLS["post"], contract=POST)}


def declaring(sha256):
    server = DeclaredServer(name="parcels", url=PIN.url, tools=(DeclaredTool(name="post", sha256=sha256),))
    return release().model_copy(update={"tools": ("look", "parcels__post"), "mcp": (server,)})


def test_a_servers_tool_runs_only_under_the_very_pin_of_the_release():
    unpinned = release().model_copy(update={"tools": ("look", "parcels__post")})
    assert code(use("parcels__post"), tools=BOTH, release=declaring("1" * 64)) == "allowed"
    assert code(use("parcels__post"), tools=BOTH, release=declaring("2" * 64), policy=Unasked()) == "tool_changed"
    assert code(use("parcels__post"), tools=BOTH, release=unpinned, policy=Unasked()) == "tool_changed"


def test_a_servers_tool_that_is_not_the_releases_is_not_offered_to_the_model_and_the_others_are():
    run = DecidedRun(TOOLS["look"])
    state = read_state(run.log, "acme", run.run_id)

    def offered(tools, of):
        return [spec.name for spec in request(state, of, of.model, tools).tools]

    assert offered(BOTH, declaring("1" * 64)) == ["look", "parcels__post"]
    assert offered(BOTH, declaring("2" * 64)) == ["look"]
    assert offered(TOOLS, declaring("1" * 64)) == ["look"]


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
    (decision,) = gate().decide([ToolUse(call_id="call_1_0", tool="look", arguments=None)])
    assert decision.code == "invalid_arguments"
    assert decision.message.startswith("arguments: Input should be an object.")


def test_arguments_as_deep_and_as_long_as_may_be_pass_and_no_more():
    anything = create_model("Anything", item=(JsonValue, ...))
    look = replace(TOOLS["look"], arguments=anything)
    longest = "x" * (MAX_ARGUMENT_BYTES - len('{"item":""}'))
    deepest: list[object] = []
    for _ in range(MAX_ARGUMENT_DEPTH - 2):
        deepest = [deepest]
    around = {"tools": {"look": look}}
    for most, more in ((longest, longest + "x"), (deepest, [deepest])):
        assert code(use(arguments={"item": most}), **around) == "allowed"
        assert code(use(arguments={"item": more}), **around) == "invalid_arguments"


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


def test_a_call_that_exceeds_an_allowance_by_itself_is_denied_after_the_policy_and_before_anyone_is_asked():
    few = replace(ample(COUNTED), allowances={"pay.count.user_day": 5})
    asking = FixedPolicy({"pay": "ask"})
    within, beyond = ({"item": "a", "count": count} for count in (5, 6))
    assert code(use("pay", within), tools=COUNTED, policy=asking, limits=lambda: few) == "approval_needed"
    assert code(use("pay", beyond), tools=COUNTED, policy=asking, limits=lambda: few) == "limit_reached"
    denying = FixedPolicy({"pay": "deny"})
    assert code(use("pay", beyond), tools=COUNTED, policy=denying, limits=lambda: few) == "policy_denied"


def test_limits_that_can_not_be_read_are_a_no_for_the_tools_they_are_for():
    def unreadable():
        raise StoreUnavailable("no answer")

    assert code(use("pay"), tools=COUNTED, limits=unreadable) == "limits_unavailable"
    assert code(use("pay"), limits=unreadable) == "allowed"


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


EFFECTS = {"save": Effect.WRITE, "pay": Effect.DESTRUCTIVE, "ship": Effect.EXTERNAL}
READS = ("look", "export")
REVIEW, READ_ONLY = Controls(force_review=True), Controls(read_only=True)


def verdict(tool, kind=Gate, **changes):
    (decision,) = gate(kind, **changes).decide([use(tool)])
    return decision.verdict


@pytest.mark.parametrize("tool", [*EFFECTS, *READS])
def test_below_a_policy_that_permits_everything_effects_need_a_person_where_text_from_outside_came_in(tool):
    expected = Verdict.ASK if tool in EFFECTS else Verdict.ALLOW
    assert verdict(tool, tainted=True) is expected
    assert verdict(tool, controls=REVIEW) is expected
    assert verdict(tool) is Verdict.ALLOW


@pytest.mark.parametrize("tool", [*EFFECTS, *READS])
def test_below_a_policy_that_permits_everything_there_is_no_effect_in_read_only(tool):
    expected = Verdict.DENY if tool in EFFECTS else Verdict.ALLOW
    assert verdict(tool, controls=READ_ONLY) is expected
    assert verdict(tool, controls=READ_ONLY, policy=FixedPolicy({tool: "ask"})) is (
        Verdict.DENY if tool in EFFECTS else Verdict.ASK
    )


class Floorless(Gate):
    def _least(self, effect):
        return Verdict.ALLOW


@pytest.mark.parametrize("tool", EFFECTS)
@pytest.mark.parametrize("how", [{"tainted": True}, {"controls": REVIEW}, {"controls": READ_ONLY}], ids=str)
def test_without_the_floor_a_permissive_policy_would_let_the_effect_happen(tool, how):
    assert verdict(tool, Floorless, **how) is Verdict.ALLOW


def test_no_hook_and_no_policy_loosens_the_floor():
    loosening = (lambda e: replace(e, verdict=Verdict.ALLOW),)
    assert code(use("save"), tainted=True, hooks=loosening) == "hook_failed"
    assert verdict("save", tainted=True, policy=FixedPolicy({"save": "deny"})) is Verdict.DENY


def test_a_decision_says_what_the_gate_saw():
    (decision,) = gate(tainted=True, controls=REVIEW).decide([use("save")])
    assert (decision.tainted, decision.modes) == (True, ("force_review",))
    (decision,) = gate(controls=READ_ONLY).decide([use("save")])
    assert (decision.code, decision.tainted, decision.modes) == ("read_only", False, ("read_only",))


def test_switches_that_cannot_be_read_are_a_no():
    assert code(use(), controls=None, policy=Unasked()) == "controls_unavailable"


def test_the_policy_is_told_what_the_gate_knows():
    asked = []

    class Remembering(FixedPolicy):
        def decide(self, query):
            asked.append((query.tainted, query.force_review, query.read_only))
            return super().decide(query)

    for how in ({}, {"tainted": True}, {"controls": REVIEW}, {"controls": READ_ONLY}):
        gate(policy=Remembering(), **how).decide([use("look")])
    assert asked == [(False, False, False), (True, False, False), (False, True, False), (False, False, True)]
