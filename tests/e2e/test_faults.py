"""Processes that die, models that fail, jobs that poison: on the local cloud, with real processes killed."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running_cloud import Api, RunningCloud, marker

EXPORT = "Export our orders as CSV"


def until(is_so: Callable[[], Any], *, within_s: float = 20) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := is_so()):
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.05)
    return found


@pytest.fixture(autouse=True)
def _closed_breakers(cloud: RunningCloud) -> None:
    """Begin with closed breakers, whatever other tests made the models and tools do."""
    dynamodb, table = cloud.aws("dynamodb"), cloud.output("ControlTable")
    items = dynamodb.scan(TableName=table, FilterExpression="attribute_exists(open_until)")["Items"]
    for item in items:
        dynamodb.delete_item(TableName=table, Key={"pk": item["pk"], "sk": item["sk"]})
    if items:
        time.sleep(2)  # as long as a process may go by what it has read


def types(log: list[dict[str, Any]]) -> list[str]:
    return [payload["type"] for payload in log]


def test_a_tool_that_outlives_its_timeout_takes_its_process_along_and_runs_again_in_another(
    cloud: RunningCloud, acme: Api, tmp_path: Path
) -> None:
    (tmp_path / "lookup_order.1").touch()
    with cloud.stuck_tools(tmp_path, patience_s=1):
        run_id = acme.ask("Where is order 1001?")
        result = acme.wait(run_id)
    assert result["reason"] == "answered", result
    assert "1001" in result["answer"]
    [hung] = tmp_path.glob("hung-*")
    pid = int(hung.name.rpartition("-")[2])
    assert not Path(f"/proc/{pid}").exists()
    log = cloud.log("acme", run_id)
    assert [e["attempt"] for e in log if e["type"] == "tool.started"] == [1, 2]
    assert types(log).count("tool.completed") == 1


def test_the_death_of_a_working_agent_is_heard_at_once_and_the_run_goes_on(cloud: RunningCloud, acme: Api) -> None:
    mark = marker()
    cloud.tell_model(mark, {"pause_s": 20})
    run_id = acme.ask(f"Where is order 1001? {mark}")
    until(lambda: "model.started" in types(cloud.log("acme", run_id)))
    for pid in cloud.workers("run_agent"):
        os.kill(pid, signal.SIGKILL)
    result = acme.wait(run_id, within_s=15)
    assert result["reason"] == "answered", result
    log = cloud.log("acme", run_id)
    assert "worker.lost" in types(log)
    [lost] = [e for e in log if e["type"] == "model.failed"]
    assert (lost["error"], lost["assumed"]) == ("holder_lost", True)


def dead_letters(cloud: RunningCloud) -> list[dict[str, Any]]:
    """Take what lies among the dead letters."""
    sqs, url = cloud.aws("sqs"), cloud.output("ToolDeadLetterQueueUrl")
    taken = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    for message in taken:
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return [json.loads(message["Body"]) for message in taken]


def test_a_job_whose_worker_dies_ends_as_a_dead_letter_and_its_run_is_told(
    cloud: RunningCloud, acme: Api, tmp_path: Path
) -> None:
    dead_letters(cloud)
    (tmp_path / "export_orders.1").touch()
    with cloud.redelivering_after(2), cloud.stuck_tools(tmp_path, patience_s=300):
        run_id = acme.ask(EXPORT)
        # What the tool had told is in the log already: it is relayed while the tool works.
        until(lambda: "tool.progress" in types(cloud.log("acme", run_id)))
        for service in ("work_tool_queue", "run_tool"):
            for pid in cloud.workers(service):
                os.kill(pid, signal.SIGKILL)
        result = acme.wait(run_id, within_s=60)
        assert result["reason"] == "answered", result
        assert types(cloud.log("acme", run_id)).count("tool.outcome_unknown") == 1
        [letter] = until(lambda: dead_letters(cloud), within_s=30)
    assert (letter["run_id"], letter["call_id"]) == (run_id, "call_1_0")


def test_the_user_sees_how_far_an_export_has_come(cloud: RunningCloud, acme: Api) -> None:
    run_id = acme.ask(EXPORT)
    events = [streamed.event for streamed in acme.follow(run_id)]
    [told] = [e["value"] for e in events if e["type"] == "CUSTOM" and e["name"] == "keepgate.tool_progress"]
    assert told["tool"] == "export_orders"
    assert told["text"].endswith("writing the file")


# --- models -----------------------------------------------------------------------------------------------------------


def models(log: list[dict[str, Any]]) -> list[str]:
    return [e["model_id"].split("claude-")[1].split("-")[0] for e in log if e["type"] == "model.started"]


@pytest.mark.parametrize(
    ("error", "asked"),
    [("ServiceUnavailableException", ["haiku"] * 3 + ["sonnet"]), ("AccessDeniedException", ["haiku", "sonnet"])],
)
def test_the_fallback_answers_where_the_first_model_can_not(
    cloud: RunningCloud, acme: Api, error: str, asked: list[str]
) -> None:
    mark = marker()
    cloud.tell_model(mark, *[{"error": error}] * (len(asked) - 1))
    run_id = acme.ask(f"Hello there {mark}")
    assert acme.wait(run_id)["reason"] == "answered"
    assert models(cloud.log("acme", run_id)) == asked


def test_an_open_breaker_in_the_control_table_spares_the_model_until_a_probe_closes_it(
    cloud: RunningCloud, acme: Api
) -> None:
    dynamodb, table = cloud.aws("dynamodb"), cloud.output("ControlTable")
    key = {"pk": {"S": "BREAKER#model#global.anthropic.claude-haiku-4-5-20251001-v1:0"}, "sk": {"S": "STATE"}}
    open_until = round((time.time() + 4) * 1000)
    dynamodb.put_item(TableName=table, Item=key | {"open_until": {"N": str(open_until)}})
    time.sleep(2)  # as long as a process may go by what it has read
    run_id = acme.ask("Hello there")
    assert acme.wait(run_id)["reason"] == "answered"
    assert models(cloud.log("acme", run_id)) == ["sonnet"]
    time.sleep(max(0, open_until / 1000 - time.time()) + 2)
    run_id = acme.ask("Hello there")
    assert acme.wait(run_id)["reason"] == "answered"
    assert models(cloud.log("acme", run_id)) == ["haiku"]
    assert "open_until" not in dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True)["Item"]
