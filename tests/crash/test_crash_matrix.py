"""Stopped before or after every single call to the outside, a run resumes and ends as if nothing had happened.

For each scenario the undisturbed run is counted first. Then, for each of its calls: the process is killed before the
call, or after it took effect with the reply lost; and the call fails with its port's error, before or after. The world
goes on (the on-failure record, redelivery, the sweep), and what must hold is checked.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from agent.endings import Status
from agent.errors import ModelError, ModelNotOffered, ModelThrottled, RunOver, SessionBusy, TryLater
from agent.events import Decision, Event, ModelStarted, RunEnded, RunWaiting, ToolCompleted, Usage, Verdict
from agent.ports.model import Model, ModelPart, ModelRequest, TextDelta
from agent.release import ModelChoice
from agent.testing.breakers import STEADY, MemoryBreakers
from agent.testing.crash import Killed, Process, Strike
from agent.testing.limits import AMPLE
from agent.testing.model import asks, says
from tests.demands import is_refused, require_session_goes_on, require_settled, require_sound, results_of
from tests.sample_agent import FALLBACK, MODEL, QUESTION, SampleCloud

ONCE = {"pay", "ship"}


def inline_read(strike: Strike) -> SampleCloud:
    return SampleCloud(asks(("look", {"item": "a"})), says("Found it."), strike=strike)


def once(strike: Strike) -> SampleCloud:
    return SampleCloud(asks(("pay", {"item": "a"}), ("pay", {"item": "b"})), says("Paid."), strike=strike)


def mixed_turn(strike: Strike) -> SampleCloud:
    calls = [(name, {"item": name}) for name in ("look", "export", "pay", "unheard_of", "save", "ship", "look")]
    return SampleCloud(asks(*calls), asks(("look", {"item": "nothing"})), says("All done."), strike=strike)


def queued(strike: Strike) -> SampleCloud:
    return SampleCloud(asks(("ship", {"item": "a"})), asks(("export", {"item": "b"})), says("Exported."), strike=strike)


def given_up(strike: Strike) -> SampleCloud:
    # No worker has the time that the tool may take, so the job comes again and again, and is a dead letter at last.
    cloud = SampleCloud(asks(("ship", {"item": "a"})), says("Sorry."), strike=strike)
    cloud.worker_time = timedelta(seconds=60)
    return cloud


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


def cancelled_while_it_waits(strike: Strike) -> SampleCloud:
    # Its job gets no slot, so it waits until its user, who asks until it is heard, gives up.
    cloud = SampleCloud(asks(("ship", {"item": "a"})), limits=replace(AMPLE, tenant_jobs=0), strike=strike)

    def cancel() -> None:
        with suppress(Killed, TryLater, RunOver):
            cloud.cancel(f"run_{1:026d}", process=Process(cloud.strike))

    cloud.each_minute = cancel
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


class FirstFails:
    """`ports.Model`: the release's own model always fails, the fallback plays the script."""

    def __init__(self, script: Model, error: ModelError) -> None:
        self._script, self._error = script, error

    def stream(self, request: ModelRequest, *, timeout_s: float) -> Iterator[ModelPart]:
        if request.model_id == MODEL:
            raise self._error
        yield from self._script.stream(request, timeout_s=timeout_s)


def with_fallback(cloud: SampleCloud) -> SampleCloud:
    fallback = ModelChoice(id=FALLBACK, reason="another model that plays it", max_tokens=1000, timeout_s=30)
    cloud.release = cloud.release.model_copy(update={"fallback": fallback})
    return cloud


def falls_back(strike: Strike) -> SampleCloud:
    cloud = with_fallback(SampleCloud(asks(("save", {"item": "a"}), text="Let me."), says("Saved", "."), strike=strike))
    cloud.model = FirstFails(cloud.script, ModelNotOffered("no access"))
    return cloud


def a_breaker_opens(strike: Strike) -> SampleCloud:
    # Others' failures and one more open it, and that ends the pause before the next attempt.
    cloud = with_fallback(SampleCloud(asks(("look", {"item": "a"})), says("Found it."), strike=strike))
    cloud.model = FirstFails(cloud.script, ModelThrottled("slow down"))
    fail(cloud, f"model#{MODEL}", STEADY.failures - 1)
    return cloud


def fail(cloud: SampleCloud, name: str, times: int) -> None:
    for _ in range(times):
        MemoryBreakers(cloud.breakers, STEADY, cloud.clock).failed(name)


def half_open(cloud: SampleCloud, *names: str) -> SampleCloud:
    for name in names:
        fail(cloud, name, STEADY.failures)
    cloud.clock.advance(STEADY.open_s)
    return cloud


def a_model_is_probed(strike: Strike) -> SampleCloud:
    cloud = with_fallback(SampleCloud(asks(("save", {"item": "a"})), says("Saved."), strike=strike))
    return half_open(cloud, f"model#{MODEL}")


def tools_are_probed(strike: Strike) -> SampleCloud:
    calls = asks(("pay", {"item": "a"}), ("ship", {"item": "b"}))
    return half_open(SampleCloud(calls, says("Paid."), strike=strike), "tool#pay", "tool#ship")


def waiting_in_line(strike: Strike) -> SampleCloud:
    exports = asks(*(("export", {"item": item}) for item in "abc"))
    limits = replace(AMPLE, tenant_jobs=1)
    return SampleCloud(exports, says("Exported."), limits=limits, strike=strike)


