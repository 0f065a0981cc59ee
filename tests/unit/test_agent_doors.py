"""The doors of room 2 and of the sweeper: a few lines of translation."""

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from pydantic import ValidationError

from agent.errors import StoreUnavailable
from agent.events import RunClaimed
from agent.limits import LimitScope
from agent.testing.limits import AMPLE
from agent.testing.model import asks, says
from lambdas import run_agent, sweep_runs
from tests.sample_agent import QUESTION, SampleCloud


@dataclass
class Context:
    aws_request_id: str = "request-7"
    remaining_ms: int = 300_000

    def get_remaining_time_in_millis(self):
        return self.remaining_ms


def test_a_wake_holds_the_run_under_the_request_id_until_the_functions_time_is_up():
    cloud = SampleCloud(says("Done."))
    run = cloud.ask(QUESTION)
    counted = []
    run_agent.door(cloud.runtime(), counted.append)(
        {"tenant_id": "acme", "run_id": run, "traceparent": None}, Context()
    )
    claimed = next(e.data for e in cloud.events(run) if isinstance(e.data, RunClaimed))
    assert claimed.owner == "request-7"
    assert claimed.lease_until == cloud.clock.now() + timedelta(seconds=300)
    assert [(header.run_id, header.status) for header in counted] == [(run, "completed")]


def test_a_run_that_ended_is_counted_though_its_money_can_not_be_returned_yet():
    cloud = SampleCloud(says("Never."))
    run = cloud.ask(QUESTION)
    cloud.cancel(run)

    def unreachable(*_, **__):
        raise StoreUnavailable("no")

    cloud.ledger.give_back = unreachable
    counted = []
    run_agent.door(cloud.runtime(), counted.append)(
        {"tenant_id": "acme", "run_id": run, "traceparent": None}, Context()
    )
    assert [header.reason for header in counted] == ["cancelled"]
    assert cloud.log.due_runs(cloud.clock.now() + timedelta(seconds=60), limit=1) != []


def test_a_run_that_another_invocation_took_over_and_ended_is_not_counted_twice():
    def take_over():
        cloud.bury("acme", run, owner="request-7")  # a false report: it still lives
        cloud.invoke("acme", run)
        cloud.clock.advance(10)

    cloud = SampleCloud(says("Second."), failing={0: [[take_over, *says("First.")]]})
    cloud.listen_every_s = 10  # it hears of it when all is over
    run = cloud.ask(QUESTION)
    counted = []
    run_agent.door(cloud.runtime(), counted.append)(
        {"tenant_id": "acme", "run_id": run, "traceparent": None}, Context()
    )
    assert cloud.state(run).ended.answer == "Second."
    assert counted == []


def test_a_second_wake_of_an_ended_run_counts_nothing():
    cloud = SampleCloud(says("Done."))
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    run_agent.door(cloud.runtime(), pytest.fail)({"tenant_id": "acme", "run_id": run, "traceparent": None}, Context())


@pytest.mark.parametrize("event", [{}, {"tenant_id": "Acme", "run_id": "run_x"}, {"tenant_id": "acme"}])
def test_a_wake_that_is_none_is_refused(event):
    with pytest.raises(ValidationError):
        run_agent.door(SampleCloud(says("Never.")).runtime(), pytest.fail)(event, Context())


def test_the_schedule_sweeps():
    cloud = SampleCloud(says("Done."))
    run = cloud.ask(QUESTION)
    cloud.wake.runs.clear()
    cloud.clock.advance(61)
    sweep_runs.door(cloud.sweeper())({"source": "aws.events", "detail": {}}, Context())
    assert list(cloud.wake.runs) == [("acme", run)]


def test_a_sweep_whose_wakes_nobody_answers_still_moves_the_lines():
    cloud = SampleCloud(asks(("export", {"item": "a"})), says("Done."), limits=replace(AMPLE, tenant_jobs=0))
    parked, *_ = [cloud.ask(QUESTION) for _ in range(10)]
    cloud.invoke("acme", parked)
    cloud.limits.change(LimitScope("acme"), "tenant_jobs", 1)
    cloud.clock.advance(61)
    began = cloud.clock.now()

    def unanswered(*_, **__):
        cloud.clock.advance(10)
        raise StoreUnavailable("no")

    cloud.wake.wake = unanswered
    sweep_runs.door(cloud.sweeper())({"source": "aws.events", "detail": {}}, Context(remaining_ms=50_000))
    assert (cloud.clock.now() - began).total_seconds() <= 40
    assert [job.run_id for job in cloud.queue.jobs] == [parked]


def test_a_failure_record_buries_the_invocation_it_names():
    cloud = SampleCloud(says("Done."))
    run = cloud.ask(QUESTION)
    cloud.wake.runs.clear()
    claimed = RunClaimed(owner="request-7", epoch=1, lease_until=cloud.clock.now() + timedelta(minutes=5))
    cloud.log.append(cloud.log.header("acme", run), [claimed], at=cloud.clock.now())
    record = {
        "version": "1.0",
        "timestamp": "2026-11-20T12:00:00.000Z",
        "requestContext": {
            "requestId": "request-7",
            "functionArn": "arn:aws:lambda:eu-central-1:000000000000:function:run_agent:$LATEST",
            "condition": "RetriesExhausted",
            "approximateInvokeCount": 1,
        },
        "requestPayload": {"tenant_id": "acme", "run_id": run, "traceparent": None},
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "responsePayload": {"errorMessage": "Task timed out"},
    }
    sweep_runs.door(cloud.sweeper())(record, Context())
    assert cloud.events(run)[-1].data.model_dump() == {
        "type": "worker.lost",
        "owner": "request-7",
        "cause": "RetriesExhausted",
    }
    assert list(cloud.wake.runs) == [("acme", run)]


@pytest.mark.parametrize("payload", [{}, {"tenant_id": "Acme!", "run_id": "run_1"}, "text", None])
def test_a_failure_record_of_what_was_no_wake_is_noted_and_done_with(payload):
    cloud = SampleCloud(says("Done."))
    record = {"requestContext": {"requestId": "r", "condition": "RetriesExhausted"}, "requestPayload": payload}
    sweep_runs.door(cloud.sweeper())(record, Context())
    assert not cloud.wake.runs
