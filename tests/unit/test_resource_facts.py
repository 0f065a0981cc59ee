"""Policy decides on what the platform has read of a resource, never on what an argument says of it."""

import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from agent.approving import pending
from agent.contracts import Effect, sha256_of
from agent.endings import Status
from agent.errors import FactsUnavailable, StoreUnavailable
from agent.events import ApprovalDecided, ToolUse, Verdict
from agent.fact_finding import FactsQuery, find_facts
from agent.gate import Gate
from agent.ports.policy import PolicyDecision, PolicyQuery
from agent.resource_facts import MAX_FACTS_BYTES
from agent.testing.cloud import MemoryCloud
from agent.testing.decided_run import RUN, DecidedRun
from agent.testing.model import ScriptedModel, asks, says
from agent.testing.tenant_data import MemoryTenantData
from agent.tools import Arguments, Facts, TenantData, ToolContext, by_name, facts, tool
from tests.sample_agent import PRICES, QUESTION, release
from tests.unit.test_gate import gate


class BoxFacts(Facts):
    owner: str
    size: int


@facts(BoxFacts)
def box_facts(data: TenantData, box_id: str) -> BoxFacts | None:
    box = data.get("box", box_id)
    return None if box is None else BoxFacts(owner=box["owner"], size=box["size"])


class Open(Arguments):
    box: str
    owner: str = ""


class Opened(BaseModel):
    opened: bool = True


opened_boxes: Counter[str] = Counter()


@tool(
    effect=Effect.WRITE,
    mode="idempotent",
    resource="Box::{box}",
    facts=box_facts,
    data_actions=("dynamodb:GetItem", "dynamodb:PutItem"),
    writes_files=True,
    trusted=True,
)
def unpack(args: Open, context: ToolContext) -> Opened:
    """Open a box; whoever owns it may, and others ask."""
    opened_boxes[context.idempotency_key] += 1
    return Opened()


class OwnersMay:
    """`ports.Policy`: who owns a box may open it, others ask, and nobody opens a huge one."""

    def __init__(self) -> None:
        self.queries: list[PolicyQuery] = []

    def decide(self, query: PolicyQuery) -> PolicyDecision:
        self.queries.append(query)
        own = query.facts["owner"] == query.principal.user_id
        verdict = "deny" if query.facts["size"] > 9 else "allow" if own else "ask"
        return PolicyDecision(verdict=verdict, policies=("owners",), policy_sha256="owners")


def use(box="b1", index=0, **arguments):
    return ToolUse(call_id=f"call_1_{index}", tool="unpack", arguments={"box": box, **arguments})


class Asked:
    """What a gate asks, answered from a dict; an exception is raised."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def __call__(self, *, tool, resource):
        self.asked.append((tool, resource))
        answer = self.answers[resource]
        if isinstance(answer, Exception):
            raise answer
        return answer


def decide(*uses, kind=Gate, answers=None, **changes):
    asked = Asked(answers or {"Box::b1": {"owner": "ann", "size": 1}})
    fields = {"tools": by_name([unpack]), "policy": OwnersMay(), "facts": asked}
    enabled = release(**changes.pop("caps", {})).model_copy(update={"tools": ("unpack",)})
    return gate(kind, **{**fields, "release": enabled, **changes}).decide(uses or [use()]), asked


# --- the gate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("owner", "size", "verdict"), [("ann", 1, "allow"), ("bob", 1, "ask"), ("ann", 10, "deny")])
def test_the_verdict_rests_on_what_was_read_and_the_decision_keeps_it(owner, size, verdict):
    found = {"owner": owner, "size": size}
    [decision], asked = decide(use(owner="ann"), answers={"Box::b1": found})
    assert decision.verdict == verdict
    assert (decision.resource, decision.facts, decision.facts_sha256) == ("Box::b1", found, sha256_of(found))
    assert asked.asked == [("unpack", "Box::b1")]


class Believing(Gate):
    """A gate that takes an argument's word for the resource."""

    def _ruled(self, tool, draft):
        return super()._ruled(tool, draft.model_copy(update={"facts": {**draft.facts, **draft.arguments}}))


