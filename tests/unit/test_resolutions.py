"""A call whose end nobody saw, and whose contract asks a person: it waits for them, never runs again, and is told."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from agent import messages
from agent.endings import Status
from agent.errors import (
    AlreadyDecided,
    ApprovalExpired,
    CallNotDecided,
    InputInvalid,
    NotFound,
    OwnRun,
    RunOver,
    ToolLost,
    ToolUnreached,
)
from agent.events import ToolCompleted, ToolOutcomeUnknown, ToolStarted, WaitingFor
from agent.execution import ToolJob
from agent.identity import Role
from agent.testing.model import asks, says
from agent.testing.rooms import FixedPolicy
from tests.demands import require_settled, require_sound, results_of
from tests.sample_agent import QUESTION, SampleCloud, tools

WIRE, POST = ("wire", {"item": "a"}), ("post", {"item": "a"})
Acts = Callable[[], None]


def losing(cloud: SampleCloud, *names: str, acts: bool = True) -> None:
    """Let the first run of each of these tools get lost, after it acted or before."""
    run_tool, lost = cloud.tool_runner.run, set()

    def lose(tenant_id: str, run_id: str, call_id: str, **options: Any) -> Any:
        name = next(d.tool for d in cloud.state(run_id).turn.completed.decisions if d.call_id == call_id)
        if name not in names or name in lost:
            return run_tool(tenant_id, run_id, call_id, **options)
        lost.add(name)
        if acts:
            run_tool(tenant_id, run_id, call_id, **options)
        raise ToolLost("died")

    cloud.tool_runner.run = lose


def parked(*calls: tuple[str, dict[str, Any]], acts: bool = True, **around: Any) -> tuple[SampleCloud, str]:
    """Return a cloud in which a call got lost, and the run that waits for somebody to look into it."""
    calls = calls or (WIRE,)
    cloud = SampleCloud(asks(*calls), says("Done."), **around)
    losing(cloud, "wire", "post", acts=acts)
    run = cloud.ask(QUESTION)
    cloud.deliver()
    assert cloud.state(run).header.status is Status.WAITING
    return cloud, run


def asked(cloud: SampleCloud, run: str) -> str:
    [approval] = cloud.state(run).header.approvals
    assert approval.kind == "resolution"
    return approval.approval_id


def result(cloud: SampleCloud, run: str, call_id: str = "call_1_0") -> Any:
    [only] = [each for each in results_of(cloud.events(run)) if each.call_id == call_id]
    return only


def told(cloud: SampleCloud, run: str, index: int = 0) -> tuple[str, str]:
    """Return what the model was told of a call: the status and the text."""
    conversation = messages.conversation(cloud.state(run), "m")
    shown = conversation[-1]["content"][index]["toolResult"]
    return shown["status"], shown["content"][0]["text"]


@pytest.mark.parametrize("call", [WIRE, POST])
def test_a_call_whose_outcome_is_unknown_parks_the_run_before_an_approver(call):
    cloud, run = parked(call)
    state = cloud.state(run)
    header = state.header
    assert asked(cloud, run) == f"res_{run.removeprefix('run_')}_1_0"
    assert (header.waiting_for, header.owner) == ((WaitingFor.APPROVAL,), None)
    assert header.due_at == header.approvals[0].expires_at
    assert header.jobs == {}
    assert not state.turn.is_settled
    assert cloud.types(run)[-3:] == ["tool.outcome_unknown", "approval.requested", "run.waiting"] or call == POST


@pytest.mark.parametrize("call", [WIRE, POST])
@pytest.mark.parametrize(("finding", "status"), [("happened", "success"), ("did_not_happen", "error")])
def test_the_model_is_told_what_the_person_found_and_nothing_runs_again(call, finding, status):
    cloud, run = parked(call, acts=finding == "happened")
    cloud.decide(asked(cloud, run), finding, reason="I looked at the bank's statement.")
    cloud.run_until_idle()
    assert told(cloud, run)[0] == status
    for part in ("a person has checked", "the bank's statement", finding):
        assert part in told(cloud, run)[1]
    assert "bea" not in told(cloud, run)[1]
    assert cloud.state(run).ended.answer == "Done."
    assert cloud.types(run).count("tool.started") == 1
    assert sum(cloud.effects.values()) == (finding == "happened")
    assert not result(cloud, run).did_not_run  # a person says so, not the platform: what it took of a limit stays taken
    require_settled(require_sound(cloud.log.header("acme", run), cloud.events(run)), cloud.events(run))


@pytest.mark.parametrize("call", [WIRE, POST])
def test_where_nobody_looks_in_time_the_model_is_told_that_nobody_knows(call):
    cloud, run = parked(call)
    cloud.run_until_idle()
    only = result(cloud, run)
    assert isinstance(only, ToolOutcomeUnknown)
    assert only.cause == "unresolved"
    assert "outcome_unknown" in told(cloud, run)[1]
    assert cloud.state(run).header.status is Status.COMPLETED
    assert cloud.state(run).header.approvals == ()


def test_a_contract_that_says_nothing_has_the_model_told_at_once():
    cloud = SampleCloud(asks(("pay", {"item": "a"})), says("Unclear."))
    losing(cloud, "pay")
    run = cloud.ask(QUESTION)
    cloud.deliver()
    assert cloud.state(run).ended.answer == "Unclear."
    assert "approval.requested" not in cloud.types(run)


def test_what_was_found_counts_however_late_it_is_acted_on():
    cloud, run = parked(caps={"max_approval_wait_s": 600})
    expires_at = cloud.state(run).header.approvals[0].expires_at
    cloud.decide(asked(cloud, run), "happened", reason="seen")
    cloud.wake.runs.clear()
    cloud.clock.advance((expires_at - cloud.clock.now()).total_seconds() + 1)
    cloud.run_until_idle()
    assert "happened" in told(cloud, run)[1]


def test_a_resolution_ends_early_enough_for_the_model_to_tell_the_user():
    cloud, run = parked(caps={"max_duration_s": 600})
    header = cloud.state(run).header
    assert header.deadline_at - header.approvals[0].expires_at == timedelta(seconds=60)


def test_where_there_is_no_time_left_to_ask_the_model_is_told_at_once():
    cloud = SampleCloud(asks(WIRE), says("Unclear."), caps={"max_duration_s": 50})
    losing(cloud, "wire")
    run = cloud.ask(QUESTION)
    cloud.deliver()
    assert cloud.state(run).ended.answer == "Unclear."
    assert "approval.requested" not in cloud.types(run)


def test_a_call_that_was_approved_and_got_lost_is_asked_about_under_another_id():
    cloud = SampleCloud(asks(WIRE), says("Done."), policy=FixedPolicy({"wire": "ask"}))
    losing(cloud, "wire")
    run = cloud.ask(QUESTION)
    cloud.deliver()
    [approval] = cloud.state(run).header.approvals
    cloud.decide(approval.approval_id)
    cloud.deliver()
    resolution = asked(cloud, run)
    assert resolution != approval.approval_id
    with pytest.raises(AlreadyDecided):
        cloud.decide(approval.approval_id, "reject")
    cloud.decide(resolution, "happened", reason="seen")
    cloud.run_until_idle()
    assert cloud.effects == {f"wire {run}/call_1_0": 1}
    assert "happened" in told(cloud, run)[1]


def test_a_mixed_turn_gives_one_result_each_in_call_order_whoever_is_waited_for():
    calls = [(name, {"item": name}) for name in ("look", "wire", "post", "pay", "unheard_of", "export", "save")]
    cloud, run = parked(*calls, policy=FixedPolicy({"pay": "ask"}))
    pending = {each.call_id: each.kind for each in cloud.state(run).header.approvals}
    assert pending == {"call_1_1": "resolution", "call_1_2": "resolution", "call_1_3": "approval"}
    for each in cloud.state(run).header.approvals:
        decision = {"call_1_1": "happened", "call_1_2": "did_not_happen", "call_1_3": "approve"}[each.call_id]
        cloud.decide(each.approval_id, decision, reason="seen")
        cloud.deliver()
    state = require_sound(cloud.log.header("acme", run), cloud.events(run))
    assert state.ended.answer == "Done."
    last = messages.conversation(state, "m")[-1]["content"]
    assert [block["toolResult"]["toolUseId"] for block in last] == [f"call_1_{index}" for index in range(7)]
    assert [block["toolResult"]["status"][0] for block in last] == ["s", "s", "e", "s", "e", "s", "s"]
    assert sum(cloud.effects.values()) == 6


def test_waking_a_run_that_waits_for_somebody_to_look_writes_nothing():
    cloud, run = parked()
    before = cloud.types(run)
    for _ in range(5):
        assert cloud.invoke("acme", run) is None
    assert cloud.types(run) == before


def test_a_run_that_waits_for_a_day_costs_no_invocation():
    cloud, run = parked(caps={"max_duration_s": 90_000, "max_approval_wait_s": 88_000})
    before = cloud.invocations
    for _ in range(24 * 60):
        cloud.clock.advance(60)
        cloud.sweep()
        cloud.deliver()
    assert cloud.invocations == before
    cloud.decide(asked(cloud, run), "happened", reason="seen")
    cloud.deliver()
    assert cloud.state(run).ended.answer == "Done."


def test_a_question_the_queues_worker_raised_whose_wake_was_lost_is_found_by_the_sweep():
    cloud = SampleCloud(asks(POST), says("Done."))
    losing(cloud, "post")
    run = cloud.ask(QUESTION)
    cloud.invoke(*cloud.wake.runs.popleft())
    cloud.work(cloud.queue.jobs.popleft())
    assert cloud.types(run)[-1] == "tool.outcome_unknown"
    cloud.wake.runs.clear()
    cloud.clock.advance(61)
    cloud.sweep()
    cloud.deliver()
    cloud.decide(asked(cloud, run), "did_not_happen", reason="seen")
    cloud.run_until_idle()
    assert "did_not_happen" in told(cloud, run)[1]


def test_a_job_that_comes_again_does_not_run_a_call_that_is_before_a_person():
    cloud, run = parked(POST)
    job = ToolJob(tenant_id="acme", run_id=run, call_id="call_1_0")
    before = [name for name in cloud.types(run) if name.startswith("tool")]
    cloud.clock.advance(3000)
    cloud.work(job)
    assert [name for name in cloud.types(run) if name.startswith("tool")] == before
    with pytest.raises(CallNotDecided, match="only a person"):
        cloud.tool_runner.run("acme", run, "call_1_0", timeout_s=1, traceparent=None)
    assert cloud.effects == {f"post {run}/call_1_0": 1}


def test_the_tools_own_late_word_is_worth_more_than_asking():
    cloud, run = parked(POST)
    resolution = asked(cloud, run)
    late = ToolCompleted(call_id="call_1_0", tool="post", outcome="ok", content='{"done":"posted a"}', duration_ms=1)
    cloud.log.append(cloud.state(run).header, [late], at=cloud.clock.now(), outside=True)
    with pytest.raises(AlreadyDecided, match="own result"):
        cloud.decide(resolution, "did_not_happen", reason="seen")
    cloud.run_until_idle()
    assert "posted a" in told(cloud, run)[1]


def test_a_call_that_was_lost_and_can_not_be_reached_again_is_asked_about():
    cloud = SampleCloud(asks(("save", {"item": "a"})), says("Done."))
    save = cloud.tools["save"]
    asking = replace(save, contract=save.contract.model_copy(update={"if_unknown": "ask_person"}))
    cloud.tools = {**cloud.tools, "save": asking}
    troubles = [ToolLost("died"), ToolUnreached("nobody there")]

    def trouble(*_: object, **__: object) -> None:
        raise troubles.pop(0)

    cloud.tool_runner.run = trouble
    run = cloud.ask(QUESTION)
    cloud.deliver()
    cloud.decide(asked(cloud, run), "happened", reason="seen")
    cloud.run_until_idle()
    assert "happened" in told(cloud, run)[1]


def test_a_contract_that_is_gone_is_still_asked_about_as_it_was_decided():
    cloud = SampleCloud(asks(WIRE), says("Done."))
    wire = cloud.tools["wire"]

    def change(*_: object, **__: object) -> None:
        cloud.tools = {**cloud.tools, "wire": replace(wire, contract=tools(Counter())["pay"].contract)}
        raise ToolLost("died")

    cloud.tool_runner.run = change
    run = cloud.ask(QUESTION)
    cloud.deliver()
    cloud.run_until_idle() if not cloud.state(run).header.approvals else None
    assert asked(cloud, run)


def test_who_asked_the_question_does_not_answer_it():
    cloud, run = parked()
    cloud.directory.put(cloud.approver("ann").model_copy(update={"roles": frozenset(Role)}))
    with pytest.raises(OwnRun):
        cloud.decide(asked(cloud, run), "happened", by=cloud.directory.principal("acme", "ann"), reason="I know")


def test_another_tenants_approver_finds_nothing():
    cloud, run = parked()
    with pytest.raises(NotFound):
        cloud.decide(asked(cloud, run), "happened", by=cloud.approver("gil", tenant_id="globex"), reason="seen")


def test_it_is_decided_once():
    cloud, run = parked()
    resolution = asked(cloud, run)
    cloud.decide(resolution, "happened", reason="seen")
    with pytest.raises(AlreadyDecided):
        cloud.decide(resolution, "did_not_happen", by=cloud.approver("cem"), reason="not seen")
    cloud.run_until_idle()
    with pytest.raises(AlreadyDecided):
        cloud.decide(resolution, "happened", reason="seen")
    assert '"happened"' in told(cloud, run)[1]


def test_of_two_findings_in_a_log_the_first_stands():
    cloud, run = parked()
    first = cloud.decide(asked(cloud, run), "happened", reason="seen")
    second = first.model_copy(update={"decision": "did_not_happen", "by": "cem"})
    cloud.log.append(cloud.state(run).header, [second], at=cloud.clock.now(), outside=True)
    assert cloud.state(run).turn.findings == {"call_1_0": first}


def test_nothing_is_found_once_the_time_is_over():
    cloud, run = parked()
    resolution = cloud.state(run).header.approvals[0]
    cloud.clock.advance((resolution.expires_at - cloud.clock.now()).total_seconds())
    with pytest.raises(ApprovalExpired, match="looked into"):
        cloud.decide(resolution.approval_id, "happened", reason="seen")
    cloud.run_until_idle()
    with pytest.raises(RunOver):
        cloud.decide(resolution.approval_id, "happened", reason="seen")


@pytest.mark.parametrize(
    ("decision", "reason", "field"),
    [("approve", "fine", "body.decision"), ("reject", "no", "body.decision"), ("happened", " ", "body.reason")],
)
def test_an_answer_that_does_not_fit_the_question_is_refused(decision, reason, field):
    cloud, run = parked()
    with pytest.raises(InputInvalid) as wrong:
        cloud.decide(asked(cloud, run), decision, reason=reason)
    assert wrong.value.field == field


def test_an_approval_is_not_answered_with_a_finding():
    cloud = SampleCloud(asks(WIRE), says("Done."), policy=FixedPolicy({"wire": "ask"}))
    run = cloud.ask(QUESTION)
    cloud.deliver()
    [approval] = cloud.state(run).header.approvals
    with pytest.raises(InputInvalid):
        cloud.decide(approval.approval_id, "happened", reason="seen")
    assert cloud.effects == Counter()


@pytest.mark.parametrize("call", [WIRE, POST])
def test_cancelling_ends_the_run_and_the_question_with_it(call):
    cloud, run = parked(call)
    resolution = asked(cloud, run)
    cloud.cancel(run)
    with pytest.raises(RunOver):
        cloud.decide(resolution, "happened", reason="seen")
    cloud.run_until_idle()
    state = require_sound(cloud.log.header("acme", run), cloud.events(run))
    assert (state.ended.reason, state.header.approvals) == ("cancelled", ())
    assert result(cloud, run).cause == "run_ended_cancelled"


def test_the_runs_deadline_ends_it_too():
    cloud, run = parked()
    cloud.clock.advance(3600)
    cloud.run_until_idle()
    state = require_sound(cloud.log.header("acme", run), cloud.events(run))
    assert (state.ended.reason, state.header.approvals) == ("wait_expired", ())


def test_a_start_is_the_last_one_whatever_the_person_found():
    cloud, run = parked()
    cloud.decide(asked(cloud, run), "did_not_happen", reason="seen")
    cloud.run_until_idle()
    assert [e.data.attempt for e in cloud.events(run) if isinstance(e.data, ToolStarted)] == [1]
    assert json.loads(told(cloud, run)[1])["error"] == "did_not_happen"
