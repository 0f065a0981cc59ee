"""Nothing waits unseen, and looking after it twice is harmless."""

from datetime import timedelta

import pytest

from agent.errors import StoreUnavailable
from agent.testing.model import asks, says
from tests.sample_agent import QUESTION, SampleCloud


def test_a_run_whose_wake_was_lost_is_woken_after_a_minute_with_growing_pauses():
    cloud = SampleCloud(says("Done."))
    run = cloud.ask(QUESTION)
    cloud.wake.runs.clear()
    woken = []
    for minute in range(1, 61):
        cloud.clock.advance(60)
        if cloud.sweeper().sweep(limit=10)["woken"]:
            woken.append(minute)
    assert woken == [1, 2, 4, 8, 16, 31, 46, 60], "and at its deadline"
    assert {run_id for _, run_id in cloud.wake.runs} == {run}


def test_a_run_that_waits_behind_another_of_its_session_ends_at_its_deadline_and_no_pause_later():
    cloud = SampleCloud(asks(("export", {"item": "a"})), says("Done."), caps={"max_duration_s": 3000})
    first = cloud.ask(QUESTION, session_id="s")
    cloud.clock.advance(60)
    second = cloud.ask(QUESTION, session_id="s")
    for _ in range(60):
        while cloud.wake.runs:
            tenant_id, run = cloud.wake.runs.popleft()
            if run == second or cloud.state(first).header.status == "queued":
                cloud.invoke(tenant_id, run)
        cloud.clock.advance(60)
        cloud.sweep()
    header = cloud.state(second).header
    assert header.reason == "wait_expired"
    assert header.ended_at - header.deadline_at < timedelta(seconds=61)


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
    assert dict(cloud.sweeper().sweep(limit=10)) == {"failed": 1, "woken": 1}
    assert list(cloud.wake.runs) == [("acme", good)]
    assert cloud.log.header("acme", bad).due_at > cloud.clock.now()


def test_a_run_whose_log_can_not_be_read_blocks_neither_others_nor_lines_and_is_told_at_the_end():
    cloud = SampleCloud(asks(("export", {"item": "a"})), says("Done."))
    bad, good, queued = (cloud.ask(QUESTION) for _ in range(3))
    cloud.cancel(bad)
    cloud.ledger.give_back, give_back = unreachable, cloud.ledger.give_back
    cloud.invoke("acme", bad)
    cloud.ledger.give_back = give_back
    cloud.queue.send, send = unreachable, cloud.queue.send
    cloud.invoke("acme", queued)
    cloud.queue.send = send
    cloud.wake.runs.clear()
    events = cloud.log.events

    def broken(tenant_id, run_id, **options):
        if run_id == bad:
            raise ValueError("an event of a later version")
        return events(tenant_id, run_id, **options)

    cloud.log.events = broken
    cloud.clock.advance(61)
    with pytest.raises(ValueError, match="later version"):
        cloud.sweeper().sweep(limit=10)
    assert ("acme", good) in cloud.wake.runs
    assert [job.run_id for job in cloud.queue.jobs] == [queued]
    assert cloud.log.header("acme", bad).due_at > cloud.clock.now()


def unreachable(*_, **__):
    raise StoreUnavailable("no")


def test_a_run_that_moved_on_meanwhile_is_left_alone():
    cloud = SampleCloud(says("Done."))
    run = cloud.ask(QUESTION)
    seen = cloud.log.header("acme", run)
    cloud.run_until_idle()
    cloud.log.due_runs = lambda now, *, limit: [seen]
    assert dict(cloud.sweeper().sweep(limit=10)) == {"moved_on": 1}


def test_an_ended_runs_money_is_returned_when_its_holder_could_not():
    cloud = SampleCloud(says("Done."))
    run = cloud.ask(QUESTION)
    give_back = cloud.ledger.give_back

    cloud.ledger.give_back = unreachable
    cloud.invoke("acme", run)
    assert cloud.state(run).is_over
    assert "budget.returned" not in cloud.types(run)
    cloud.ledger.give_back = give_back
    cloud.clock.advance(61)
    assert dict(cloud.sweeper().sweep(limit=10)) == {"settled": 1}
    cloud.clock.advance(3600)
    assert dict(cloud.sweeper().sweep(limit=10)) == {}
    assert cloud.types(run).count("budget.returned") == 1
    assert cloud.ledger.balances("acme", "ann", at=cloud.clock.now())["tenant"].remaining_micros == 10**12 - 200


def test_the_death_of_the_holder_wakes_the_run_at_once_and_is_recorded_once():
    cloud = SampleCloud(asks(("export", {"item": "a"})), says("Done."))
    run = cloud.ask(QUESTION)
    cloud.wake.runs.clear()
    claimed = cloud.log.append(cloud.log.header("acme", run), [claim("dead", cloud.clock.now())], at=cloud.clock.now())
    assert claimed.has_live_holder(cloud.clock.now())
    for _ in range(2):
        cloud.sweeper().bury("acme", run, owner="dead", cause="RetriesExhausted")
    assert cloud.types(run)[-1] == "worker.lost"
    assert cloud.types(run).count("worker.lost") == 1
    assert set(cloud.wake.runs) == {("acme", run)}
    cloud.run_until_idle()
    assert cloud.state(run).ended.answer == "Done."


def claim(owner, now):
    from agent.events import RunClaimed

    return RunClaimed(owner=owner, epoch=1, lease_until=now + timedelta(minutes=5))


def die_before_the_claim(cloud, run):
    """Wake the run, let the invocation die at its start, and return whether that woke the run again."""
    cloud.wake.runs.clear()
    cloud.sweeper().bury("acme", run, owner="never claimed", cause="RetriesExhausted")
    return list(cloud.wake.runs) == [("acme", run)]


def test_an_invocation_that_died_before_it_claimed_its_run_is_made_up_for_once_and_then_by_the_sweep():
    cloud = SampleCloud(asks(("export", {"item": "a"})), says("Done."))
    run = cloud.ask(QUESTION)
    assert die_before_the_claim(cloud, run)
    assert not die_before_the_claim(cloud, run)
    cloud.clock.advance(62)
    cloud.wake.runs.clear()
    assert cloud.sweeper().sweep(limit=10)["woken"] == 1
    assert not die_before_the_claim(cloud, run)
    cloud.invoke("acme", run)
    cloud.work(cloud.queue.jobs.popleft())
    assert die_before_the_claim(cloud, run), "a result is news, and the wake for it was lost"
    assert not die_before_the_claim(cloud, run)
    cloud.run_until_idle()
    assert cloud.state(run).ended.answer == "Done."


def test_the_death_of_an_invocation_that_had_nothing_to_do_wakes_nobody():
    cloud = SampleCloud(asks(("export", {"item": "a"})), says("Done."))
    run = cloud.ask(QUESTION)
    assert not die_before_the_claim(cloud, "run_00000000000000000000000099")
    cloud.invoke("acme", run)
    assert cloud.state(run).header.status == "waiting"
    before = cloud.types(run)
    assert not die_before_the_claim(cloud, run)
    assert cloud.types(run) == before
    cloud.run_until_idle()
    assert not die_before_the_claim(cloud, run)


def test_the_death_of_a_second_invocation_leaves_the_one_that_works_alone():
    cloud = SampleCloud(says("Done."))
    run = cloud.ask(QUESTION)
    now = cloud.clock.now()
    cloud.log.append(cloud.log.header("acme", run), [claim("alive", now)], at=now)
    assert not die_before_the_claim(cloud, run)
