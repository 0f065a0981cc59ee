"""Stopped at any call to the outside, what calls used up over runs is what ran; more only where nobody knows."""

from collections.abc import Callable
from contextlib import suppress

import pytest

from agent import allowances
from agent.errors import Conflict, TryLater
from agent.events import ToolCompleted
from agent.limits import LimitScope
from agent.run_state import RunState
from agent.testing.crash import Killed, Process, Strike
from agent.testing.model import asks, says
from agent.testing.rooms import FixedPolicy
from tests.demands import require_counted, require_settled, require_sound
from tests.sample_agent import ALLOWANCES, QUESTION, SampleCloud

RUN = f"run_{1:026d}"


def counting(strike: Strike, *calls: tuple[str, int], policy: FixedPolicy | None = None) -> SampleCloud:
    asked = asks(*((name, {"item": f"{n}", "count": count}) for n, (name, count) in enumerate(calls)))
    return SampleCloud(asked, says("Done."), allowances_of_tools=ALLOWANCES, policy=policy, strike=strike)


def once(strike: Strike) -> SampleCloud:
    return counting(strike, ("pay", 3), ("pay", 4))


def again_under_the_same_key(strike: Strike) -> SampleCloud:
    return counting(strike, ("save", 3), ("look", 4))


def looked_into_by_a_person(strike: Strike) -> SampleCloud:
    cloud = counting(strike, ("wire", 3), ("post", 4))

    def look_in() -> None:
        for asked in cloud.state(RUN).header.approvals:
            happened = cloud.effects[f"{asked.tool} {RUN}/{asked.call_id}"]
            with suppress(Killed, TryLater, Conflict):
                cloud.decide(asked.approval_id, "happened" if happened else "did_not_happen", reason="I looked.")

    cloud.each_minute = look_in
    return cloud


def through_the_queue(strike: Strike) -> SampleCloud:
    return counting(strike, ("export", 3), ("ship", 4))


def over_the_limit(strike: Strike) -> SampleCloud:
    cloud = counting(strike, ("pay", 60), ("pay", 60), ("ship", 200), ("pay", 40))
    cloud.limits.change(LimitScope(), "pay.count.user_day", 100)
    cloud.limits.change(LimitScope(), "ship.calls.user_minute", 0)
    return cloud


def approved(strike: Strike) -> SampleCloud:
    cloud = counting(strike, ("pay", 3), ("ship", 4), policy=FixedPolicy({"pay": "ask", "ship": "ask"}))

    def look_in() -> None:
        for asked in cloud.state(RUN).header.approvals:
            with suppress(Killed, TryLater, Conflict):
                cloud.decide(asked.approval_id, process=Process(cloud.strike))

    cloud.each_minute = look_in
    return cloud


SCENARIOS: dict[str, Callable[[Strike], SampleCloud]] = {
    scenario.__name__: scenario
    for scenario in (
        once,
        again_under_the_same_key,
        looked_into_by_a_person,
        through_the_queue,
        over_the_limit,
        approved,
    )
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_crash_point(name: str, crash_points: Callable[[str, int], None]) -> None:
    calm = SCENARIOS[name](Strike())
    check(calm, "undisturbed")
    assert "MemoryAllowances.take" in calm.strike.calls
    points = 0
    for strike, how in calm.strike.every():
        where = f"{name}: {how}"
        check(SCENARIOS[name](strike), where)
        points += 1
    crash_points(f"allowances {name}", points)


@pytest.mark.parametrize(
    ("broken", "at"),
    [
        pytest.param(lambda state: [d.call_id for d in state.turns[0].completed.decisions], None, id="all flows back"),
        pytest.param(lambda state: [], "MemoryAllowances.take", id="nothing flows back"),
    ],
)
def test_with_the_giving_back_broken_on_purpose_the_count_is_found_wrong(
    monkeypatch: pytest.MonkeyPatch, broken: Callable[[RunState], list[str]], at: str | None
) -> None:
    calm = once(Strike())
    check(calm, "undisturbed")
    monkeypatch.setattr(allowances, "unused", broken)
    # A taking whose reply is lost: the call does not run, though it was counted.
    struck = Strike() if at is None else Strike(at=calm.strike.calls.index(at), when="after", error=True)
    with pytest.raises(AssertionError):
        check(once(struck), "broken")


def check(cloud: SampleCloud, where: str) -> None:
    assert cloud.ask(QUESTION) == RUN
    cloud.run_until_idle()
    header, events = cloud.log.header("acme", RUN), cloud.events(RUN)
    state = require_sound(header, events, where)
    require_settled(state, events, where)
    require_counted(cloud, state, where)
    for decision in state.turns[0].completed.decisions:
        result = state.turns[0].results.get(decision.call_id)
        if isinstance(result, ToolCompleted) and "limit_reached" in result.content:
            assert cloud.effects[f"{decision.tool} {RUN}/{decision.call_id}"] == 0, where
