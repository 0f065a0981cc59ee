"""Nothing waits unseen, and looking after it twice is harmless."""

from datetime import timedelta

from agent.errors import StoreUnavailable
from agent.sweep import Sweeper
from agent.testing.model import asks, says
from tests.sample_agent import QUESTION, SampleCloud


def sweeper(cloud):
    return Sweeper(
        log=cloud.log, ledger=cloud.ledger, wake=cloud.wake, dispatcher=cloud.dispatcher(), clock=cloud.clock
    )


def test_a_run_whose_wake_was_lost_is_woken_after_a_minute_with_growing_pauses():
    cloud = SampleCloud(says("Done."))
    run = cloud.ask(QUESTION)
    cloud.wake.runs.clear()
    woken = []
    for minute in range(1, 61):
        cloud.clock.advance(60)
        if sweeper(cloud).sweep(limit=10)["woken"]:
            woken.append(minute)
    assert woken == [1, 2, 4, 8, 16, 31, 46]
    assert {run_id for _, run_id in cloud.wake.runs} == {run}


def test_a_run_is_moved_on_before_it_is_woken_so_one_that_breaks_the_wake_blocks_no_other():
    cloud = SampleCloud(says("Done."))
    bad, good = cloud.ask(QUESTION), cloud.ask(QUESTION)
    cloud.wake.runs.clear()
    wake = cloud.wake.wake

    def broken(tenant_id, run_id, **options):
        if run_id == bad:
            raise StoreUnavailable("no")
        wake(tenant_id, run_id, **options)

    cloud.wake.wake = broken
    cloud.clock.advance(61)
    assert dict(sweeper(cloud).sweep(limit=10)) == {"failed": 1, "woken": 1}
    assert list(cloud.wake.runs) == [("acme", good)]
    assert cloud.log.header("acme", bad).due_at > cloud.clock.now()


def test_a_run_that_moved_on_meanwhile_is_left_alone():
    cloud = SampleCloud(says("Done."))
    run = cloud.ask(QUESTION)
    seen = cloud.log.header("acme", run)
    cloud.run_until_idle()
    cloud.log.due_runs = lambda now, *, limit: [seen]
    assert dict(sweeper(cloud).sweep(limit=10)) == {"moved_on": 1}


def test_an_ended_runs_money_is_returned_when_its_holder_could_not():
    cloud = SampleCloud(says("Done."))
    run = cloud.ask(QUESTION)
    give_back = cloud.ledger.give_back

    def unreachable(*_, **__):
        raise StoreUnavailable("no")

    cloud.ledger.give_back = unreachable
    cloud.invoke("acme", run)
    assert cloud.state(run).is_over
    assert "budget.returned" not in cloud.types(run)
    cloud.ledger.give_back = give_back
    cloud.clock.advance(61)
    assert dict(sweeper(cloud).sweep(limit=10)) == {"settled": 1}
    cloud.clock.advance(3600)
    assert dict(sweeper(cloud).sweep(limit=10)) == {}
    assert cloud.types(run).count("budget.returned") == 1
    assert cloud.ledger.balances("acme", "ann", at=cloud.clock.now())["tenant"].remaining_micros == 10**12 - 200


def test_the_death_of_the_holder_wakes_the_run_at_once_and_is_recorded_once():
    cloud = SampleCloud(asks(("export", {"item": "a"})), says("Done."))
    run = cloud.ask(QUESTION)
    cloud.wake.runs.clear()
    claimed = cloud.log.append(cloud.log.header("acme", run), [claim("dead", cloud.clock.now())], at=cloud.clock.now())
    assert claimed.has_live_holder(cloud.clock.now())
    for _ in range(2):
        sweeper(cloud).bury("acme", run, owner="dead", cause="RetriesExhausted")
    assert cloud.types(run)[-1] == "worker.lost"
    assert list(cloud.wake.runs) == [("acme", run)]
    cloud.run_until_idle()
    assert cloud.state(run).ended.answer == "Done."


def claim(owner, now):
    from agent.events import RunClaimed

    return RunClaimed(owner=owner, epoch=1, lease_until=now + timedelta(minutes=5))


def test_the_death_of_an_invocation_that_held_nothing_wakes_nobody():
    cloud = SampleCloud(says("Done."))
    run = cloud.ask(QUESTION)
    cloud.wake.runs.clear()
    sweeper(cloud).bury("acme", run, owner="never claimed", cause="RetriesExhausted")
    sweeper(cloud).bury("acme", "run_00000000000000000000000099", owner="x", cause="RetriesExhausted")
    assert not cloud.wake.runs
    assert cloud.types(run) == ["run.created"]
