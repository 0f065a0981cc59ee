"""A governed run from its question to its end, in memory."""

import threading
from collections import Counter
from datetime import timedelta

import pytest

from agent.endings import Status
from agent.events import FeedbackGiven, ModelStarted, RunEnded, ToolCompleted
from agent.loop import hold
from agent.ports.model import ModelStopped, TextDelta
from agent.testing.crash import Killed
from agent.testing.model import asks, says
from tests.sample_agent import QUESTION, SampleCloud

MANY = {"max_calls_per_turn": 24, "max_tool_calls": 24}


def test_a_question_without_tools_is_answered_in_one_turn():
    cloud = SampleCloud(says("It is ", "on its way."))
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert cloud.types(run) == [
        "run.created",
        "run.claimed",
        "budget.granted",
        "model.started",
        "model.completed",
        "run.ended",
        "budget.returned",
    ]
    assert cloud.state(run).ended == RunEnded(
        status=Status.COMPLETED, reason="answered", message="The agent answered.", answer="It is on its way."
    )


def test_a_tool_result_goes_back_to_the_model_and_the_answer_to_the_user():
    cloud = SampleCloud(asks(("look", {"item": "a1"})), says("Found it."))
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert cloud.types(run) == [
        "run.created",
        "run.claimed",
        "budget.granted",
        "model.started",
        "model.completed",
        "tool.started",
        "tool.completed",
        "model.started",
        "model.completed",
        "run.ended",
        "budget.returned",
    ]
    header = cloud.state(run).header
    assert (header.turns, header.tool_calls, header.tools_called) == (2, 1, ("look",))
    assert (header.input_tokens, header.output_tokens) == (200, 40)


class CountedLog:
    """Counts the appends of a log."""

    def __init__(self, log):
        self.log, self.appends = log, []

    def __getattr__(self, name):
        return getattr(self.log, name)

    def append(self, header, payloads, **kwargs):
        self.appends.append([payload.type for payload in payloads])
        return self.log.append(header, payloads, **kwargs)


@pytest.mark.parametrize("turns", [2, 5])
def test_a_turn_costs_exactly_two_log_transactions(turns):
    cloud = SampleCloud(*[asks(("look", {"item": "a"}), ("look", {"item": "b"}))] * (turns - 1), says("Done."))
    cloud.log = counted = CountedLog(cloud.log)
    cloud.invoke("acme", cloud.ask(QUESTION))
    claim, *of_turns, returned = counted.appends
    assert claim == ["run.claimed"]
    assert returned == ["budget.returned"]
    assert len(of_turns) == 2 * turns
    assert of_turns[2] == ["tool.completed", "tool.completed", "model.started"]
    assert of_turns[1] == ["model.completed", "tool.started", "tool.started"]
    assert of_turns[-1] == ["model.completed", "run.ended"]


def test_a_live_run_is_left_alone_and_an_ended_one_too():
    woken = Counter()
    cloud = SampleCloud([lambda: woken.update([cloud.invoke("acme", run)]), *says("Done.")])
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert woken == {None: 1}
    assert cloud.invoke("acme", run) is None
    assert cloud.invoke("acme", "run_00000000000000000000000099") is None
    assert cloud.types(run).count("run.claimed") == 1


