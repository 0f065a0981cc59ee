"""Two workers on one run, and whatever else may happen to it meanwhile, in every order that Hypothesis thinks of.

An agent invocation is a zombie once the clock has passed its lease or its death was reported too early: it goes on
acting while its successor does. So are workers of the queue that have the same job. Whatever the order of their calls,
the run ends as if there had been one of each.
"""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.endings import EndReason
from agent.events import ToolOutcomeUnknown
from agent.runtime import Runtime
from agent.testing.crash import Process
from agent.testing.model import asks, says
from tests.crash.baton import Baton
from tests.demands import require_settled, require_sound
from tests.sample_agent import QUESTION, SampleCloud

TURNS = (
    asks(("pay", {"item": "a"}), ("save", {"item": "b"}), ("ship", {"item": "c"})),
    asks(("export", {"item": "d"}), ("look", {"item": "e"})),
    says("All", " done."),
)
ONCE = {"pay", "ship"}


class RacedCloud(SampleCloud):
    """A holder here listens only between items: what it hears in real time would not be the schedule's to order."""

    def runtime(self, process: Process | None = None) -> Runtime:
        return replace(super().runtime(process), listen_every_s=60)


def actors(cloud: RacedCloud, run: str) -> dict[str, Callable[[], object]]:
    def invoke():
        cloud.invoke("acme", run)

    def work():
        # A worker for whatever job is there, which stays there for the next one: SQS delivers at least once.
        pause("the queue")
        if cloud.queue.jobs:
            cloud.work(cloud.queue.jobs[0])

    def pass_the_lease():
        pause("time")
        cloud.clock.advance(301)

    def pass_a_minute():
        pause("time")
        cloud.clock.advance(61)
        cloud.sweep()

    def report_a_death():
        pause("a report")
        owner = cloud.log.header("acme", run).owner
        if owner:
            cloud.bury("acme", run, owner=owner)

    def pause(name):
        cloud.strike.hits(name)

    return {act.__name__: act for act in (invoke, work, pass_the_lease, pass_a_minute, report_a_death)}


OTHERS = ("invoke", "work", "work", "pass_the_lease", "pass_a_minute", "report_a_death")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(OTHERS), max_size=5), st.lists(st.integers(0, 6), max_size=120))
def test_however_two_workers_and_the_world_take_turns_the_run_ends_as_with_one(others, schedule):
    baton = Baton(schedule)
    cloud = RacedCloud(*TURNS, caps={"max_wait_s": 3000}, strike=baton)
    run = cloud.ask(QUESTION)
    acts = actors(cloud, run)
    baton.race([acts["invoke"], acts["invoke"], *(acts[other] for other in others)])
    cloud.run_until_idle()
    require_one_worth(cloud, run)


def require_one_worth(cloud: SampleCloud, run: str) -> None:
    events = cloud.events(run)
    state = require_sound(cloud.log.header("acme", run), events)
    require_settled(state, events)
    spent = state.header.spent_micros
    for balance in cloud.ledger.balances("acme", "ann", at=cloud.clock.now()).values():
        assert balance.limit_micros - balance.remaining_micros == spent
    for name, count in cloud.effects.items():
        assert count == 1 or name.split()[0] not in ONCE, name
    if state.header.reason is not EndReason.ANSWERED:
        # Holders whose lease ran out in a model call count against its attempts.
        assert state.header.reason in {EndReason.MODEL_UNAVAILABLE, EndReason.INTERNAL_ERROR, EndReason.CANCELLED}
        return
    assert state.ended.answer == "All done."
    for turn in state.turns:
        for call in turn.completed.decisions:
            effects = cloud.effects[f"{call.tool} {run}/{call.call_id}"]
            assert effects >= 1 or isinstance(turn.results[call.call_id], ToolOutcomeUnknown), call.call_id
