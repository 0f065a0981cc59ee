"""Backpressure in the whole: what is refused, what waits in line, and that nothing accepted is dropped."""

from datetime import timedelta

import pytest

from agent.errors import TooManyRuns
from agent.in_flight import LONGEST_S, patience_s
from agent.limits import Limits, LimitScope
from agent.testing.clock import FakeClock
from agent.testing.model import asks, says
from tests.sample_agent import QUESTION, SampleCloud

EXPORTS = asks(*[("export", {"item": str(n)}) for n in range(4)])


def few(**limits: int) -> Limits:
    return Limits(10**12, 10**12, 10**12, **limits)


def test_a_refused_run_is_admitted_once_another_has_ended():
    cloud = SampleCloud(says("Done."), limits=few(user_runs=1))
    cloud.ask(QUESTION)
    with pytest.raises(TooManyRuns):
        cloud.ask(QUESTION)
    cloud.ask(QUESTION, user_id="bob")
    cloud.run_until_idle()
    cloud.ask(QUESTION)


def test_a_changed_limit_holds_for_the_next_run():
    cloud = SampleCloud(says("Done."), limits=few(user_runs=1))
    cloud.ask(QUESTION)
    cloud.limits.change(LimitScope("acme", "ann"), "user_runs", 2)
    cloud.ask(QUESTION)
    with pytest.raises(TooManyRuns):
        cloud.ask(QUESTION)


def test_jobs_beyond_a_tenants_slots_wait_in_line_and_all_of_them_run():
    cloud = SampleCloud(EXPORTS, says("Done."), limits=few(tenant_jobs=2))
    run = cloud.ask(QUESTION)
    cloud.invoke(*cloud.wake.runs.popleft())
    assert [job.call_id for job in cloud.queue.jobs] == ["call_1_0", "call_1_1"]
    most = 0
    while cloud.queue.jobs:
        most = max(most, len(cloud.queue.jobs))
        cloud.work(cloud.queue.jobs.popleft())
    assert most == 2
    cloud.run_until_idle()
    assert cloud.state(run).ended.reason == "answered"
    assert sorted(cloud.effects.values()) == [1, 1, 1, 1]


def test_a_tenants_flood_leaves_the_other_tenants_job_near_the_front():
    cloud = SampleCloud(EXPORTS, says("Done."), limits=few(tenant_jobs=2, tenant_runs=500, user_runs=500))
    flood = [cloud.ask(QUESTION, tenant_id="globex") for _ in range(50)]
    for _ in flood:
        cloud.invoke(*cloud.wake.runs.popleft())
    own = cloud.ask(QUESTION)
    cloud.invoke(*cloud.wake.runs.popleft())
    assert [job.tenant_id for job in cloud.queue.jobs] == ["globex", "globex", "acme", "acme"]
    # First come, first served: 200 jobs queued before are no more than two in front, and one for each that ends.
    served = 0
    while not cloud.state(own).turn.is_settled:
        cloud.work(cloud.queue.jobs.popleft())
        served += 1
    assert served <= 4 + 4
    cloud.run_until_idle()
    assert all(cloud.state(run, tenant_id="globex").ended.reason == "answered" for run in flood)
    assert sum(cloud.effects.values()) == 4 * 51


def test_a_cancelled_run_gives_its_slots_to_those_behind_it():
    cloud = SampleCloud(EXPORTS, says("Done."), limits=few(tenant_jobs=4))
    first, second = cloud.ask(QUESTION), cloud.ask(QUESTION)
    for _ in range(2):
        cloud.invoke(*cloud.wake.runs.popleft())
    assert {job.run_id for job in cloud.queue.jobs} == {first}
    cloud.cancel(first)
    cloud.run_until_idle()
    assert cloud.state(first).ended.reason == "cancelled"
    assert cloud.state(second).ended.reason == "answered"
    assert sum(cloud.effects.values()) == 4


def test_the_slots_of_a_run_whose_jobs_were_dropped_before_it_ended_are_filled_at_its_end():
    cloud = SampleCloud(EXPORTS, says("Done."), limits=few(tenant_jobs=4))
    first, second = cloud.ask(QUESTION), cloud.ask(QUESTION)
    for _ in range(2):
        cloud.invoke(*cloud.wake.runs.popleft())
    cloud.cancel(first)
    while cloud.queue.jobs:  # the workers come to its jobs before it comes to its end
        cloud.work(cloud.queue.jobs.popleft())
    cloud.deliver()
    assert cloud.state(first).ended.reason == "cancelled"
    assert cloud.state(second).ended.reason == "answered"


def test_a_line_whose_movers_died_is_moved_by_the_sweeper():
    cloud = SampleCloud(EXPORTS, says("Done."), limits=few(tenant_jobs=0))
    run = cloud.ask(QUESTION)
    cloud.invoke(*cloud.wake.runs.popleft())
    assert not cloud.queue.jobs
    cloud.limits.change(LimitScope("acme"), "tenant_jobs", 4)
    cloud.run_until_idle()
    assert cloud.state(run).ended.reason == "answered"
    assert cloud.clock.now() - cloud.state(run).header.created_at < timedelta(minutes=3)


def test_patience_is_the_mean_age_by_the_number_within_bounds():
    now = FakeClock().now()
    from agent.admission import new_run_id

    runs = [new_run_id(now - timedelta(seconds=age)) for age in (10, 20, 30)]
    assert patience_s(runs, now) == 7
    assert patience_s([new_run_id(now)], now) == 1
    assert patience_s([new_run_id(now - timedelta(days=2))], now) == LONGEST_S
    assert patience_s([], now) == LONGEST_S
