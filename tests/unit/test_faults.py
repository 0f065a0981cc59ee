"""When models and tools fail: who is asked again, who instead, and what nobody is asked any more."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from agent.errors import (
    LogContended,
    ModelNotOffered,
    ModelRequestRejected,
    ModelThrottled,
    ModelUnavailable,
    StoreUnavailable,
    ToolLost,
    ToolUnreached,
)
from agent.events import Delta, ModelStarted, Reasoning, RunClaimed
from agent.model_call import FLUSH_CHARACTERS
from agent.ports.model import ModelPart, ModelRequest, ReasoningDone, TextDelta
from agent.release import ModelChoice
from agent.testing.breakers import STEADY, MemoryBreakers
from agent.testing.model import Step, asks, says
from tests.sample_agent import FALLBACK, MODEL, PRICES, QUESTION, SampleCloud

DOWN = [ModelUnavailable("down")]
GONE = [ModelNotOffered("no access")]
THOUGHT = Reasoning(block={"reasoningText": {"text": "hm", "signature": "s"}})


class Cloud(SampleCloud):
    """The sample agent with a second model, and each model's failures to come."""

    def __init__(self, *turns: list[Step], **failing: list[list[Step]]) -> None:
        super().__init__(*turns)
        self.failing = {MODEL: failing.get("first", []), FALLBACK: failing.get("second", [])}
        self.model = self
        choice = ModelChoice(id=FALLBACK, reason="another model that plays it", max_tokens=500, timeout_s=30)
        self.release = self.release.model_copy(update={"fallback": choice.model_copy(update={"max_attempts": 2})})
        self.asked: list[ModelRequest] = []

    def stream(self, request: ModelRequest, *, timeout_s: float) -> Iterator[ModelPart]:
        self.asked.append(request)
        if self.failing[request.model_id]:
            for step in self.failing[request.model_id].pop(0):
                if isinstance(step, Exception):
                    raise step
                yield step
        yield from self.script.stream(request, timeout_s=timeout_s)

    def run(self) -> str:
        run_id = self.ask(QUESTION)
        self.run_until_idle()
        return run_id

    @property
    def models(self) -> list[str]:
        return [request.model_id for request in self.asked]


def open_breaker(cloud: SampleCloud, name: str) -> None:
    breakers = MemoryBreakers(cloud.breakers, STEADY, cloud.clock)
    for _ in range(STEADY.failures):
        breakers.failed(name)


# --- the fallback model -----------------------------------------------------------------------------------------------


def test_after_its_attempts_the_first_model_is_relieved_by_the_second_without_another_pause():
    cloud = Cloud(says("Here I am."), first=[DOWN] * 3)
    began = cloud.clock.monotonic()
    run = cloud.run()
    assert cloud.models == [MODEL] * 3 + [FALLBACK]
    assert cloud.state(run).ended.answer == "Here I am."
    assert cloud.clock.monotonic() - began == pytest.approx(0.5 + 1.0)
    ids = [e.data.message_id for e in cloud.events(run) if e.type == "model.started"]
    assert ids == ["msg_1_1", "msg_1_2", "msg_1_3", "msg_1_4"]


def test_a_model_that_is_not_offered_is_not_asked_twice():
    cloud = Cloud(says("Here I am."), first=[GONE])
    cloud.run()
    assert cloud.models == [MODEL, FALLBACK]


def test_the_second_models_call_is_reserved_and_settled_at_its_own_price():
    cloud = Cloud(says("Here I am."), first=[GONE])
    run = cloud.run()
    first, second = (e.data for e in cloud.events(run) if e.type == "model.started")
    assert second.reserved_micros > first.reserved_micros
    [completed] = [e.data for e in cloud.events(run) if e.type == "model.completed"]
    assert completed.model_id == FALLBACK
    assert completed.cost_micros == PRICES.of(FALLBACK).cost_micros(completed.usage)
    assert cloud.state(run).header.spent_micros == completed.cost_micros
    assert cloud.asked[-1].max_tokens == 500


def test_once_the_user_has_seen_text_no_other_model_takes_over():
    shown = [TextDelta(0, "I think"), *DOWN]
    cloud = Cloud(says("Never."), first=[shown, DOWN, DOWN])
    run = cloud.run()
    assert cloud.models == [MODEL] * 3
    assert cloud.state(run).ended.reason == "model_unavailable"
    assert [e.data.shown for e in cloud.events(run) if e.type == "model.failed"] == [True, False, False]


