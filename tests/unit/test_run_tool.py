"""The door of room 3: results and refusals as the caller reads them, and the end of a process that lost a tool."""

import os
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from aws_lambda_powertools import Logger
from moto import mock_aws

from agent.aws.functions import _to_reply
from agent.aws.run_log import DynamoDbRunLog
from agent.aws.tenant_data import DynamoDbTenantData, load
from agent.errors import CallNotDecided
from agent.testing.decided_run import CALL, RUN, DecidedRun
from agent.testing.tables import create_table
from agent.testing.tenant_data import MemoryTenantData
from lambdas import run_tool, wiring
from lambdas.settings import RunToolSettings
from lambdas.telemetry import InvocationFailed, Telemetry
from support_desk import seed
from support_desk.tools import TOOLS

EVENT = {"tenant_id": "acme", "run_id": RUN, "call_id": CALL, "traceparent": None}
CONTEXT: Any = SimpleNamespace(aws_request_id="r-1", function_name="run_tool", memory_limit_in_mb=512)
SETTINGS = RunToolSettings(
    stage="test",
    service="run_tool",
    trace_exporter="none",
    runs_table="runs",
    tenant_table="tenant",
    bucket="files",
    data_role_arn="arn:aws:iam::123456789012:role/data",
    progress_table="",
)


class Door:
    """The door over memory; a process that would end is noted."""

    def __init__(self) -> None:
        self.run = DecidedRun(TOOLS["lookup_order"])
        orders = MemoryTenantData(self.run.table, "acme")
        for kind, item_id, item in seed.items("acme"):
            orders.put(kind, item_id, item)
        self.ended: list[int] = []

    def __call__(self, event: dict[str, Any] | None = None) -> Any:
        tell = Telemetry(SETTINGS, Logger(service="test", level="CRITICAL"))
        return run_tool.door(self.run.room, tell, self.ended.append)(event or EVENT, CONTEXT)


def test_a_decided_call_answers_what_the_caller_reads_as_its_result() -> None:
    door = Door()
    door.run.decide({"order_id": "1001"})
    door.run.start()
    reply = _to_reply(door())
    assert reply.outcome == "ok"
    assert "Marta Keller" in reply.content


def test_an_undecided_call_answers_a_refusal_and_leaves_the_process_alone() -> None:
    door = Door()
    answer = door()
    assert answer["refused"] == "call_not_decided"
    with pytest.raises(CallNotDecided):
        _to_reply(answer)
    assert door.ended == []


@pytest.mark.parametrize(
    "event",
    [
        {},
        EVENT | {"tenant_id": "acme#"},
        EVENT | {"run_id": "run_1"},
        EVENT | {"call_id": 1},
        EVENT | {"principal": {"tenant_id": "acme"}},
    ],
)
def test_an_event_that_is_more_or_less_than_ids_is_refused(event: dict[str, Any]) -> None:
    door = Door()
    door.run.decide({"order_id": "1001"})
    door.run.start()
    assert door(event or {"nothing": 1})["refused"] == "call_not_decided"


def test_a_tool_that_outlives_its_timeout_takes_the_process_with_it() -> None:
    door = Door()
    door.run.decide({"order_id": "1001"})
    door.run.start()
    door.run.room = replace(door.run.room, wait=lambda done, seconds: False)
    with pytest.raises(InvocationFailed):
        door()
    assert door.ended == [1]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The tables and the bucket on moto, and wiring without what other tests left in it."""
    with mock_aws(), monkeypatch.context() as patch:
        # A copy, which the room may take the credentials out of.
        patch.setattr(os, "environ", {**os.environ, "AWS_DEFAULT_REGION": "eu-central-1"})
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        client = boto3.client("dynamodb")
        for table in (SETTINGS.runs_table, SETTINGS.tenant_table):
            create_table(client, table)
        region = {"LocationConstraint": "eu-central-1"}
        boto3.client("s3").create_bucket(Bucket=SETTINGS.bucket, CreateBucketConfiguration=region)  # type: ignore[arg-type] # a name of the stubs' list
        wiring._client.cache_clear()
        yield client
    wiring._client.cache_clear()


def test_the_wired_room_reads_the_tenants_items_and_writes_its_file(aws: Any) -> None:
    load(aws, SETTINGS.tenant_table, "acme", seed.items("acme"))
    load(aws, SETTINGS.tenant_table, "globex", seed.items("globex"))
    run = DecidedRun(TOOLS["export_orders"], log=DynamoDbRunLog(aws, SETTINGS.runs_table))
    run.decide({"status": None, "placed_from": None, "placed_to": None})
    run.queue()
    run.start()
    bucket = boto3.client("s3")
    room = wiring.tool_room(SETTINGS)
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ
    tell = Telemetry(SETTINGS, Logger(service="test", level="CRITICAL"))
    answer = run_tool.door(room, tell)(EVENT, CONTEXT)
    assert answer["outcome"] == "ok"
    assert answer["object_key"] == f"T/acme/{RUN}/orders-{CALL}.csv"
    lines = bucket.get_object(Bucket=SETTINGS.bucket, Key=answer["object_key"])["Body"].read().decode().splitlines()
    assert len(lines) == 1 + seed.SHOPS["acme"].orders
    assert "Marta Keller" in lines[1]
    assert "Oliver Grant" not in "".join(lines)
    assert DynamoDbTenantData(aws, SETTINGS.tenant_table, "acme").get("order", "1001") is not None
