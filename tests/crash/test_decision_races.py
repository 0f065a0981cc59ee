"""Two approvers, the user who gives up, expiry, holders and workers on one run, in every order Hypothesis thinks of.

Whatever the order: what a person was told they decided is what happened to the call, nobody decides twice, and a call
runs at most once, and only under a yes that was given in time.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.endings import EndReason
from agent.errors import Conflict, TryLater
from agent.events import ApprovalDecided, ToolCompleted
from agent.runtime import Runtime
from agent.testing.crash import Process
from agent.testing.model import asks, says
from agent.testing.rooms import FixedPolicy
from tests.crash.baton import Baton
from tests.demands import require_settled, require_sound
from tests.sample_agent import QUESTION, SampleCloud

CALLS = (("pay", {"item": "a"}), ("ship", {"item": "b"}), ("wire", {"item": "c"}), ("export", {"item": "d"}))
POLICY = FixedPolicy({"pay": "ask", "ship": "ask", "wire": "ask"})
CAPS = {"max_approval_wait_s": 600, "max_wait_s": 900}


class RacedCloud(SampleCloud):
    """A holder here listens only between items: what it hears in real time would not be the schedule's to order."""

    def runtime(self, process: Process | None = None) -> Runtime:
        return replace(super().runtime(process), listen_every_s=60)


def actors(cloud: RacedCloud, run: str, told: list[ApprovalDecided]) -> dict[str, Callable[[], object]]:
    def decide(decision: str, who: str) -> None:
        cloud.strike.hits("a person")
        approver = cloud.approver(who)
        for asked in cloud.state(run).header.approvals:
            fitting = decision if asked.kind == "approval" else "happened"
            with suppress(TryLater, Conflict):
                process = Process(cloud.strike)
                told.append(cloud.decide(asked.approval_id, fitting, by=approver, reason="I looked", process=process))

    def invoke() -> None:
        cloud.invoke("acme", run)

    def work() -> None:
        cloud.strike.hits("the queue")
        if cloud.queue.jobs:
            cloud.work(cloud.queue.jobs[0])

    def cancel() -> None:
        with suppress(TryLater, Conflict):
            cloud.cancel(run, process=Process(cloud.strike))

    def pass_a_minute() -> None:
        cloud.strike.hits("time")
        cloud.clock.advance(61)
        cloud.sweep()

    def pass_the_lease() -> None:
        cloud.strike.hits("time")
        cloud.clock.advance(301)

    def expire() -> None:
        cloud.strike.hits("time")
        cloud.clock.advance(600)

    return {
        "approve": lambda: decide("approve", "bea"),
        "reject": lambda: decide("reject", "cem"),
        **{act.__name__: act for act in (invoke, work, cancel, pass_a_minute, pass_the_lease, expire)},
    }


ENDS = {
    *(EndReason.ANSWERED, EndReason.CANCELLED),
    *(EndReason.WAIT_EXPIRED, EndReason.MAX_DURATION),  # so much time may pass
    EndReason.MODEL_UNAVAILABLE,  # holders whose lease ran out in a model call count against its attempts
}
OTHERS = ("approve", "reject", "approve", "invoke", "work", "cancel", "pass_a_minute", "pass_the_lease", "expire")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(OTHERS), max_size=6), st.lists(st.integers(0, 7), max_size=150))
def test_however_people_and_time_take_turns_what_was_decided_is_what_happened(
    others: list[str], schedule: list[int]
) -> None:
    baton = Baton([])
    cloud = RacedCloud(asks(*CALLS), says("All done."), policy=POLICY, caps=CAPS, strike=baton)
    run = cloud.ask(QUESTION)
    cloud.invoke(*cloud.wake.runs.popleft())
    told: list[ApprovalDecided] = []
    acts = actors(cloud, run, told)
    baton._schedule = list(schedule)
    baton.race([acts["approve"], acts["reject"], *(acts[other] for other in others)])
    cloud.run_until_idle()
    require_as_decided(cloud, run, told)


def require_as_decided(cloud: SampleCloud, run: str, told: list[ApprovalDecided]) -> None:
    events = cloud.events(run)
    state = require_sound(cloud.log.header("acme", run), events)
    require_settled(state, events)
    assert state.header.reason in ENDS
    decided = [event.data for event in events if isinstance(event.data, ApprovalDecided)]
    assert len({decision.approval_id for decision in decided}) == len(decided)
    assert all(decision in decided for decision in told)
    [turn] = state.turns[:1]
    for call in turn.completed.decisions:
        effects = cloud.effects[f"{call.tool} {run}/{call.call_id}"]
        given_leave = turn.decided.get(call.call_id)
        if call.tool != "export":
            assert effects <= 1
            assert effects == 0 or (given_leave is not None and given_leave.decision == "approve")
        result = turn.results.get(call.call_id)
        if isinstance(result, ToolCompleted) and result.did_not_run:
            assert effects == 0, result.content
