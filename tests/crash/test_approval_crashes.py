"""Stopped at any call to the outside, also at the approver's own door, what a person approved is done at most once."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import pytest

from agent.errors import AlreadyDecided, Conflict, TryLater
from agent.events import ApprovalDecided, BudgetReturned, ToolCompleted, ToolOutcomeUnknown, ToolStarted
from agent.run_state import fold
from agent.testing.crash import Killed, Process, Strike
from agent.testing.model import asks, says
from agent.testing.rooms import FixedPolicy
from tests.demands import is_refused
from tests.sample_agent import QUESTION, SampleCloud

POLICY = FixedPolicy({"pay": "ask", "save": "ask", "ship": "ask"})
RUN = f"run_{1:026d}"


def approving(strike: Strike, *calls: str, decision: str = "approve") -> SampleCloud:
    """Return a cloud in which an approver looks in each minute, and tries again after a failure."""
    cloud = SampleCloud(asks(*((name, {"item": name}) for name in calls)), says("Done."), policy=POLICY, strike=strike)

    def look_in() -> None:
        for asked in cloud.state(RUN).header.approvals:
            with suppress(Killed, TryLater, Conflict):
                cloud.decide(asked.approval_id, decision, process=Process(cloud.strike))

    cloud.each_minute = look_in
    return cloud


def once(strike: Strike) -> SampleCloud:
    return approving(strike, "pay")


def again_under_the_same_key(strike: Strike) -> SampleCloud:
    return approving(strike, "save")


def through_the_queue(strike: Strike) -> SampleCloud:
    return approving(strike, "ship")


def mixed(strike: Strike) -> SampleCloud:
    return approving(strike, "look", "pay", "export", "unheard_of", "save")


def rejected(strike: Strike) -> SampleCloud:
    return approving(strike, "pay", "save", decision="reject")


SCENARIOS: dict[str, Callable[[Strike], SampleCloud]] = {
    scenario.__name__: scenario for scenario in (once, again_under_the_same_key, through_the_queue, mixed, rejected)
}


def ended(cloud: SampleCloud) -> object:
    assert cloud.ask(QUESTION) == RUN
    cloud.run_until_idle()
    return cloud.state(RUN).ended


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_crash_point(name, crash_points):
    calm = SCENARIOS[name](Strike())
    expected = ended(calm)
    check(calm, name, "undisturbed")
    points = 0
    for strike, how in calm.strike.every():
        cloud = SCENARIOS[name](strike)
        where = f"{name}: {how}"
        assert ended(cloud) == expected, where
        check(cloud, name, where)
        points += 1
    crash_points(name, points)
    assert {"MemoryRunLog.append", "MemoryWake.wake"} <= set(calm.strike.calls)
    assert ("MemoryDirectory.principal" in calm.strike.calls) is (name != "rejected")
    assert points >= 40


def check(cloud: SampleCloud, name: str, where: str) -> None:
    events = cloud.events(RUN)
    assert [event.seq for event in events] == list(range(1, len(events) + 1)), where
    [turn, _] = fold(events).turns
    decided = [event.data for event in events if isinstance(event.data, ApprovalDecided)]
    assert len({decision.approval_id for decision in decided}) == len(decided), where
    results = Counter(e.data.call_id for e in events if isinstance(e.data, ToolCompleted | ToolOutcomeUnknown))
    for index, call in enumerate(turn.completed.decisions):
        assert results[call.call_id] == (call.verdict != "deny"), where
        effects = cloud.effects[f"{call.tool} {RUN}/{call.call_id}"]
        if name == "rejected" or call.verdict == "deny":
            assert effects == 0, (where, index)
        elif call.tool in {"pay", "ship"}:
            assert effects <= 1, (where, index)
        elif not is_refused(turn.results[call.call_id], where):
            assert effects >= 1, (where, index)
    for start in (event.data for event in events if isinstance(event.data, ToolStarted)):
        if start.tool in {"pay", "save"}:
            assert start.approval_id in {decision.approval_id for decision in decided}, where
    assert sum(isinstance(event.data, BudgetReturned) for event in events) == 1, where


def test_an_approval_whose_reply_was_lost_stands_and_is_not_given_twice():
    cloud = once(Strike())
    cloud.each_minute = lambda: None
    cloud.ask(QUESTION)
    cloud.deliver()
    [asked] = cloud.state(RUN).header.approvals
    lost = Strike(at=1, when="after")
    with pytest.raises(Killed):
        cloud.decide(asked.approval_id, process=Process(lost))
    assert lost.calls == ["MemoryRunLog.events", "MemoryRunLog.append"]
    with pytest.raises(AlreadyDecided):
        cloud.decide(asked.approval_id)
    cloud.run_until_idle()
    assert cloud.effects == {f"pay {RUN}/call_1_0": 1}
