"""What ends a run from outside or by its caps is heard in mid-call and told; the session stays usable."""

import threading
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from agent.endings import END, Status
from agent.errors import (
    ConfigurationInvalid,
    ModelRequestRejected,
    ModelThrottled,
    ModelUnavailable,
    StoreUnavailable,
    ToolLost,
)
from agent.events import ModelFailed, ToolOutcomeUnknown
from agent.ports.model import TextDelta
from agent.testing.model import asks, says
from tests.sample_agent import QUESTION, SampleCloud


def hang():
    threading.Event().wait(20)


def end_of(cloud, run):
    ended = cloud.state(run).ended
    assert ended.message == END[ended.reason][1]
    return ended.reason


def test_cancel_is_heard_in_the_middle_of_a_silent_model_call():
    cloud = SampleCloud([TextDelta(0, "Let me"), lambda: cloud.cancel(run), hang])
    run = cloud.ask(QUESTION)
    began = time.monotonic()
    cloud.run_until_idle()
    assert time.monotonic() - began < 3
    assert end_of(cloud, run) == "cancelled"
    assert cloud.types(run)[-4:] == ["cancel.requested", "run.ended", "model.failed", "budget.returned"]


def test_cancel_is_heard_in_the_middle_of_a_tool_call_whose_outcome_is_then_unknown():
    cloud = SampleCloud(asks(("pay", {"item": "a"})))
    run = cloud.ask(QUESTION)

    def stuck(*ids, **_):
        cloud.cancel(run)
        hang()

    cloud.tool_runner.run = stuck
    began = time.monotonic()
    cloud.run_until_idle()
    assert time.monotonic() - began < 3
    assert end_of(cloud, run) == "cancelled"
    assert cloud.types(run)[-3:] == ["tool.outcome_unknown", "run.ended", "budget.returned"]


def test_cancel_of_a_parked_run_wakes_it_to_its_end():
    cloud = SampleCloud(asks(("export", {"item": "a"})))
    run = cloud.ask(QUESTION)
    cloud.invoke("acme", run)
    cloud.cancel(run)
    cloud.run_until_idle()
    assert end_of(cloud, run) == "cancelled"


def test_cancel_of_a_run_that_never_began_calls_no_model():
    cloud = SampleCloud(says("Never."))
    run = cloud.ask(QUESTION)
    cloud.cancel(run)
    cloud.run_until_idle()
    assert end_of(cloud, run) == "cancelled"
    assert cloud.script.requests == []


def test_a_lost_wake_of_a_cancelled_parked_run_is_made_up_by_the_next_sweep():
    cloud = SampleCloud(asks(("export", {"item": "a"})))
    run = cloud.ask(QUESTION)
    cloud.invoke("acme", run)
    cloud.queue.jobs.clear()
    cloud.cancel(run)
    cloud.wake.runs.clear()
    before = cloud.clock.now()
    cloud.run_until_idle()
    assert end_of(cloud, run) == "cancelled"
    assert (cloud.clock.now() - before).total_seconds() < 70


def test_the_deadline_is_heard_in_the_middle_of_a_model_call():
    cloud = SampleCloud([TextDelta(0, "So"), lambda: cloud.clock.advance(20), lambda: threading.Event().wait(0.3)])
    cloud.release = cloud.release.model_copy(
        update={"caps": cloud.release.caps.model_copy(update={"max_duration_s": 15})}
    )
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert end_of(cloud, run) == "max_duration"


def test_a_run_nobody_worked_on_until_its_deadline_expires():
    cloud = SampleCloud(says("Never."))
    run = cloud.ask(QUESTION)
    cloud.clock.advance(3601)
    cloud.run_until_idle()
    assert cloud.state(run).ended.status is Status.EXPIRED
    assert end_of(cloud, run) == "wait_expired"


def test_a_run_that_would_go_on_for_ever_ends_at_its_turns():
    cloud = SampleCloud(asks(("look", {"item": "a"})), caps={"max_turns": 3})
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert end_of(cloud, run) == "max_turns"
    assert len(cloud.script.requests) == 3
    assert cloud.state(run).header.turns == 3


def test_a_run_that_needs_too_many_calls_ends_before_any_of_that_turn_runs():
    cloud = SampleCloud(
        asks(("look", {"item": "a"})), asks(("look", {"item": "b"}), ("pay", {"item": "c"})), caps={"max_tool_calls": 2}
    )
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert end_of(cloud, run) == "max_tool_calls"
    assert [name.split()[0] for name in cloud.effects] == ["look"]


