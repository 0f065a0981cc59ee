"""The door of the queue: what is done with is acknowledged, what failed goes back, and the rest is not touched."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from aws_lambda_powertools import Logger

from agent.errors import ToolLost
from agent.events import ToolCompleted
from agent.queued_calls import QueueWorker
from agent.testing.breakers import STEADY, BreakerItems, MemoryBreakers
from agent.testing.decided_run import CALL, RUN, DecidedRun
from agent.testing.rooms import InProcessToolRunner, MemoryWake
from lambdas import work_tool_queue
from lambdas.settings import WorkToolQueueSettings
from lambdas.telemetry import Telemetry
from support_desk.tools import TOOLS
from tests import sample_agent

JOB = {"tenant_id": "acme", "run_id": RUN, "call_id": CALL, "traceparent": None}
SETTINGS = WorkToolQueueSettings(
    stage="test",
    service="work_tool_queue",
    trace_exporter="none",
    runs_table="",
    control_table="",
    tool_queue_url="",
    tool_function="",
    isolates_tenants=False,
    agent_function="",
    user_day_limit_micros=1,
    tenant_month_limit_micros=1,
    platform_month_limit_micros=1,
    user_runs_limit=1,
    tenant_runs_limit=1,
    tenant_jobs_limit=1,
    breaker_failures=1,
    breaker_window_s=1,
    breaker_open_s=1,
    progress_table="",
    max_receives=4,
)


def record(number: int, body: str, delivery: int) -> dict[str, Any]:
    return {
        "messageId": f"m-{number}",
        "receiptHandle": "h",
        "body": body,
        "attributes": {"ApproximateReceiveCount": str(delivery)},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:q",
        "awsRegion": "eu-central-1",
    }


class Door:
    def __init__(self) -> None:
        self.run = DecidedRun(TOOLS["export_orders"])
        self.run.decide({"status": None, "placed_from": None, "placed_to": None})
        self.run.queue()
        self.wake = MemoryWake()
        runner = InProcessToolRunner(self.run.room)
        self.worker = QueueWorker(
            self.run.log,
            runner,
            self.wake,
            self.run.dispatcher(),
            MemoryBreakers(BreakerItems(), STEADY, self.run.clock),
            self.run.notes,
            self.run.room.tools,
            self.run.clock,
            self.run.controls,
            "sample",
            releases=lambda _: sample_agent.release(),
        )

    def __call__(self, *bodies: str, time_ms: int = 340_000, delivery: int = 1) -> list[str]:
        """Deliver the messages and return the ids of those that go back to the queue."""
        context: Any = SimpleNamespace(
            aws_request_id="r",
            function_name="f",
            memory_limit_in_mb=512,
            get_remaining_time_in_millis=lambda: time_ms,
        )
        tell = Telemetry(SETTINGS, Logger(service="test", level="CRITICAL"))
        event = {"Records": [record(number, body, delivery) for number, body in enumerate(bodies)]}
        answer = work_tool_queue.door(self.worker, tell, max_receives=SETTINGS.max_receives)(event, context)
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


def test_a_job_that_is_done_is_acknowledged() -> None:
    door = Door()
    assert door(json.dumps(JOB)) == []
    assert [data.type for data in door.run.payloads()] == [
        "tool.queued",
        "tool.started",
        "tool.progress",
        "tool.completed",
    ]
    assert len(door.wake.runs) == 1


def test_what_is_no_job_goes_back_towards_the_dead_letters_and_the_others_are_done() -> None:
    door = Door()
    poison = ["", "{", "[]", "null", json.dumps(JOB | {"principal": "x"}), json.dumps(JOB | {"call_id": "1"})]
    assert door(*poison, json.dumps(JOB)) == [f"m-{number}" for number in range(len(poison))]
    assert len(door.wake.runs) == 1


def test_a_job_for_an_undecided_call_is_acknowledged_and_never_runs() -> None:
    door = Door()
    assert door(json.dumps(JOB | {"call_id": "call_1_1"}), json.dumps(JOB | {"tenant_id": "globex"})) == []
    assert [data.type for data in door.run.payloads()] == ["tool.queued"]


def test_a_job_that_no_time_is_left_for_goes_back_and_is_done_the_next_time() -> None:
    door = Door()
    assert door(json.dumps(JOB), time_ms=314_000) == ["m-0"]
    assert [data.type for data in door.run.payloads()] == ["tool.queued"]
    assert door(json.dumps(JOB)) == []


def test_a_failed_batch_leaves_nothing_behind_for_the_next() -> None:
    door = Door()
    assert door("{") == ["m-0"]
    assert door(json.dumps(JOB)) == []


def test_a_call_that_keeps_getting_lost_ends_as_unknown() -> None:
    door = Door()

    class Lost(InProcessToolRunner):
        def run(self, *args: Any, **options: Any) -> Any:
            raise ToolLost("gone")

    door.worker = replace(door.worker, tool_runner=Lost(door.run.room))
    assert door(json.dumps(JOB)) == []
    assert door.run.payloads()[-1].type == "tool.outcome_unknown"


def test_the_last_delivery_tells_the_run_that_nobody_will_do_the_job_and_leaves_it_a_dead_letter() -> None:
    door = Door()
    assert door(json.dumps(JOB), delivery=4) == ["m-0"]
    [result] = [data for data in door.run.payloads() if isinstance(data, ToolCompleted)]
    assert (result.outcome, json.loads(result.content)["error"]) == ("error", "tool_failed")
    assert list(door.wake.runs) == [("acme", RUN)]
    # Told once: whoever redrives the job later finds the call over.
    assert door(json.dumps(JOB), delivery=4) == []


def test_a_job_whose_workers_all_died_after_its_start_ends_with_an_unknown_outcome() -> None:
    door = Door()
    door.run.start()
    assert door(json.dumps(JOB), delivery=3) == ["m-0"]
    assert door.run.payloads()[-1].type == "tool.started"
    assert door(json.dumps(JOB), delivery=4) == ["m-0"]
    assert door.run.payloads()[-1].type == "tool.outcome_unknown"


def test_what_is_no_job_becomes_a_dead_letter_too() -> None:
    assert Door()("{}", delivery=4) == ["m-0"]