def waiting_for_the_session(strike: Strike) -> SampleCloud:
    cloud = SampleCloud(asks(("export", {"item": "a"})), says("Exported."), strike=strike)
    cloud.ask("First, please.", session_id="s1")
    cloud.session_id = "s1"
    return cloud


PROOFS: dict[str, Callable[[SampleCloud], bool]] = {
    "cancelled_while_it_waits": lambda cloud: waits(cloud) == [("tool",)] and not cloud.effects,
    "given_up": lambda cloud: len(cloud.dead_letters) == 1 and not cloud.effects,
    "falls_back": lambda cloud: asked(cloud) == {MODEL: 2, FALLBACK: 2},
    "a_breaker_opens": lambda cloud: asked(cloud) == {MODEL: 1, FALLBACK: 2} and bool(cloud.breakers.open_until),
    "a_model_is_probed": lambda cloud: asked(cloud) == {MODEL: 2} and not cloud.breakers.open_until,
    "tools_are_probed": lambda cloud: len(cloud.effects) == 2 and not cloud.breakers.open_until,
    "waiting_in_line": lambda cloud: cloud.strike.calls.count("MemoryJobLines.take") > 3,
    "waiting_for_the_session": lambda cloud: ("session",) in waits(cloud),
}
"""That what a scenario is there for happens in it."""

PROBED = {"a_model_is_probed", "tools_are_probed"}


def asked(cloud: SampleCloud) -> Counter[str]:
    started = (event.data for run in runs(cloud) for event in cloud.events(run))
    return Counter(data.model_id for data in started if isinstance(data, ModelStarted))


def waits(cloud: SampleCloud) -> list[tuple[str, ...]]:
    waited = (event.data for run in runs(cloud) for event in cloud.events(run))
    return [data.waiting_for for data in waited if isinstance(data, RunWaiting)]


SCENARIOS: dict[str, Callable[[Strike], SampleCloud]] = {
    scenario.__name__: scenario
    for scenario in (
        inline_read,
        once,
        mixed_turn,
        queued,
        given_up,
        retried,
        cancelled,
        cancelled_while_it_waits,
        out_of_budget,
        out_of_turns,
        handed_over,
        in_a_session,
        falls_back,
        a_breaker_opens,
        a_model_is_probed,
        tools_are_probed,
        waiting_in_line,
        waiting_for_the_session,
    )
}


def runs(cloud: SampleCloud) -> list[str]:
    headers, _ = cloud.log.runs_of_user("acme", "ann", limit=10)
    return [header.run_id for header in headers]


def ended(cloud: SampleCloud) -> dict[str, RunEnded | None]:
    cloud.ask(QUESTION, session_id=cloud.session_id)
    cloud.run_until_idle()
    return {run: cloud.state(run).ended for run in runs(cloud)}


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_crash_point(name, crash_points):
    calm = SCENARIOS[name](Strike())
    expected = ended(calm)
    check(calm)
    assert PROOFS.get(name, bool)(calm)
    points = 0
    for strike, how in calm.strike.every():
        cloud = SCENARIOS[name](strike)
        where = f"{name}: {how}"
        assert ended(cloud) == expected, where
        check(cloud, where)
        if name in PROBED:
            require_closed_at_last(cloud, where)
        points += 1
    assert points >= 40
    crash_points(name, points)


def require_closed_at_last(cloud: SampleCloud, where: str) -> None:
    """Demand that no dead probe keeps a breaker shut: the next run some time later is the probe, and closes it."""
    cloud.strike = Strike()
    cloud.clock.advance(61)
    cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert cloud.breakers.open_until == {}, where


def test_every_crash_point_of_a_question_that_is_refused_while_another_is_worked_on(
    crash_points: Callable[[str, int], None],
) -> None:
    def knocking(strike: Strike) -> SampleCloud:
        cloud = SampleCloud(asks(("export", {"item": "a"})), says("Exported."))
        cloud.release = cloud.release.model_copy(update={"session_conflict": "refuse"})
        cloud.ask("First, please.", session_id="s1")
        cloud.strike = strike
        return cloud

    def knocked(cloud: SampleCloud) -> list[str]:
        """Return what a client is told who asks in the same session until it is heard."""
        told: list[str] = []
        while not told or not told[-1].startswith("run_"):
            try:
                process = Process(cloud.strike)
                told.append(cloud.ask(QUESTION, session_id="s1", idempotency_key="k", process=process))
            except (Killed, TryLater, SessionBusy) as trouble:
                told.append(type(trouble).__name__)
            if "SessionBusy" in told:
                cloud.run_until_idle()
        cloud.run_until_idle()
        return told

    calm = knocking(Strike())
    assert [word[:11] for word in knocked(calm)] == ["SessionBusy", "run_0000000"]
    check(calm)
    points = 0
    for strike, where in calm.strike.every():
        cloud = knocking(strike)
        assert "SessionBusy" in knocked(cloud), where
        assert [cloud.state(run).ended.answer for run in runs(cloud)] == ["Exported."] * 2, where
        check(cloud, where)
        points += 1
    crash_points("refused", points)


def check(cloud: SampleCloud, where: str = "undisturbed") -> None:
    for run in runs(cloud):
        check_run(cloud, run, where)


def check_run(cloud: SampleCloud, run: str, where: str) -> None:
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
    results = [result for result in results_of(events) if result.call_id == decision.call_id]
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
        assert results[0].outcome == "ok" or is_refused(results[0], where), where
    if results and isinstance(results[0], ToolCompleted) and results[0].outcome == "ok":
        assert effects >= 1, where
