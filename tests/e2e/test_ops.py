"""The operator's command against a cloud that runs: what it sets holds, and what it sends back is done."""

import json
import re
import secrets
import time

from typer.testing import CliRunner

from agent.aws.clock import SystemClock
from agent.aws.limits import CACHE_S
from agent.aws.stopped_tools import DynamoDbStoppedTools
from ops.__main__ import app
from tests.e2e.running_cloud import RunningCloud

TENANT = "operated"
QUESTION = "Export our orders as CSV"


def ops(cloud: RunningCloud, *words: str) -> str:
    """Run the command on this cloud, and return what it prints."""
    result = CliRunner().invoke(app, list(words), env={"KEEPGATE_LOCAL": str(cloud.state), "COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_a_job_that_no_slot_was_left_for_waits_until_an_operator_sends_it(cloud: RunningCloud) -> None:
    assert "0" in ops(cloud, "limits", "set", "tenant_jobs", "0", "--tenant", TENANT)
    [row] = [line for line in ops(cloud, "limits", "show", "--tenant", TENANT).splitlines() if "tenant_jobs" in line]
    assert re.findall(r"\d+", row) == ["0", "0"]
    time.sleep(CACHE_S + 0.5)  # until no function knows another limit
    with cloud.newcomer(TENANT, ("user",)) as api:
        run_id = api.ask(QUESTION)
        assert api.wait_until(run_id, "waiting")["waiting_for"] == ["tool"]

        job = {"tenant_id": TENANT, "run_id": run_id, "call_id": "call_1_0", "traceparent": None}
        dead = cloud.output("ToolDeadLetterQueueUrl")
        cloud.aws("sqs").purge_queue(QueueUrl=dead)
        cloud.aws("sqs").send_message(QueueUrl=dead, MessageBody=json.dumps(job))
        listed = ops(cloud, "dead-letters", "list")
        assert run_id in listed
        assert "1 shown" in listed
        assert api.record(run_id)["status"] == "waiting"
        assert "1 went back" in ops(cloud, "dead-letters", "redrive", "--yes")
        assert api.wait(run_id)["reason"] == "answered"
        assert "0 shown" in ops(cloud, "dead-letters", "list")

    shown = ops(cloud, "runs", "show", TENANT, run_id)
    assert re.search(r"status +completed", shown)
    assert [kind for kind in ("tool.queued", "run.waiting", "tool.completed", "run.ended") if kind not in shown] == []
    assert QUESTION not in shown
    assert QUESTION in ops(cloud, "runs", "show", TENANT, run_id, "--contents")


def test_what_room_3_has_stopped_is_listed(cloud: RunningCloud) -> None:
    room_3 = cloud.as_role("dynamodb", cloud.output("ToolRoleArn"))
    contract = secrets.token_hex(32)
    DynamoDbStoppedTools(room_3, cloud.output("ControlTable"), SystemClock()).stop(
        contract, tool="parcels__find_parcel"
    )
    [row] = [line for line in ops(cloud, "tools", "stopped").splitlines() if contract[:12] in line]
    assert "parcels__find_parcel" in row
    assert "not of the release" in row
