"""What a run is told of the earlier runs of its session."""

import pytest

from agent import sessions
from agent.errors import SessionBusy
from agent.testing.crash import Strike
from agent.testing.model import asks, says
from tests.sample_agent import SampleCloud


def talk(*questions):
    cloud = SampleCloud(says("ä" * 100))
    for question in questions:
        cloud.clock.advance(1)
        cloud.ask(question, session_id="s")
        cloud.run_until_idle()
    return cloud


def test_the_newest_texts_that_fit_are_told_oldest_first():
    cloud = talk("one", "two", "three")
    last = cloud.log.header("acme", cloud.ask("four", session_id="s"))
    told = sessions.load(cloud.log, last, max_bytes=2 * (200 + 5)).messages
    assert [message.text for message in told if message.role == "user"] == ["two", "three"]
    assert [message.role for message in told] == ["user", "assistant"] * 2
    assert sessions.load(cloud.log, last, max_bytes=202).messages == ()


def test_a_run_still_under_way_is_not_told():
    cloud = talk("one")
    cloud.ask("still running", session_id="s")
    last = cloud.log.header("acme", cloud.ask("three", session_id="s"))
    told = sessions.load(cloud.log, last, max_bytes=10_000).messages
    assert [message.text for message in told if message.role == "user"] == ["one"]


def test_a_run_without_a_session_is_told_nothing():
    cloud = talk("one")
    assert sessions.load(cloud.log, cloud.log.header("acme", cloud.ask("alone")), max_bytes=10_000).messages == ()


def parked(cloud, *, deliver=2):
    """Ask twice in one session, and let the second run be worked on while the first is not over."""
    first = cloud.ask("one", session_id="s")
    second = cloud.ask("two", session_id="s")
    for _ in range(deliver):
        cloud.invoke(*cloud.wake.runs.popleft())
    return first, second


def cloud_with_a_slow_first_run():
    return SampleCloud(asks(("export", {"item": "a"})), says("One."), says("Two."))


def test_the_second_run_of_a_session_waits_for_the_first_and_remembers_it():
    cloud = cloud_with_a_slow_first_run()
    first, second = parked(cloud)
    assert cloud.state(second).header.waiting_for == ("session",)
    cloud.run_until_idle()
    assert cloud.state(first).ended.answer == "One."
    assert [message.text for message in cloud.state(second).history] == ["one", "One."]
    waits = [event.data.waiting_for for event in cloud.events(second) if event.type == "run.waiting"]
    assert waits.count(("session",)) == 1


def test_the_end_of_a_run_wakes_the_next_of_its_session_at_once():
    cloud = cloud_with_a_slow_first_run()
    _, second = parked(cloud)
    cloud.deliver()  # no time passes, so no sweep
    assert cloud.state(second).ended.reason == "answered"


def test_who_was_created_first_goes_first_whichever_id_is_the_greater():
    cloud = cloud_with_a_slow_first_run()
    cloud.new_run_id = iter(["run_" + "2" * 26, "run_" + "1" * 26]).__next__
    first, second = parked(cloud)
    assert first > second
    assert cloud.state(second).header.waiting_for == ("session",)
    cloud.run_until_idle()
    assert [message.text for message in cloud.state(second).history] == ["one", "One."]


def test_waking_a_run_that_waits_for_its_session_writes_nothing():
    cloud = cloud_with_a_slow_first_run()
    _, second = parked(cloud)
    before = cloud.types(second)
    for _ in range(3):
        assert cloud.invoke("acme", second) is None
    assert cloud.types(second) == before


def test_a_run_that_waits_for_its_session_for_a_day_costs_no_invocation():
    day = {"max_duration_s": 86_400, "max_wait_s": 86_400}
    cloud = SampleCloud(asks(("export", {"item": "a"})), says("One."), says("Two."), caps=day)
    first, second = parked(cloud)
    job = cloud.queue.jobs.popleft()
    for _ in range(1400):
        cloud.clock.advance(60)
        cloud.sweep()
        assert not cloud.wake.runs
    assert cloud.invocations == 2
    cloud.queue.jobs.append(job)
    cloud.run_until_idle()
    assert [cloud.state(run).ended.reason for run in (first, second)] == ["answered", "answered"]


def test_a_run_goes_on_after_the_run_ahead_of_it_was_cancelled():
    cloud = cloud_with_a_slow_first_run()
    first, second = parked(cloud)
    cloud.cancel(first)
    cloud.run_until_idle()
    assert cloud.state(first).ended.reason == "cancelled"
    assert cloud.state(second).ended.reason == "answered"
    assert cloud.state(second).history[0].text == "one"


def test_a_run_that_waits_for_its_session_can_be_cancelled():
    cloud = cloud_with_a_slow_first_run()
    first, second = parked(cloud)
    cloud.cancel(second)
    cloud.run_until_idle()
    assert cloud.state(second).ended.reason == "cancelled"
    assert cloud.state(first).ended.reason == "answered"


def test_both_runs_of_a_session_are_answered_in_order_wherever_a_process_dies():
    calls = Strike()
    talk_of_two(calls)
    for at in range(len(calls.calls)):
        for when in ("before", "after"):
            cloud, second = talk_of_two(Strike(at=at, when=when))
            assert cloud.state(second).ended.reason == "answered", (at, when, calls.calls[at])
            assert [message.text for message in cloud.state(second).history] == ["one", "One."]


def talk_of_two(strike):
    cloud = SampleCloud(asks(("look", {"item": "a"})), says("One."), says("Two."), strike=strike)
    cloud.ask("one", session_id="s")
    second = cloud.ask("two", session_id="s")
    cloud.wake.runs.rotate(1)  # the second is woken first, and has to wait
    cloud.run_until_idle()
    return cloud, second


def test_a_release_may_refuse_a_second_run_until_the_first_is_over():
    cloud = cloud_with_a_slow_first_run()
    cloud.release = cloud.release.model_copy(update={"session_conflict": "refuse"})
    first = cloud.ask("one", session_id="s")
    with pytest.raises(SessionBusy):
        cloud.ask("two", session_id="s")
    cloud.ask("another session", session_id="t")
    cloud.ask("another user", session_id="s", user_id="bob")
    cloud.cancel(first)
    cloud.run_until_idle()
    cloud.ask("two", session_id="s")
