"""The queued tool: over the real queue and its worker, while the run waits without anybody working on it."""

import csv
import io
import json
from collections import defaultdict
from typing import Any

import pytest

from support_desk import seed
from tests.e2e.running_cloud import Api, RunningCloud, marker


def export(cloud: RunningCloud, tenant: str, run_id: str) -> list[dict[str, str]]:
    """Return the rows of the file that a run has left in the bucket."""
    s3, bucket = cloud.aws("s3"), cloud.output("FilesBucket")
    objects = s3.list_objects_v2(Bucket=bucket, Prefix=f"T/{tenant}/{run_id}/")["Contents"]
    [key] = [found["Key"] for found in objects]
    text = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("tenant", seed.TENANTS)
def test_an_export_waits_in_the_queue_and_leaves_a_file_with_the_tenants_orders(
    cloud: RunningCloud, tenant: str
) -> None:
    with cloud.api(f"{tenant}-user") as api:
        run_id = api.ask("Export our orders as CSV")
        events = [streamed.event for streamed in api.follow(run_id)]
        result = api.wait(run_id)
    statuses = [e["value"]["status"] for e in events if e["type"] == "CUSTOM" and e["name"] == "keepgate.status"]
    assert statuses == ["queued", "running", "waiting", "running"]
    orders = [item for kind, _, item in seed.items(tenant) if kind == "order"]
    assert f"rows {len(orders)}" in result["answer"]
    rows = export(cloud, tenant, run_id)
    assert [row["order_id"] for row in rows] == [order["order_id"] for order in orders]
    assert [row["customer_name"] for row in rows] == [order["customer_name"] for order in orders]


def test_a_run_with_twenty_queued_calls_one_after_another_ends(cloud: RunningCloud, acme: Api) -> None:
    """Agent, queue, worker, agent: sixty hops, of which Lambda's guard against loops would allow sixteen."""
    mark = marker()
    call = {"tool": "export_orders", "input_json": "{}"}
    cloud.tell_model(mark, *[{"calls": [call], "text": ""}] * 20, {"calls": [], "text": "Exported, twenty times."})
    with cloud.release(caps={"max_turns": 21, "max_tool_calls": 20}):
        run_id = acme.ask(f"Export our orders again and again {mark}")
        result = acme.wait(run_id, within_s=180)
    assert (result["reason"], result["answer"]) == ("answered", "Exported, twenty times.")
    log = cloud.log("acme", run_id)
    done = [event["outcome"] for event in log if event["type"] == "tool.completed"]
    assert done == ["ok"] * 20
    assert sum(event["type"] == "run.waiting" for event in log) == 20
    assert len({event["call_id"] for event in log if event["type"] == "tool.started"}) == 20


def test_a_job_that_is_delivered_again_changes_nothing(cloud: RunningCloud, acme: Api) -> None:
    run_id = acme.ask("Export our orders as CSV")
    acme.wait(run_id)
    before = acme.follow(run_id)
    job = {"tenant_id": "acme", "run_id": run_id, "call_id": "call_1_0", "traceparent": None}
    sqs, queue = cloud.aws("sqs"), cloud.output("ToolQueueUrl")
    sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(job))
    sqs.send_message(QueueUrl=queue, MessageBody=json.dumps({**job, "tenant_id": "globex"}))
    # A later job that is done shows that the worker has had the two before it.
    acme.answer("Export our orders as CSV")
    assert acme.follow(run_id) == before


def test_a_waiting_run_can_be_cancelled(cloud: RunningCloud, acme: Api) -> None:
    mark = marker()
    call = {"tool": "export_orders", "input_json": "{}"}
    cloud.tell_model(mark, {"calls": [call] * 6, "text": ""})
    run_id = acme.ask(f"Export our orders six times {mark}")
    acme.wait_until(run_id, "waiting")
    assert acme.http.post(f"/runs/{run_id}/cancel").status_code == 202
    assert acme.wait(run_id)["reason"] == "cancelled"


def test_the_trace_of_a_run_is_one_across_all_rooms(cloud: RunningCloud, acme: Api) -> None:
    run_id = acme.ask("Export our orders as CSV")
    acme.wait(run_id)
    traces: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in (cloud.state / "traces.jsonl").read_text().splitlines():
        span = json.loads(line)
        traces[span["context"]["trace_id"]].append(span)
    [spans] = [s for s in traces.values() if any(x["attributes"].get("keepgate.run_id") == run_id for x in s)]
    services = {span["resource"]["attributes"]["service.name"] for span in spans}
    assert services >= {"shim", "run_agent", "work_tool_queue", "run_tool"}
    known = {span["context"]["span_id"] for span in spans}
    [root] = [span for span in spans if span["parent_id"] not in known]
    assert root["resource"]["attributes"]["service.name"] == "shim"
    chats = [span for span in spans if span["attributes"].get("gen_ai.operation.name") == "chat"]
    assert len(chats) == 2
    for chat in chats:
        assert chat["attributes"]["gen_ai.usage.input_tokens"] > 0
        assert chat["attributes"]["keepgate.cost_micros"] > 0
    tools = [span for span in spans if span["attributes"].get("gen_ai.operation.name") == "execute_tool"]
    assert {tool["attributes"]["gen_ai.tool.name"] for tool in tools} == {"export_orders"}
    written = json.dumps(spans)
    assert not any(fact in written for fact in ("Export our orders", "Keller", "orders-call", "acme-user"))