def test_a_gate_that_believed_arguments_would_be_talked_into_it():
    owned_by_bob = {"Box::b1": {"owner": "bob", "size": 1}}
    assert decide(use(owner="ann"), answers=owned_by_bob, kind=Believing)[0][0].verdict is Verdict.ALLOW
    assert decide(use(owner="ann"), answers=owned_by_bob)[0][0].verdict is Verdict.ASK


@pytest.mark.parametrize(
    "answer",
    [
        FactsUnavailable("down"),
        StoreUnavailable("down"),
        RuntimeError("broken"),
        {},
        {"owner": "ann"},
        {"owner": "ann", "size": "1"},
        {"owner": "ann", "size": 1.5},
        {"owner": "ann", "size": 1, "role": "owner"},
        {"owner": "x" * MAX_FACTS_BYTES, "size": 1},
        {"owner": None, "size": 1},
    ],
    ids=repr,
)
def test_what_cannot_be_read_or_is_not_what_was_declared_is_a_no(answer):
    policy = OwnersMay()
    [decision], _ = decide(answers={"Box::b1": answer}, policy=policy)
    assert (decision.verdict, decision.code) == (Verdict.DENY, "facts_unavailable")
    assert decision.facts == {}
    assert policy.queries == []


def test_a_resource_that_is_not_there_is_a_no_the_model_can_correct():
    [decision], _ = decide(answers={"Box::b1": None})
    assert (decision.verdict, decision.code) == (Verdict.DENY, "resource_missing")
    assert "Box b1" in decision.message


def test_each_resource_of_a_turn_is_asked_about_once_and_none_after_a_failure():
    answers = {f"Box::b{n}": {"owner": "ann", "size": n} for n in range(5)} | {"Box::b2": FactsUnavailable("down")}
    uses = [use(f"b{n}", index) for index, n in enumerate((0, 1, 0, 2, 3, 1, 2))]
    decisions, asked = decide(*uses, answers=answers)
    assert [resource for _, resource in asked.asked] == ["Box::b0", "Box::b1", "Box::b2"]
    codes = [decision.code for decision in decisions]
    assert codes == ["allowed"] * 3 + ["facts_unavailable"] * 2 + ["allowed", "facts_unavailable"]


def test_nothing_is_read_for_a_call_that_cannot_pass_anyway():
    decisions, asked = decide(*(use(f"b{n}", n) for n in range(40)), caps={"max_calls_per_turn": 1})
    assert [decision.code for decision in decisions[1:]] == ["too_many_calls"] * 39
    assert len(asked.asked) == 1
    assert decide(seconds_left=0.5)[1].asked == []
    assert decide(calls_before=20)[1].asked == []


# --- the tools' room --------------------------------------------------------------------------------------------------


def query(**changes: Any) -> FactsQuery:
    return FactsQuery(**{"tenant_id": "acme", "run_id": RUN, "tool": "unpack", "resource": "Box::b1", **changes})


def room_with_boxes() -> DecidedRun:
    run = DecidedRun(unpack)
    MemoryTenantData(run.table, "acme").put("box", "b1", {"owner": "ann", "size": 1})
    MemoryTenantData(run.table, "globex").put("box", "b2", {"owner": "ann", "size": 1})
    return run


def test_the_room_reads_the_tenants_resource_and_tells_only_what_is_declared():
    run = room_with_boxes()
    MemoryTenantData(run.table, "acme").put("box", "b1", {"owner": "ann", "size": 1, "secret": "hush"})
    assert find_facts(run.room, query()) == BoxFacts(owner="ann", size=1)


@pytest.mark.parametrize("resource", ["Box::b2", "Box::b3"], ids=["another tenant's", "nobody's"])
def test_another_tenants_resource_and_a_missing_one_are_the_same(resource):
    assert find_facts(room_with_boxes().room, query(resource=resource)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": "run_01JABCDEFGHJKMNPQRSTVWXYZ9"},
        {"tenant_id": "globex", "resource": "Box::b2"},
        {"tool": "unheard_of"},
        {"resource": "Order::b1"},
        {"resource": "b1"},
        {"resource": "Box::"},
        {"resource": "Box::../b1"},
    ],
    ids=str,
)
def test_the_room_answers_only_for_a_run_of_that_tenant_and_a_resource_of_the_tools_kind(changes):
    with pytest.raises(FactsUnavailable):
        find_facts(room_with_boxes().room, query(**changes))