def run_of_a_dead_holder(cloud: Cloud, model_id: str, *, shown: bool) -> str:
    """Bring a run to its end whose first holder died in a model call."""
    run = cloud.ask(QUESTION)
    now = cloud.clock.now()
    claimed = RunClaimed(owner="dead", epoch=1, lease_until=now + timedelta(seconds=300))
    begun = ModelStarted(turn=1, attempt=1, message_id="msg_1_1", model_id=model_id, reserved_micros=0)
    header = cloud.log.append(cloud.log.header("acme", run), [claimed, begun], at=now)
    if shown:
        delta = Delta(seq=header.next_seq - 1, index=0, part=0, offset=0, text="I think")
        cloud.log.write_delta("acme", run, delta)
    cloud.clock.advance(301)
    cloud.run_until_idle()
    return run


def test_once_a_dead_holder_has_shown_text_no_other_model_takes_over():
    cloud = Cloud(says("Never."), first=[DOWN, DOWN])
    run = run_of_a_dead_holder(cloud, MODEL, shown=True)
    assert cloud.models == [MODEL] * 2
    assert cloud.state(run).ended.reason == "model_unavailable"


def test_a_dead_holder_that_has_shown_nothing_keeps_no_model_from_taking_over():
    cloud = Cloud(says("Here I am."), first=[DOWN, DOWN])
    run = run_of_a_dead_holder(cloud, MODEL, shown=False)
    assert cloud.models == [MODEL] * 2 + [FALLBACK]
    assert cloud.state(run).ended.answer == "Here I am."


def test_the_second_model_goes_on_where_it_was_the_one_that_showed_text():
    cloud = Cloud(says("Here I am."), second=[DOWN])
    run = run_of_a_dead_holder(cloud, FALLBACK, shown=True)
    assert cloud.models == [FALLBACK]
    assert cloud.state(run).ended.reason == "model_unavailable"
    cloud = Cloud(says("Here I am."))
    run = run_of_a_dead_holder(cloud, FALLBACK, shown=True)
    assert cloud.models == [FALLBACK]
    assert cloud.state(run).ended.answer == "Here I am."


def test_a_rejected_request_is_not_tried_on_another_model():
    cloud = Cloud(says("Never."), first=[[ModelRequestRejected("too long")]])
    run = cloud.run()
    assert cloud.models == [MODEL]
    assert cloud.state(run).ended.reason == "model_unavailable"


def test_when_both_models_fail_the_run_says_that_none_is_available():
    cloud = Cloud(says("Never."), first=[DOWN] * 3, second=[DOWN] * 2)
    run = cloud.run()
    assert cloud.models == [MODEL] * 3 + [FALLBACK] * 2
    ended = cloud.state(run).ended
    assert (ended.reason, ended.message) == (
        "model_unavailable",
        "The model is not available at the moment. Ask again in a minute.",
    )
    assert cloud.state(run).header.slice_micros == 0


def test_the_next_turn_begins_with_the_first_model_again_which_is_not_shown_the_others_reasoning():
    thinking = [ReasoningDone(0, THOUGHT), *asks(("look", {"item": "a"}), text="Let me look.")]
    cloud = Cloud(thinking, asks(("look", {"item": "b"})), says("Done."), first=[GONE], second=[])
    run = cloud.run()
    assert cloud.models == [MODEL, FALLBACK, MODEL, MODEL]
    assert cloud.state(run).ended.reason == "answered"
    assert all("reasoningContent" not in str(request.messages) for request in cloud.asked)


