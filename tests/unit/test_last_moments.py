"""What the queue's worker and the holder write about one call in the same moment: one result, and a true one."""

import pytest

from agent.events import Payload, ToolCompleted, ToolOutcomeUnknown, ToolStarted
from agent.testing.model import asks, says
from tests.demands import require_settled, require_sound
from tests.sample_agent import ALLOWANCES, QUESTION, SampleCloud

CALL = "call_1_0"


def parked(tool: str, **around: object) -> tuple[SampleCloud, str]:
    """Return a run that waits for a queued call whose job has not come, and its cloud."""
    cloud = SampleCloud(asks((tool, {"item": "a"})), says("Done."), **around)
    run = cloud.ask(QUESTION)
    cloud.invoke(*cloud.wake.runs.popleft())
    cloud.queue.jobs.clear()
    return cloud, run


def slip_in(cloud: SampleCloud, run: str, *payloads: Payload) -> None:
    """Have a worker write first, in the moment in which the holder writes what it has judged."""
    append = cloud.log.append

    def second(header, written, **how):
        if any(isinstance(payload, ToolCompleted | ToolOutcomeUnknown) for payload in written):
            cloud.log.append = append
            append(cloud.log.header("acme", run), payloads, at=cloud.clock.now(), outside=True)
        return append(header, written, **how)

    cloud.log.append = second


def test_a_call_that_begins_as_its_time_is_up_is_not_told_as_one_that_did_not_run():
    cloud, run = parked("ship", allowances_of_tools=ALLOWANCES)
    slip_in(cloud, run, ToolStarted(call_id=CALL, tool="ship"))
    cloud.effects[f"ship {run}/{CALL}"] += 1
    cloud.clock.advance(1201)
    cloud.invoke("acme", run)
    cloud.run_until_idle()
    state = require_sound(cloud.log.header("acme", run), cloud.events(run))
    require_settled(state, cloud.events(run))
    assert isinstance(state.turns[0].results[CALL], ToolOutcomeUnknown)
    assert cloud.allowances.used("acme", "ann", "ship", ["count.user_day"], at=cloud.clock.now()) == {
        "count.user_day": 1
    }


@pytest.mark.parametrize(("tool", "left_s"), [("ship", 1201), ("post", 2349)])
def test_a_result_that_comes_as_its_time_is_up_is_the_only_one(tool, left_s):
    cloud, run = parked(tool)
    started = ToolStarted(call_id=CALL, tool=tool)
    cloud.log.append(cloud.log.header("acme", run), [started], at=cloud.clock.now(), outside=True)
    if tool == "post":  # a person is asked, and their time passes, too
        cloud.clock.advance(1201)
        cloud.invoke("acme", run)
    came = ToolCompleted(call_id=CALL, tool=tool, outcome="ok", content='{"done":"it"}', duration_ms=1)
    slip_in(cloud, run, came)
    cloud.clock.advance(left_s)
    cloud.invoke("acme", run)
    cloud.run_until_idle()
    state = require_sound(cloud.log.header("acme", run), cloud.events(run))
    require_settled(state, cloud.events(run))
    assert state.turns[0].results[CALL] == came
