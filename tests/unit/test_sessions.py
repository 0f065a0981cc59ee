"""What a run is told of the earlier runs of its session."""

from agent import sessions
from agent.testing.model import says
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