def test_a_throttled_model_is_asked_again_with_growing_pauses_under_a_new_message_id():
    failing = {0: [[ModelThrottled()], [ModelUnavailable()]]}
    cloud = SampleCloud(says("At last."), failing=failing)
    run = cloud.ask(QUESTION)
    began = cloud.clock.monotonic()
    cloud.run_until_idle()
    assert end_of(cloud, run) == "answered"
    assert cloud.clock.monotonic() - began == pytest.approx(0.5 + 1.0)
    ids = [e.data.message_id for e in cloud.events(run) if e.type == "model.started"]
    assert ids == ["msg_1_1", "msg_1_2", "msg_1_3"]


@pytest.mark.parametrize(("error", "asked"), [(ModelThrottled(), 3), (ModelRequestRejected(), 1)])
def test_a_model_that_keeps_failing_ends_the_run(error, asked):
    cloud = SampleCloud([error])
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert end_of(cloud, run) == "model_unavailable"
    assert len(cloud.script.requests) == asked


def test_cancel_is_heard_between_attempts():
    cloud = SampleCloud([lambda: cloud.cancel(run), ModelThrottled()])
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert end_of(cloud, run) == "cancelled"


def test_a_model_that_stays_silent_past_its_hard_timeout_has_failed():
    cloud = SampleCloud(says("Second."), failing={0: [[lambda: cloud.clock.advance(31), hang]]})
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert end_of(cloud, run) == "answered"
    assert [e.data.error for e in cloud.events(run) if isinstance(e.data, ModelFailed)] == ["model_timed_out"]


def test_a_lost_idempotent_call_runs_again_and_a_lost_once_call_does_not():
    cloud = SampleCloud(asks(("save", {"item": "a"}), ("pay", {"item": "b"})), says("Done."))
    run = cloud.ask(QUESTION)
    real, lost = cloud.tool_runner.run, {"call_1_0", "call_1_1"}

    def losing(tenant_id, run_id, call_id, **options):
        reply = real(tenant_id, run_id, call_id, **options)
        if call_id in lost:
            lost.discard(call_id)
            raise ToolLost("no reply")
        return reply

    cloud.tool_runner.run = losing
    cloud.run_until_idle()
    assert end_of(cloud, run) == "answered"
    assert dict(cloud.effects) == {f"save {run}/call_1_0": 2, f"pay {run}/call_1_1": 1}
    assert [e.data.call_id for e in cloud.events(run) if isinstance(e.data, ToolOutcomeUnknown)] == ["call_1_1"]
    told = cloud.script.requests[-1].messages[-1]["content"]
    assert [block["toolResult"]["status"] for block in told] == ["success", "error"]


def test_an_idempotent_call_that_is_always_lost_is_given_up():
    cloud = SampleCloud(asks(("save", {"item": "a"})), says("It is not known."))
    run = cloud.ask(QUESTION)

    def lost(*ids, **_):
        raise ToolLost("no reply")

    cloud.tool_runner.run = lost
    cloud.run_until_idle()
    assert end_of(cloud, run) == "answered"
    assert cloud.types(run).count("tool.started") == 3
    assert cloud.types(run).count("tool.outcome_unknown") == 1


def test_a_tool_function_that_never_answers_is_given_up_at_its_timeout():
    cloud = SampleCloud(asks(("pay", {"item": "a"})), says("It is not known."))
    run = cloud.ask(QUESTION)

    def stuck(*ids, **_):
        cloud.clock.advance(60)
        hang()

    cloud.tool_runner.run = stuck
    cloud.run_until_idle()
    assert end_of(cloud, run) == "answered"
    assert cloud.types(run).count("tool.outcome_unknown") == 1


def test_a_run_that_kills_every_holder_without_a_trace_is_ended():
    cloud = SampleCloud(says("Never."))
    run = cloud.ask(QUESTION, session_id="s")

    def broken(*_, **__):
        raise StoreUnavailable("no")

    cloud.log.runs_of_session = broken
    cloud.run_until_idle()
    assert end_of(cloud, run) == "internal_error"
    assert cloud.invocations == 6


