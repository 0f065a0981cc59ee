"""Runs that wait for a day, and runs that wait again and again: without compute, and to their end."""

from datetime import timedelta

from agent.endings import EndReason, Status
from agent.testing.model import asks, says
from tests.demands import require_settled, require_sound
from tests.sample_agent import QUESTION, SampleCloud

A_DAY_S = 86_400
"""The longest that a release may let a run last, or wait."""
MINUTES = A_DAY_S // 60 - 2
TWENTY = 20


def test_a_run_parked_for_a_day_costs_no_invocation_and_resumes_in_a_new_process():
    caps = {"max_duration_s": A_DAY_S, "max_wait_s": A_DAY_S}
    cloud = SampleCloud(asks(("export", {"item": "a"})), says("Exported."), caps=caps)
    run = cloud.ask(QUESTION)
    cloud.invoke(*cloud.wake.runs.popleft())
    job = cloud.queue.jobs.popleft()
    parked = cloud.log.header("acme", run)
    assert (parked.status, parked.owner) == (Status.WAITING, None)
    for _ in range(MINUTES):
        cloud.clock.advance(60)
        cloud.sweep()
        assert not cloud.wake.runs
    assert cloud.invocations == 1
    assert cloud.log.header("acme", run) == parked
    cloud.queue.jobs.append(job)
    cloud.run_until_idle()
    state = cloud.state(run)
    assert (state.ended.reason, state.ended.answer) == (EndReason.ANSWERED, "Exported.")
    assert cloud.invocations == 2
    assert state.header.ended_at - state.header.created_at >= timedelta(minutes=MINUTES)


def test_a_run_with_twenty_queued_tools_one_after_another_ends():
    turns = [asks(("export", {"item": f"{number}"})) for number in range(TWENTY)]
    cloud = SampleCloud(*turns, says("All exported."), caps={"max_turns": TWENTY + 1, "max_tool_calls": TWENTY})
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    state = require_sound(cloud.log.header("acme", run), cloud.events(run))
    require_settled(state, cloud.events(run))
    assert state.ended.answer == "All exported."
    assert cloud.effects == {f"export {run}/call_{turn}_0": 1 for turn in range(1, TWENTY + 1)}
    # One invocation to begin, and one for each result: a chain in which the run's own caps alone are the guard.
    assert cloud.invocations == TWENTY + 1
