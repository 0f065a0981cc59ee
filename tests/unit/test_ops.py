"""The operator's command: limits, dead letters and runs, on tables and queues that moto plays."""

import json
from collections.abc import Iterator

import boto3
import pytest
from moto import mock_aws
from typer.testing import CliRunner

from agent.testing.tables import create_table
from ops.__main__ import app
from ops.deployment import Deployment
from stacks.config import PROD
from tests.contracts.facts import NOW, claim, new_run

BODY = {"tenant_id": "acme", "run_id": "run_1", "call_id": "call_1_0", "traceparent": None}


class Desk:
    def __init__(self) -> None:
        session = boto3.Session("test", "test", region_name="eu-central-1")
        dynamodb, self.sqs = session.client("dynamodb"), session.client("sqs")
        create_table(dynamodb, "control")
        create_table(dynamodb, "runs", by_user=("user_key", "run_id"), by_due=("due_shard", "due_at"))
        self.jobs, self.dead = (self.sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("jobs", "dead"))
        outputs = {
            "ControlTable": "control",
            "RunsTable": "runs",
            "ToolQueueUrl": self.jobs,
            "ToolDeadLetterQueueUrl": self.dead,
        }
        self.deployment = Deployment(PROD, outputs, {"dynamodb": dynamodb, "sqs": self.sqs}.__getitem__)

    def __call__(self, *words: str, answer: str | None = None, code: int = 0) -> str:
        result = CliRunner().invoke(app, list(words), obj=self.deployment, input=answer, env={"COLUMNS": "200"})
        assert result.exit_code == code, result.output
        return result.output

    def bury(self, count: int) -> None:
        for n in range(count):
            self.sqs.send_message(QueueUrl=self.dead, MessageBody=json.dumps(BODY | {"call_id": f"call_1_{n}"}))

    def waiting(self, url: str) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(map(int, counts.values()))


@pytest.fixture
def ops() -> Iterator[Desk]:
    with mock_aws():
        yield Desk()


def test_a_limit_is_set_shown_and_unset(ops: Desk) -> None:
    assert ops.deployment.limits().of("acme").tenant_runs == PROD.tenant_runs_limit
    ops("limits", "set", "tenant_runs", "7", "--tenant", "acme")
    [row] = [line for line in ops("limits", "show", "--tenant", "acme").splitlines() if "tenant_runs" in line]
    assert row.split("│")[2:4] == [f" {7:<{len(row.split('│')[2]) - 2}} ", f" {7:<{len(row.split('│')[3]) - 2}} "]
    assert ops.deployment.limits().of("acme").tenant_runs == 7
    ops("limits", "unset", "tenant_runs", "--tenant", "acme")
    assert ops.deployment.limits().of("acme").tenant_runs == PROD.tenant_runs_limit


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["limits", "set", "platform_month_micros", "1", "--tenant", "acme"], 1),
        (["limits", "set", "sunshine", "1"], 1),
        (["limits", "set", "user_runs", "many"], 2),
        (["limits", "set", "user_runs", "1", "--user", "ann"], 2),
        (["dead-letters", "redrive", "--limit", "1001"], 2),
        (["runs", "show", "acme", "run_00000000000000000000000000"], 1),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(ops: Desk, words: list[str], code: int) -> None:
    ops(*words, code=code)
    assert ops.deployment.limits().of("acme", "ann") == ops.deployment.defaults


def test_dead_letters_are_listed_and_stay(ops: Desk) -> None:
    ops.bury(3)
    said = ops("dead-letters", "list")
    assert "3 shown" in said
    assert "call_1_2" in said
    assert "3 would go back" in ops("dead-letters", "redrive", "--dry-run")
    assert (ops.waiting(ops.dead), ops.waiting(ops.jobs)) == (3, 0)


def test_dead_letters_go_back_after_a_yes_and_no_more_than_asked_for(ops: Desk) -> None:
    ops.bury(12)
    ops("dead-letters", "redrive", answer="n\n", code=1)
    assert (ops.waiting(ops.dead), ops.waiting(ops.jobs)) == (12, 0)
    assert "11 went back" in ops("dead-letters", "redrive", "--limit", "11", answer="y\n")
    assert (ops.waiting(ops.dead), ops.waiting(ops.jobs)) == (1, 11)
    assert "1 went back" in ops("dead-letters", "redrive", "--yes")
    assert "0 went back" in ops("dead-letters", "redrive", "--yes")


def test_a_run_is_shown_without_what_people_wrote_unless_asked_for(ops: Desk) -> None:
    log = ops.deployment.log()
    header = log.create(new_run(text="a secret question"))
    log.append(header, [claim()], at=NOW)
    said = ops("runs", "show", "acme", header.run_id)
    assert "run.created" in said
    assert "run.claimed" in said
    assert "secret" not in said
    assert "a secret question" in ops("runs", "show", "acme", header.run_id, "--contents")