@pytest.mark.parametrize("port", ["ledger", "controls"])
def test_a_store_that_is_silent_for_minutes_ends_no_run(port):
    cloud = SampleCloud(says("Done."))
    run, silent_until = cloud.ask(QUESTION), cloud.clock.now() + timedelta(minutes=3)
    asked = {"ledger": "grant", "controls": "effective"}[port]
    answer = getattr(getattr(cloud, port), asked)

    def silent(*question, **how):
        if cloud.clock.now() < silent_until:
            raise StoreUnavailable("no")
        return answer(*question, **how)

    setattr(getattr(cloud, port), asked, silent)
    cloud.run_until_idle()
    assert end_of(cloud, run) == "answered"


def test_being_deaf_for_a_moment_does_not_end_a_run():
    cloud = SampleCloud([lambda: threading.Event().wait(0.1), *says("Done.")])
    run = cloud.ask(QUESTION)

    def deaf(*_):
        raise StoreUnavailable("no")

    cloud.log.header = deaf
    cloud.invoke("acme", run)
    assert end_of(cloud, run) == "answered"


class HalfDeployedCloud(SampleCloud):
    """Runs are admitted under a release that the agent doesn't have, before the minute in which it is deployed."""

    def __init__(self, *script, arrives_at_minute):
        super().__init__(*script)
        self.arrives_at = self.clock.now() + timedelta(minutes=arrives_at_minute)

    def runtime(self, process=None):
        def releases(name):
            if self.clock.now() < self.arrives_at:
                raise ConfigurationInvalid(f"release {name}: no such file")
            return self.release

        return replace(super().runtime(process), releases=releases)


def test_a_new_run_waits_for_a_release_that_its_deployment_is_about_to_bring():
    cloud = HalfDeployedCloud(says("Done."), arrives_at_minute=4)
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert end_of(cloud, run) == "answered"
    assert cloud.types(run).count("run.claimed") == 1
    assert cloud.invocations < 7


def test_it_does_not_wait_for_ever_and_not_after_it_was_cancelled():
    never = HalfDeployedCloud(says("Never."), arrives_at_minute=10**6)
    run = never.ask(QUESTION)
    never.run_until_idle()
    assert end_of(never, run) == "release_unavailable"
    cancelled = HalfDeployedCloud(says("Never."), arrives_at_minute=10**6)
    run = cancelled.ask(QUESTION)
    cancelled.cancel(run)
    cancelled.deliver()
    assert end_of(cancelled, run) == "cancelled"


def test_a_release_that_is_gone_ends_the_run_and_is_not_replaced():
    cloud = SampleCloud(says("Never."))
    run = cloud.ask(QUESTION)
    cloud.tools = {name: made for name, made in cloud.tools.items() if name != "pay"}
    cloud.run_until_idle()
    assert end_of(cloud, run) == "release_unavailable"


def test_a_tool_that_changed_between_decision_and_start_does_not_run():
    cloud = SampleCloud(asks(("pay", {"item": "a"})), says("It changed."))
    run = cloud.ask(QUESTION)
    cloud.tools = dict(cloud.tools)
    gate_saw = cloud.tools["pay"]

    def changed(header, payloads, **kwargs):
        if payloads[-1].type == "tool.started":
            raise AssertionError("it was started")
        return append(header, payloads, **kwargs)

    class Policy:
        def decide(self, query):
            from dataclasses import replace

            contract = gate_saw.contract.model_copy(update={"timeout_s": 59})
            cloud.tools["pay"] = replace(gate_saw, contract=contract)
            return cloud_policy.decide(query)

    cloud_policy, cloud.policy = cloud.policy, Policy()
    append, cloud.log.append = cloud.log.append, changed
    cloud.run_until_idle()
    assert end_of(cloud, run) == "answered"
    assert not cloud.effects


def test_a_session_goes_on_after_a_cancelled_run_and_does_not_hear_of_a_colleagues():
    cloud = SampleCloud([TextDelta(0, "So"), lambda: cloud.cancel(first), hang])
    first = cloud.ask("Cancel me.", session_id="s")
    cloud.run_until_idle()
    cloud.model = cloud.script = type(cloud.script)(says("Hello."))
    cloud.ask("Mine.", session_id="s", user_id="bob")
    cloud.run_until_idle()
    second = cloud.ask("And now?", session_id="s")
    cloud.run_until_idle()
    assert end_of(cloud, second) == "answered"
    texts = [message["content"][0]["text"] for message in cloud.script.requests[-1].messages]
    assert texts == ["Cancel me.", "[No answer. The user was told: The run was cancelled.]", "And now?"]
    assert cloud.types(second)[2] == "session.loaded"
