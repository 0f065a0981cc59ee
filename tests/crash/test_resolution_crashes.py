"""Stopped at any call to the outside, the approver's own included, a call nobody saw the end of is looked into once."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from agent.errors import Conflict, ToolLost, TryLater
from agent.events import ApprovalDecided, ToolCompleted, ToolOutcomeUnknown
from agent.testing.crash import Killed, Process, Strike
from agent.testing.model import asks, says
from tests.demands import require_session_goes_on, require_settled, require_sound
from tests.sample_agent import QUESTION, SampleCloud

RUN = f"run_{1:026d}"
ASKING = {"wire", "post"}


def losing(strike: Strike, *calls: str, acts: bool = True, looks: bool = True) -> SampleCloud:
    """Return a cloud that loses each call once, and an approver who looks in each minute and tells the truth."""
    cloud = SampleCloud(
        asks(*((name, {"item": name}) for name in calls)),
        says("Done."),
        caps={"max_approval_wait_s": 600},
        strike=strike,
    )
    run_tool, lost = cloud.tool_runner.run, set[str]()

    def lose(tenant_id: str, run_id: str, call_id: str, **options: Any) -> Any:
        if call_id in lost:
            return run_tool(tenant_id, run_id, call_id, **options)
        lost.add(call_id)
        if acts:
            run_tool(tenant_id, run_id, call_id, **options)
        raise ToolLost("died")

    def look_in() -> None:
        for asked in cloud.state(RUN).header.approvals:
            finding = "happened" if cloud.effects[f"{asked.tool} {RUN}/{asked.call_id}"] else "did_not_happen"
            with suppress(Killed, TryLater, Conflict):
                process = Process(cloud.strike)
                cloud.decide(asked.approval_id, finding, reason="I looked.", process=process)

    cloud.tool_runner.run = lose  # type: ignore[method-assign]
    if looks:
        cloud.each_minute = look_in
    return cloud


def happened(strike: Strike) -> SampleCloud:
    return losing(strike, "wire")


def did_not_happen(strike: Strike) -> SampleCloud:
    return losing(strike, "wire", acts=False)


def through_the_queue(strike: Strike) -> SampleCloud:
    return losing(strike, "post")


def mixed(strike: Strike) -> SampleCloud:
    return losing(strike, "look", "wire", "unheard_of", "post", "pay", "export")


def nobody_looks(strike: Strike) -> SampleCloud:
    return losing(strike, "wire", "post", looks=False)


SCENARIOS: dict[str, Callable[[Strike], SampleCloud]] = {
    scenario.__name__: scenario for scenario in (happened, did_not_happen, through_the_queue, mixed, nobody_looks)
}


def ended(cloud: SampleCloud) -> object:
    assert cloud.ask(QUESTION) == RUN
    cloud.run_until_idle()
    return cloud.state(RUN).ended


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_crash_point(name: str, crash_points: Callable[[str, int], None]) -> None:
    calm = SCENARIOS[name](Strike())
    expected = ended(calm)
    check(calm, "undisturbed")
    asked = [event.data.call_id for event in calm.events(RUN) if event.type == "approval.requested"]
    assert asked
    decided = calm.types(RUN).count("approval.decided")
    assert decided == (0 if name == "nobody_looks" else len(asked))
    points = 0
    for strike, how in calm.strike.every():
        cloud = SCENARIOS[name](strike)
        where = f"{name}: {how}"
        assert ended(cloud) == expected, where
        check(cloud, where)
        points += 1
    crash_points(f"resolution {name}", points)
    assert points >= 40


def check(cloud: SampleCloud, where: str) -> None:
    events, header = cloud.events(RUN), cloud.log.header("acme", RUN)
    assert header is not None
    state = require_sound(header, events, where)
    require_settled(state, events, where)
    require_session_goes_on(cloud.log, header)
    found = Counter(event.data.approval_id for event in events if isinstance(event.data, ApprovalDecided))
    assert set(found.values()) <= {1}, where
    [turn, _] = state.turns
    for call in turn.completed.decisions:
        result = turn.results.get(call.call_id)
        effects = cloud.effects[f"{call.tool} {RUN}/{call.call_id}"]
        if call.verdict == "deny":
            assert (result, effects) == (None, 0), where
            continue
        assert effects <= 1 or call.tool in {"look", "export"}, where
        finding = turn.findings.get(call.call_id)
        if isinstance(result, ToolCompleted) and result.outcome == "ok":
            assert effects >= 1, where
        if isinstance(result, ToolCompleted) and finding is not None:
            assert ("happened" if effects else "did_not_happen") == finding.decision, where
            assert finding.decision in result.content, where
        if isinstance(result, ToolOutcomeUnknown) and call.tool in ASKING:
            # Unknown to the end only where somebody was asked in vain.
            assert result.cause == "unresolved", where
            assert call.call_id in turn.checks, where