def test_a_storm_of_wakes_at_once_makes_one_holder():
    cloud = SampleCloud(asks(("pay", {"item": "a"})), says("Done."))
    run = cloud.ask(QUESTION)
    barrier = threading.Barrier(8)

    def wake():
        barrier.wait(5)
        lease_until = cloud.clock.now() + timedelta(seconds=300)
        hold(cloud.runtime(), "acme", run, owner=f"storm-{threading.get_ident()}", lease_until=lease_until)

    threads = [threading.Thread(target=wake) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cloud.types(run).count("run.claimed") == 1
    assert cloud.effects == {f"pay {run}/call_1_0": 1}


def test_a_holder_that_was_replaced_writes_nothing_more():
    replaced = threading.Event()

    def replace():
        cloud.clock.advance(301)
        assert cloud.invoke("acme", run).status is Status.COMPLETED
        replaced.set()

    cloud = SampleCloud(says("Second."), failing={0: [[replace, *says("First.")]]})
    run = cloud.ask(QUESTION)
    cloud.invoke("acme", run)
    assert replaced.wait(10)
    assert cloud.state(run).ended.answer == "Second."
    assert cloud.types(run).count("run.ended") == 1
    # The second holder found the first one's call open: settled at its whole reservation, then asked again.
    assert cloud.types(run).count("model.failed") == 1


def test_a_holder_near_the_end_of_its_lease_hands_over_and_the_next_goes_on():
    # Of a lease of 300 s, 10 are kept for the last appends: after 200 a call that may take 240 does not fit any more.
    late = [lambda: cloud.clock.advance(200), *asks(("look", {"item": "a"}))]
    cloud = SampleCloud(late, says("Done."), timeout_s=240)
    run = cloud.ask(QUESTION)
    cloud.wake.runs.clear()
    header = cloud.invoke("acme", run)
    assert (header.status, header.owner) == (Status.RUNNING, None)
    assert cloud.types(run)[-3:] == ["tool.started", "tool.completed", "run.released"]
    assert list(cloud.wake.runs) == [("acme", run)]
    cloud.run_until_idle()
    assert cloud.state(run).header.epoch == 2
    assert cloud.state(run).ended.answer == "Done."


def test_a_turn_longer_than_a_functions_life_goes_on_in_the_next_and_no_call_is_begun_in_vain():
    calls = [("pay", {"item": str(number)}) for number in range(24)]  # each may take 15 s: a lease is 300
    cloud = SampleCloud(asks(*calls), says("Paid."))
    cloud.release = cloud.release.model_copy(update={"caps": cloud.release.caps.model_copy(update=MANY)})
    run, pay = cloud.ask(QUESTION), cloud.tool_runner.run

    def slowly(*ids, **how):
        cloud.clock.advance(14.9)
        if cloud.clock.now() > cloud.log.header("acme", run).lease_until:
            raise Killed("the function's time is up")
        return pay(*ids, **how)

    cloud.tool_runner.run = slowly
    cloud.run_until_idle()
    state = cloud.state(run)
    assert state.ended.answer == "Paid."
    assert cloud.effects == {f"pay {run}/call_1_{number}": 1 for number in range(24)}
    assert cloud.types(run).count("worker.lost") == 0


def test_a_lease_too_short_for_anything_ends_the_run_instead_of_passing_it_on_for_ever():
    cloud = SampleCloud(says("Never said."))
    run = cloud.ask(QUESTION)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("agent.testing.cloud.LEASE", timedelta(seconds=5))
        cloud.run_until_idle()
    assert cloud.state(run).ended.reason == "internal_error"
    assert cloud.script.requests == []


def test_an_answer_survives_that_the_log_moved_while_it_came_in():
    cloud = SampleCloud([lambda: feedback(cloud, run), *says("Here.")])
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert cloud.types(run)[3:] == [
        "model.started",
        "feedback.given",
        "model.completed",
        "run.ended",
        "budget.returned",
    ]
    assert len(cloud.script.requests) == 1


def feedback(cloud, run):
    given = FeedbackGiven(by="ann", rating="up")
    cloud.log.append(cloud.log.header("acme", run), [given], at=cloud.clock.now(), outside=True)


def test_streamed_text_is_contiguous_in_characters_and_parts():
    cloud = SampleCloud(
        [
            TextDelta(0, "Grüß"),
            lambda: cloud.clock.advance(1),
            TextDelta(0, "e! "),
            TextDelta(0, "x" * 600),
            TextDelta(2, "And "),
            lambda: cloud.clock.advance(1),
            TextDelta(2, "more."),
            ModelStopped("end_turn"),
        ]
    )
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    seq = next(e.seq for e in cloud.events(run) if isinstance(e.data, ModelStarted))
    deltas = cloud.log.deltas("acme", run, seq)
    parts = {0: "Grüße! " + "x" * 600, 1: "And more."}
    for part, text in parts.items():
        pieces = [delta for delta in deltas if delta.part == part]
        written = "".join(delta.text for delta in pieces)
        assert text.startswith(written)
        assert [d.offset for d in pieces] == [len("".join(p.text for p in pieces[:n])) for n in range(len(pieces))]
    assert [delta.index for delta in deltas] == list(range(len(deltas)))
    assert sum(len(delta.text) for delta in deltas) >= 600
    assert cloud.state(run).turn.completed.content[1].text == "And more."


def test_results_stand_in_call_order_whatever_the_order_of_completion():
    cloud = SampleCloud(
        asks(
            ("look", {"item": "nothing"}),
            ("no_such_tool", {}),
            ("save", {"item": "b", "unknown": 1}),
            ("look", "not json"),
            ("pay", {"item": "c"}),
            ("export", {"item": "d"}),
        ),
        says("Done."),
    )
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    results = cloud.script.requests[-1].messages[-1]["content"]
    assert [r["toolResult"]["toolUseId"] for r in results] == [f"call_1_{i}" for i in range(6)]
    assert [r["toolResult"]["status"] for r in results] == ["error"] * 4 + ["success"] * 2
    texts = [r["toolResult"]["content"][0]["text"] for r in results]
    assert '"error": "not_found"' in texts[0]
    assert '"error":"unknown_tool"' in texts[1]
    assert "unknown: Extra inputs are not permitted" in texts[2]
    assert '"error":"invalid_arguments"' in texts[3]
    assert texts[4] == '{"done":"paid"}'
    assert [d.code for d in cloud.state(run).turns[0].completed.decisions] == [
        "allowed",
        "unknown_tool",
        "invalid_arguments",
        "invalid_arguments",
        "allowed",
        "allowed",
    ]
    assert sum(isinstance(e.data, ToolCompleted) for e in cloud.events(run)) == 3


def test_a_queued_call_parks_the_run_without_compute_and_its_result_wakes_it():
    cloud = SampleCloud(asks(("export", {"item": "a"}), ("look", {"item": "b"})), says("Exported."))
    run = cloud.ask(QUESTION)
    cloud.wake.runs.clear()
    header = cloud.invoke("acme", run)
    assert (header.status, header.owner) == (Status.WAITING, None)
    assert cloud.types(run)[-4:] == ["tool.started", "tool.queued", "tool.completed", "run.waiting"]
    assert [(job.run_id, job.call_id) for job in cloud.queue.jobs] == [(run, "call_1_0")]
    # Waking a parked run, however often, writes nothing.
    assert [cloud.invoke("acme", run) for _ in range(3)] == [None] * 3
    cloud.run_until_idle()
    assert cloud.state(run).ended.answer == "Exported."
    assert cloud.invocations == 5


def test_a_queued_call_that_does_not_end_in_time_becomes_an_error_the_model_can_tell():
    cloud = SampleCloud(asks(("export", {"item": "a"})), says("It did not come."))
    run = cloud.ask(QUESTION)
    cloud.queue.send = lambda *ids, **_: None
    cloud.run_until_idle()
    assert (
        '"error":"expired"' in cloud.script.requests[-1].messages[-1]["content"][0]["toolResult"]["content"][0]["text"]
    )
    assert cloud.state(run).ended.answer == "It did not come."


def test_a_run_whose_whole_time_passes_while_it_waits_expires():
    cloud = SampleCloud(asks(("export", {"item": "a"})), says("Never."), caps={"max_wait_s": 3600})
    run = cloud.ask(QUESTION)
    cloud.queue.send = lambda *ids, **_: None
    cloud.run_until_idle()
    ended = cloud.state(run).ended
    assert (ended.status, ended.reason) == (Status.EXPIRED, "wait_expired")
    assert cloud.script.requests == cloud.script.requests[:1]
