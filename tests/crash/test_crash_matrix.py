"""Stopped before or after every single call to the outside, a run resumes and ends as if nothing had happened.

For each scenario the undisturbed run is counted first. Then, for each of its calls: the process is killed before the
call, or after it took effect with the reply lost; and the call fails with its port's error, before or after. The world
goes on (the on-failure record, redelivery, the sweep), and what must hold is checked.
"""

import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from agent.errors import ModelThrottled, RunOver
from agent.events import Decision, Event, RunEnded, Status, ToolCompleted, ToolOutcomeUnknown, Usage, Verdict
from agent.ports import TextDelta
from agent.testing.crash import Strike
from agent.testing.model import asks, says
from tests.demands import require_session_goes_on, require_settled, require_sound
from tests.sample_agent import QUESTION, SampleCloud

ONCE = {"pay", "ship"}


def inline_read(strike: Strike) -> SampleCloud:
    return SampleCloud(asks(("look", {"item": "a"})), says("Found it."), strike=strike)


def once(strike: Strike) -> SampleCloud:
    return SampleCloud(asks(("pay", {"item": "a"}), ("pay", {"item": "b"})), says("Paid."), strike=strike)


def mixed_turn(strike: Strike) -> SampleCloud:
    calls = [(name, {"item": name}) for name in ("look", "export", "pay", "unheard_of", "save", "ship", "look")]
    return SampleCloud(asks(*calls), asks(("look", {"item": "nothing"})), says("All done."), strike=strike)


def queued(strike: Strike) -> SampleCloud:
    return SampleCloud(asks(("export", {"item": "a"})), asks(("ship", {"item": "b"})), says("Exported."), strike=strike)


def retried(strike: Strike) -> SampleCloud:
    throttled = [[ModelThrottled("slow down")]]
    return SampleCloud(
        asks(("save", {"item": "a"})), says("Saved."), failing={0: throttled, 1: throttled}, strike=strike
    )


def cancelled(strike: Strike) -> SampleCloud:
    def cancel():
        with suppress(RunOver):
            cloud.cancel(f"run_{1:026d}")

    def until_over():
        for _ in range(1000):
            if cloud.log.header("acme", f"run_{1:026d}").is_over:
                return
            threading.Event().wait(0.002)

    cloud = SampleCloud(
        asks(("pay", {"item": "a"})),
        [TextDelta(0, "I am"), cancel, until_over, *says(" still talking.")],
        strike=strike,
    )
    return cloud


def out_of_budget(strike: Strike) -> SampleCloud:
    # A call reserves about 10,000 and costs 6,000: the second can't be paid, and nor can it after a crash.
    dear = asks(("look", {"item": "a"}), usage=Usage(input_tokens=2000, output_tokens=800))
    return SampleCloud(dear, says("Never."), caps={"limit_micros": 13_000, "slice_micros": 9_000}, strike=strike)


def out_of_turns(strike: Strike) -> SampleCloud:
    return SampleCloud(*[asks(("save", {"item": "a"}))] * 9, caps={"max_turns": 2}, strike=strike)


def handed_over(strike: Strike) -> SampleCloud:
    # After the first turn too little of the lease is left for a model call that may take 240 s.
    late = [lambda: cloud.clock.advance(200), *asks(("save", {"item": "a"}))]
    cloud = SampleCloud(late, says("Saved."), timeout_s=240, strike=strike)
    return cloud


def in_a_session(strike: Strike) -> SampleCloud:
    cloud = SampleCloud(says("Hello."), strike=Strike())
    cloud.ask("Hi.", session_id="s1")
    cloud.run_until_idle()
    cloud.strike = strike
    cloud.session_id = "s1"
    return cloud


SCENARIOS: dict[str, Callable[[Strike], SampleCloud]] = {
    scenario.__name__: scenario
    for scenario in (
        inline_read,
        once,
        mixed_turn,
        queued,
        retried,
        cancelled,
        out_of_budget,
        out_of_turns,
        handed_over,
        in_a_session,
    )
}


def ended(cloud: SampleCloud) -> tuple[str, RunEnded | None]:
    run = cloud.ask(QUESTION, session_id=cloud.session_id)
    cloud.run_until_idle()
    return run, cloud.state(run).ended


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_crash_point(name, crash_points):
    calm = SCENARIOS[name](Strike())
    expected = ended(calm)
    check(calm, expected[0])
    points = 0
    for at in range(len(calm.strike.calls)):
        for when in ("before", "after"):
            for error in (False, True):
                strike = Strike(at=at, when=when, error=error)
                cloud = SCENARIOS[name](strike)
                where = f"{name}: {'error' if error else 'kill'} {when} {calm.strike.calls[at]} (call {at})"
                assert ended(cloud) == expected, where
                check(cloud, expected[0], where)
                points += 1
    assert points >= 40
    crash_points(name, points)


def check(cloud: SampleCloud, run: str, where: str = "undisturbed") -> None:
    events = cloud.events(run)
    header = cloud.log.header("acme", run)
    state = require_sound(header, events, where)
    require_settled(state, events, where)
    require_session_goes_on(cloud.log, header)
    spent = sum(h.spent_micros for h in cloud.log.runs_of_user("acme", "ann", limit=10)[0])
    for balance in cloud.ledger.balances("acme", "ann", at=cloud.clock.now()).values():
        assert balance.limit_micros - balance.remaining_micros == spent, where
    for turn in state.turns:
        for decision in turn.completed.decisions:
            check_call(cloud, run, events, decision, where)


def check_call(cloud: SampleCloud, run: str, events: list[Event], decision: Decision, where: str) -> None:
    results = [
        event.data
        for event in events
        if isinstance(event.data, ToolCompleted | ToolOutcomeUnknown) and event.data.call_id == decision.call_id
    ]
    effects = cloud.effects[f"{decision.tool} {run}/{decision.call_id}"]
    if decision.verdict is not Verdict.ALLOW:
        assert (results, effects) == ([], 0), where
        return
    assert len(results) <= 1, where
    if decision.tool in ONCE:
        assert effects <= 1, where
    elif cloud.state(run).header.status is Status.COMPLETED and decision.arguments["item"] != "nothing":
        # What may run again does, until its result is there; a lost job of the queue is sent again.
        assert isinstance(results[0], ToolCompleted), where
        assert results[0].outcome == "ok", where
    if results and isinstance(results[0], ToolCompleted) and results[0].outcome == "ok":
        assert effects >= 1, where
