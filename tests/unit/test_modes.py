"""Force-review and read-only over whole runs: what is decided, and what was approved before the mode came on."""

import json
from datetime import timedelta

import pytest

from agent.controls import Board, Switch, Target
from agent.endings import Status
from agent.testing.model import asks, says
from agent.testing.rooms import FixedPolicy
from tests.sample_agent import QUESTION, SampleCloud

SAVE, LOOK, PAY = (("save", {"item": "a"}), ("look", {"item": "a"}), ("pay", {"item": "a"}))


def switch_on(cloud, mode, board=None):
    now = cloud.clock.now()
    switch = Switch(
        target=Target(kind=mode), reason="drill", by="ops", created_at=now, expires_at=now + timedelta(days=1)
    )
    cloud.controls.switch_on(board or Board(), switch)


def decided(cloud, run):
    return [(d.tool, d.verdict.value, d.code, d.modes) for d in cloud.state(run).turns[0].completed.decisions]


@pytest.mark.parametrize("board", [Board(), Board("acme"), Board("acme", by_tenant=True)], ids=lambda b: b.key)
def test_under_force_review_an_allowed_effect_waits_for_a_person_and_a_read_does_not(board):
    cloud = SampleCloud(asks(SAVE, LOOK), says("Done."))
    switch_on(cloud, "force_review", board)
    run = cloud.ask(QUESTION)
    cloud.deliver()
    review = ("force_review",)
    assert decided(cloud, run) == [("save", "ask", "approval_needed", review), ("look", "allow", "allowed", review)]
    assert cloud.effects == {f"look {run}/call_1_1": 1}
    cloud.decide(cloud.state(run).header.approvals[0].approval_id)
    cloud.run_until_idle()
    assert cloud.effects[f"save {run}/call_1_0"] == 1


def test_under_read_only_effects_are_denied_and_the_model_can_tell_the_user():
    cloud = SampleCloud(asks(SAVE, LOOK), says("Nothing can be saved now."), policy=FixedPolicy({"save": "ask"}))
    switch_on(cloud, "read_only")
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    denied, _ = decided(cloud, run)
    assert denied == ("save", "deny", "read_only", ("read_only",))
    assert cloud.state(run).ended.answer == "Nothing can be saved now."
    assert not any(name.startswith("save") for name in cloud.effects)


def test_another_tenants_modes_are_not_ones_own():
    cloud = SampleCloud(asks(SAVE), says("Done."))
    switch_on(cloud, "read_only", Board("globex"))
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert cloud.effects == {f"save {run}/call_1_0": 1}


def test_what_was_approved_before_read_only_came_on_does_not_start():
    cloud = SampleCloud(asks(PAY), says("It did not run."), policy=FixedPolicy({"pay": "ask"}))
    run = cloud.ask(QUESTION)
    cloud.deliver()
    assert cloud.state(run).header.status is Status.WAITING
    switch_on(cloud, "read_only")
    cloud.decide(cloud.state(run).header.approvals[0].approval_id)
    cloud.run_until_idle()
    [result] = cloud.state(run).turns[0].results.values()
    assert json.loads(result.content)["error"] == "tool_switched_off"
    assert not cloud.effects


def test_what_was_approved_before_force_review_came_on_starts_because_a_person_has_seen_it():
    cloud = SampleCloud(asks(PAY), says("Done."), policy=FixedPolicy({"pay": "ask"}))
    run = cloud.ask(QUESTION)
    cloud.deliver()
    switch_on(cloud, "force_review")
    cloud.decide(cloud.state(run).header.approvals[0].approval_id)
    cloud.run_until_idle()
    assert cloud.effects == {f"pay {run}/call_1_0": 1}


SHIP = ("ship", {"item": "a"})


def test_a_queued_effect_that_was_allowed_before_force_review_came_on_does_not_begin_and_can_be_asked_for_again():
    cloud = SampleCloud(asks(SHIP), asks(SHIP), says("Done."))
    run = cloud.ask(QUESTION)
    cloud.invoke("acme", run)
    switch_on(cloud, "force_review")
    cloud.deliver()
    first, second = cloud.state(run).turns
    assert json.loads(first.results["call_1_0"].content)["error"] == "review_needed"
    assert (second.completed.decisions[0].verdict.value, cloud.effects.total()) == ("ask", 0)
    cloud.decide(cloud.state(run).header.approvals[0].approval_id)
    cloud.run_until_idle()
    assert cloud.effects == {f"ship {run}/call_2_0": 1}


def test_force_review_that_comes_on_between_two_calls_of_a_turn_keeps_back_the_second_and_no_read():
    cloud = SampleCloud(asks(SAVE, PAY, LOOK), says("Only saved."))
    run = cloud.ask(QUESTION)
    room = cloud.tool_runner.run

    def flip(*ids, **how):
        switch_on(cloud, "force_review")
        return room(*ids, **how)

    cloud.tool_runner.run = flip
    cloud.run_until_idle()
    assert cloud.effects == {f"save {run}/call_1_0": 1, f"look {run}/call_1_2": 1}
    assert json.loads(cloud.state(run).turns[0].results["call_1_1"].content)["error"] == "review_needed"


def test_a_queued_effect_that_a_person_approved_starts_under_force_review():
    cloud = SampleCloud(asks(SHIP), says("Done."), policy=FixedPolicy({"ship": "ask"}))
    run = cloud.ask(QUESTION)
    cloud.deliver()
    cloud.decide(cloud.state(run).header.approvals[0].approval_id)
    cloud.invoke("acme", run)
    switch_on(cloud, "force_review")
    cloud.run_until_idle()
    assert cloud.effects == {f"ship {run}/call_1_0": 1}