@pytest.mark.parametrize(("luck", "paused_s"), [(0.0, 0.0), (0.5, 6.75 / 2), (1.0, 6.75)])
def test_pauses_are_full_jitter_below_a_doubling_bound(luck: float, paused_s: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("agent.model_call.BACKOFF_LONGEST_S", 3.25)
    cloud = SampleCloud(says("At last."), failing={0: [DOWN] * 4})
    cloud.release = cloud.release.model_copy(
        update={"model": cloud.release.model.model_copy(update={"max_attempts": 5})}
    )
    runtime = cloud.runtime()
    cloud.runtime = lambda: replace(runtime, random=lambda: luck)
    run = cloud.ask(QUESTION)
    began = cloud.clock.monotonic()
    cloud.run_until_idle()
    assert cloud.state(run).ended.reason == "answered"
    assert cloud.clock.monotonic() - began == pytest.approx(paused_s)  # of 0.5, 1, 2 and 3.25 seconds


def test_no_attempt_begins_after_the_runs_deadline():
    late = [lambda: cloud.clock.advance(9.8), *DOWN]
    cloud = SampleCloud(says("Too late."), failing={0: [late]}, caps={"max_duration_s": 10})
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert cloud.state(run).ended.reason == "max_duration"
    assert len(cloud.script.requests) == 1


# --- the models' breakers ---------------------------------------------------------------------------------------------


def test_a_model_that_failed_others_is_not_asked_and_the_second_answers():
    cloud = Cloud(says("Here I am."))
    open_breaker(cloud, f"model#{MODEL}")
    cloud.run()
    assert cloud.models == [FALLBACK]


def test_with_every_breaker_open_the_run_ends_without_asking_or_paying():
    cloud = Cloud(says("Never."))
    open_breaker(cloud, f"model#{MODEL}")
    open_breaker(cloud, f"model#{FALLBACK}")
    run = cloud.run()
    assert cloud.models == []
    assert cloud.state(run).ended.reason == "model_unavailable"
    assert "model.started" not in cloud.types(run)


def test_failures_of_many_runs_open_the_breaker_and_one_probe_closes_it():
    cloud = Cloud(says("Fine."), first=[[ModelThrottled("slow")]] * 5)
    cloud.release = cloud.release.model_copy(update={"fallback": None})
    assert cloud.state(cloud.run()).ended.reason == "model_unavailable"
    assert cloud.state(cloud.run()).ended.reason == "model_unavailable"
    assert len(cloud.asked) == 5  # the sixth attempt met the open breaker
    cloud.clock.advance(STEADY.open_s)
    assert cloud.state(cloud.run()).ended.reason == "answered"
    assert cloud.breakers.open_until == {}


def test_a_breaker_that_opens_during_the_pause_ends_it():
    cloud = Cloud(says("Here I am."), first=[DOWN])
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        cloud.clock.advance(seconds)
        open_breaker(cloud, f"model#{MODEL}")

    cloud.clock.sleep = sleep
    cloud.run()
    assert slept == [0.02]  # one look of the ear, of half a second
    assert cloud.models == [MODEL, FALLBACK]


def test_a_rejected_request_tells_the_breaker_that_the_service_answers():
    cloud = Cloud(says("Never."), first=[[ModelRequestRejected("too long")]])
    cloud.run()
    assert not cloud.breakers.failures


# --- tools ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["look", "pay", "export", "ship"])
def test_a_tool_whose_breaker_is_open_does_not_run_and_the_model_is_told(tool: str):
    cloud = SampleCloud(asks((tool, {"item": "a"})), says("It is out of order."))
    open_breaker(cloud, f"tool#{tool}")
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    [result] = cloud.state(run).turns[0].results.values()
    assert '"tool_unavailable"' in result.content
    assert "tool.started" not in cloud.types(run)
    assert not cloud.effects
    assert cloud.state(run).ended.reason == "answered"


@pytest.mark.parametrize("tool", ["look", "pay", "export", "ship"])
def test_a_tool_that_could_not_be_reached_certainly_did_not_run(tool: str):
    cloud = SampleCloud(asks((tool, {"item": "a"})), says("Later."))

    def unreached(*_, **__):
        raise ToolUnreached("nobody there")

    cloud.tool_runner.run = unreached
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert "tool.outcome_unknown" not in cloud.types(run)
    [result] = cloud.state(run).turns[0].results.values()
    assert '"tool_unavailable"' in result.content
    assert cloud.breakers.failures.total() == 1


@pytest.mark.parametrize("tool", ["look", "export"])
def test_a_call_that_was_lost_before_it_could_not_be_reached_again_may_have_run(tool: str):
    cloud = SampleCloud(asks((tool, {"item": "a"})), says("Later."))
    troubles = [ToolLost("died"), ToolUnreached("nobody there")]

    def trouble(*_, **__):
        raise troubles.pop(0)

    cloud.tool_runner.run = trouble
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert cloud.types(run).count("tool.started") == 2
    assert cloud.types(run).count("tool.outcome_unknown") == 1


@pytest.mark.parametrize("tool", ["look", "export"])
def test_lost_calls_open_a_tools_breaker_and_a_good_one_closes_it(tool: str):
    cloud = SampleCloud(asks((tool, {"item": "a"})), says("Done."))
    run_tool = cloud.tool_runner.run

    def lose(*_, **__):
        raise ToolLost("died")

    cloud.tool_runner.run = lose
    for _ in range(2):
        cloud.ask(QUESTION)
        cloud.run_until_idle()
    assert f"tool#{tool}" in cloud.breakers.open_until
    cloud.tool_runner.run = run_tool
    cloud.clock.advance(STEADY.open_s)
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    [result] = cloud.state(run).turns[0].results.values()
    assert result.outcome == "ok"
    assert cloud.breakers.open_until == {}


# --- probes that nobody hears of --------------------------------------------------------------------------------------


def half_open(cloud: SampleCloud, name: str) -> None:
    open_breaker(cloud, name)
    cloud.clock.advance(STEADY.open_s)


def until_over(cloud: SampleCloud, run: str) -> None:
    for _ in range(1000):
        if cloud.state(run).is_over:
            return
        threading.Event().wait(0.002)


def test_a_model_call_that_was_the_probe_and_is_cancelled_leaves_the_next_run_to_be_it():
    def cancel() -> None:
        cloud.cancel(f"run_{1:026d}")
        until_over(cloud, f"run_{1:026d}")

    cloud = SampleCloud(says("Here I am."), failing={0: [[TextDelta(0, "I am"), cancel]]})
    half_open(cloud, f"model#{MODEL}")
    first = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert cloud.state(first).ended.reason == "cancelled"
    second = cloud.ask(QUESTION)
    cloud.deliver()
    assert cloud.state(second).ended.reason == "answered"
    assert cloud.breakers.open_until == {}


def test_a_tool_call_that_was_the_probe_and_is_cancelled_leaves_the_next_run_to_be_it():
    cloud = SampleCloud(asks(("look", {"item": "a"})), says("Done."))
    half_open(cloud, "tool#look")
    run_tool = cloud.tool_runner.run

    def never_ends(tenant_id: str, run_id: str, call_id: str, **_: object) -> None:
        cloud.cancel(run_id)
        until_over(cloud, run_id)
        raise ToolLost("cut off")

    cloud.tool_runner.run = never_ends
    first = cloud.ask(QUESTION)
    cloud.deliver()
    assert cloud.state(first).ended.reason == "cancelled"
    cloud.tool_runner.run = run_tool
    second = cloud.ask(QUESTION)
    cloud.deliver()
    assert cloud.state(second).turns[0].results["call_1_0"].outcome == "ok"
    assert cloud.breakers.open_until == {}


def test_a_queued_call_that_was_the_probe_and_could_not_be_started_is_the_probe_when_it_comes_again():
    cloud = SampleCloud(asks(("export", {"item": "a"})), says("Done."))
    half_open(cloud, "tool#export")
    run = cloud.ask(QUESTION)
    cloud.invoke(*cloud.wake.runs.popleft())
    append, contended = cloud.log.append, []

    def contend_once(header: Any, payloads: Any, **options: Any) -> Any:
        if payloads[0].type == "tool.started" and not contended:
            contended.append(True)
            raise LogContended("busy")
        return append(header, payloads, **options)

    cloud.log.append = contend_once
    job = cloud.queue.jobs.popleft()
    cloud.work(job)
    cloud.work(job)
    assert contended
    assert cloud.state(run).turns[0].results["call_1_0"].outcome == "ok"
    assert cloud.breakers.open_until == {}


# --- streamed text ----------------------------------------------------------------------------------------------------


def test_text_that_could_not_be_written_is_not_written_into_the_next_part():
    long = "Second. " * FLUSH_CHARACTERS
    cloud = SampleCloud([TextDelta(0, "First. "), TextDelta(0, "More."), TextDelta(1, long), *says()])
    write, written = cloud.log.write_delta, []

    def fail_the_second(tenant_id, run_id, delta):
        written.append(delta)
        if len(written) == 2:
            raise StoreUnavailable("no")
        write(tenant_id, run_id, delta)

    cloud.log.write_delta = fail_the_second
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert [(delta.part, delta.text) for delta in written] == [(0, "First. "), (0, "More.")]
    assert cloud.state(run).ended.answer == f"First. More.\n\n{long}"