def test_the_room_answers_nobody_for_a_run_that_is_over():
    cloud, run = cloud_with_boxes(asks(("unpack", {"box": "b1"})))
    cloud.run_until_idle()
    with pytest.raises(FactsUnavailable, match="under way"):
        cloud.facts.of("acme", run, tool="unpack", resource="Box::b1")


def test_facts_are_read_with_no_right_to_write():
    reading = unpack.contract.reading()
    assert reading.data_actions == ("dynamodb:GetItem",)
    assert not reading.writes_files

    @facts(BoxFacts)
    def greedy(data: TenantData, box_id: str) -> BoxFacts | None:
        data.put("box", box_id, {"owner": "eve", "size": 1})
        return None

    run = room_with_boxes()
    run.room = replace(run.room, tools=by_name([replace(unpack, facts=greedy)]))
    with pytest.raises(FactsUnavailable):
        find_facts(run.room, query())
    assert json.loads(run.table.items["acme", "box", "b1"])["owner"] == "ann"


def test_what_policies_are_told_is_part_of_the_contract():
    without = replace(unpack, contract=unpack.contract.model_copy(update={"facts": None})).contract
    assert unpack.contract.facts == BoxFacts.model_json_schema()
    assert without.sha256() != unpack.contract.sha256()


# --- a whole run ------------------------------------------------------------------------------------------------------


def cloud_with_boxes(*turns, owner="bob", **around):
    enabled = release().model_copy(update={"tools": ("unpack",)})
    around.setdefault("policy", OwnersMay())
    cloud = MemoryCloud(enabled, by_name([unpack]), ScriptedModel(*turns, says("Done.")), prices=PRICES, **around)
    put_box(cloud, owner=owner)
    opened_boxes.clear()
    run = cloud.ask(QUESTION)
    return cloud, run


def put_box(cloud, owner="bob", size=1):
    MemoryTenantData(cloud.data, "acme").put("box", "b1", {"owner": owner, "size": size})


OPEN = asks(("unpack", {"box": "b1"}))


def test_an_own_box_is_opened_and_a_colleagues_waits_for_a_person():
    cloud, run = cloud_with_boxes(OPEN, owner="ann")
    cloud.run_until_idle()
    assert opened_boxes == {f"{run}/call_1_0": 1}
    cloud, run = cloud_with_boxes(OPEN)
    cloud.deliver()
    assert cloud.state(run).header.status is Status.WAITING
    cloud.decide(cloud.state(run).header.approvals[0].approval_id)
    cloud.run_until_idle()
    assert opened_boxes == {f"{run}/call_1_0": 1}


def test_a_resource_that_changed_meanwhile_is_judged_again_when_the_approved_call_starts():
    cloud, run = cloud_with_boxes(OPEN)
    cloud.deliver()
    put_box(cloud, size=10)
    cloud.decide(cloud.state(run).header.approvals[0].approval_id)
    cloud.run_until_idle()
    [result] = cloud.state(run).turns[0].results.values()
    assert json.loads(result.content)["error"] == "approval_void"
    assert opened_boxes == {}


def test_an_approved_call_waits_while_nobody_can_look_at_what_it_acts_on():
    cloud, run = cloud_with_boxes(OPEN)
    cloud.deliver()
    cloud.facts.is_down = True
    cloud.decide(cloud.state(run).header.approvals[0].approval_id)
    cloud.deliver()
    assert opened_boxes == {}
    assert any(isinstance(event.data, ApprovalDecided) for event in cloud.events(run))
    assert cloud.state(run).header.status is Status.WAITING
    cloud.facts.is_down = False
    cloud.clock.advance(timedelta(seconds=31).total_seconds())
    cloud.sweep()
    cloud.run_until_idle()
    assert opened_boxes == {f"{run}/call_1_0": 1}


def test_approvers_see_what_the_platform_read_of_the_resource():
    cloud, run = cloud_with_boxes(OPEN)
    cloud.deliver()
    [shown], _ = pending(cloud.room1(), cloud.approver(), limit=10, after=None)
    assert (shown.resource, shown.facts) == ("Box::b1", {"owner": "bob", "size": 1})
    assert run
