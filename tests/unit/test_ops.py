"""The operator's command: what `administer` does for it, dead letters, runs; tables and queues are played by moto."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import boto3
import pytest
from aws_lambda_powertools import Logger
from moto import mock_aws
from typer.testing import CliRunner

from agent.aws import caller
from agent.aws.audit import DynamoDbAuditTrail
from agent.aws.clock import SystemClock
from agent.aws.controls import DynamoDbControlBook
from agent.aws.limits import DynamoDbLimitBook
from agent.aws.stopped_tools import DynamoDbStoppedTools
from agent.limits import Limits, LimitScope
from agent.operating import Desk as OperatorsDesk
from agent.testing.clock import FakeClock
from agent.testing.tables import create_table
from lambdas import administer
from lambdas.settings import AdministerSettings
from lambdas.telemetry import Telemetry
from ops.__main__ import app
from ops.deployment import Deployment
from stacks.config import PROD, STAGES
from support_desk.tools import TOOLS
from tests.contracts.facts import NOW, claim, new_run
from tests.unit.gateway import Context

FUNCTION = "keepgate-prod-administer"
OLGA = "arn:aws:sts::123456789012:assumed-role/Operators/olga@example.com"
ALLOWANCES = {"issue_refund.amount_cents.user_day": 100_000}
LIMITS = Limits(100, 1_000, 10_000, user_runs=2, tenant_runs=20, tenant_jobs=5, allowances=ALLOWANCES)
SETTINGS: dict[str, Any] = {
    "control_table": "control",
    "user_day_limit_micros": 1,
    "tenant_month_limit_micros": 2,
    "platform_month_limit_micros": 3,
    "user_runs_limit": 4,
    "tenant_runs_limit": 5,
    "tenant_jobs_limit": 6,
    "function": FUNCTION,
    "account": "123456789012",
}

BODY = {"tenant_id": "acme", "run_id": "run_1", "call_id": "call_1_0", "traceparent": None}


class Administer:
    """Lambda, with the one function, and STS, which vouches for one person."""

    def __init__(self, desk: OperatorsDesk, sts_url: str) -> None:
        tell = Telemetry(
            AdministerSettings(stage="test", service="administer", trace_exporter="none", **SETTINGS),
            Logger(service="test", level="CRITICAL"),
        )

        def who(proof: str, command_json: str) -> str:
            bound = caller.bound_to(FUNCTION, command_json)
            return caller.require_caller(
                proof, bound=bound, sts_url=sts_url, account="123456789012", clock=SystemClock(), send=self.vouch
            )

        self._handle = administer.door(desk, who, tell)

    def vouch(self, url: str, headers: Any) -> tuple[int, str]:
        return 200, f"<Arn>{OLGA}</Arn>"

    def invoke(self, *, FunctionName: str, Payload: str) -> dict[str, Any]:  # noqa: N803 - boto3's names
        assert FunctionName == FUNCTION
        return {"Payload": io.BytesIO(json.dumps(self._handle(json.loads(Payload), Context())).encode())}


class Desk:
    def __init__(self) -> None:
        session = boto3.Session("test", "test", region_name="eu-central-1")
        dynamodb, self.sqs = session.client("dynamodb"), session.client("sqs")
        create_table(dynamodb, "control")
        create_table(dynamodb, "runs", by_user=("user_key", "run_id"), by_due=("due_shard", "due_at"))
        self.jobs, self.dead = (self.sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("jobs", "dead"))
        outputs = {
            "RunsTable": "runs",
            "ToolQueueUrl": self.jobs,
            "ToolDeadLetterQueueUrl": self.dead,
        }
        self.limits = DynamoDbLimitBook(dynamodb, "control", LIMITS, clock=SystemClock())
        self.audit = DynamoDbAuditTrail(dynamodb, "control")
        self.stopped = DynamoDbStoppedTools(dynamodb, "control", FakeClock())
        desk = OperatorsDesk(
            DynamoDbControlBook(dynamodb, "control", clock=SystemClock()),
            self.limits,
            self.audit,
            SystemClock(),
            self.stopped,
        )
        clients = {
            "dynamodb": dynamodb,
            "sqs": self.sqs,
            "sts": session.client("sts"),
            "lambda": Administer(desk, session.client("sts").meta.endpoint_url),
        }
        self.deployment = Deployment(PROD, lambda: outputs, clients.__getitem__, session.get_credentials)

    def __call__(self, *words: str, answer: str | None = None, code: int = 0, columns: int = 200) -> str:
        environment = {"COLUMNS": str(columns)}
        result = CliRunner().invoke(app, list(words), obj=self.deployment, input=answer, env=environment)
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


def test_what_holds_for_the_whole_platform_is_shown(ops: Desk) -> None:
    ops("limits", "set", "tenant_runs", "7")
    [row] = [line for line in ops("limits", "show").splitlines() if "tenant_runs" in line]
    assert row.count("7") == 2


def test_a_limit_is_set_shown_and_unset(ops: Desk) -> None:
    acme = LimitScope("acme")
    ops("limits", "set", "tenant_runs", "7", "--tenant", "acme")
    [row] = [line for line in ops("limits", "show", "--tenant", "acme").splitlines() if "tenant_runs" in line]
    assert row.split("│")[2:4] == [f" {7:<{len(row.split('│')[2]) - 2}} ", f" {7:<{len(row.split('│')[3]) - 2}} "]
    assert ops.limits.overrides(acme) == {"tenant_runs": 7}
    ops("limits", "unset", "tenant_runs", "--tenant", "acme")
    assert ops.limits.overrides(acme) == {}


def test_what_a_tools_calls_may_use_up_is_set_too(ops: Desk) -> None:
    name = "issue_refund.amount_cents.user_day"
    ops("limits", "set", name, "7", "--tenant", "acme")
    assert ops.limits.of("acme").allowances[name] == 7
    assert name in ops("limits", "show", "--tenant", "acme", "--user", "ann")
    ops("limits", "unset", name, "--tenant", "acme")
    assert ops.limits.of("acme").allowances[name] == 100_000


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["limits", "set", "platform_month_micros", "1", "--tenant", "acme"], 1),
        (["limits", "set", "sunshine", "1"], 1),
        (["limits", "set", "issue_refund.amount_cent.user_day", "1"], 1),
        (["limits", "set", "issue_refund.amount_cents.tenant_day", "1", "--tenant", "acme", "--user", "ann"], 1),
        (["limits", "set", "user_runs", "many"], 2),
        (["limits", "set", "user_runs", "1", "--user", "ann"], 2),
        (["switches", "on", "everything"], 2),
        (["switches", "on", "sunshine", "--reason", "why not"], 2),
        (["switches", "on", "tool", "--reason", "which one"], 2),
        (["switches", "on", "user:ann", "--reason", "of which tenant"], 1),
        (["switches", "on", "everything", "--reason", "for ever", "--hours", "721"], 2),
        (["switches", "on", "everything", "--tenant", "No Tenant", "--reason", "x"], 1),
        (["switches", "off", "everything", "--reason", "it is not on"], 1),
        (["dead-letters", "redrive", "--limit", "1001"], 2),
        (["runs", "show", "acme", "run_00000000000000000000000000"], 1),
        (["audit", "--before", "yesterday"], 1),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(ops: Desk, words: list[str], code: int) -> None:
    ops(*words, code=code)
    assert ops.limits.of("acme", "ann") == LIMITS
    assert ops.audit.changes("", limit=10) == ops.audit.changes("acme", limit=10) == ([], None)


def test_a_switch_is_put_on_listed_taken_off_and_audited_under_the_name_that_aws_vouches_for(ops: Desk) -> None:
    ops("switches", "on", "tool:issue_refund", "--tenant", "acme", "--reason", "it pays twice", "--hours", "2")
    ops("switches", "on", "read_only", "--reason", "an incident")
    listed = ops("switches", "list", "--tenant", "acme")
    assert all(word in listed for word in ("tool:issue_refund", "it pays twice", "acme (platform)", "read_only"))
    assert "tool:issue_refund" not in ops("switches", "list")
    ops("switches", "off", "tool:issue_refund", "--tenant", "acme", "--reason", "mended")
    assert "tool:issue_refund" not in ops("switches", "list", "--tenant", "acme")
    off, on = (json.loads(line) for line in ops("audit", "--tenant", "acme").splitlines())
    assert [(c["action"], c["by"], c["reason"], c["side"]) for c in (on, off)] == [
        ("switch_on", OLGA, "it pays twice", "platform"),
        ("switch_off", OLGA, "mended", "platform"),
    ]
    assert json.loads(ops("audit"))["subject"] == "read_only"


def test_the_audit_is_read_on_where_a_page_ended(ops: Desk) -> None:
    for value in ("1", "2", "3"):
        ops("limits", "set", "user_runs", value)
    *first, more = ops("audit", "--limit", "2").splitlines()
    assert [json.loads(line)["after"] for line in first] == ["3", "2"]
    assert json.loads(ops("audit", "--before", more.split()[-1]))["after"] == "1"


def test_a_deployment_is_noted_with_the_release_and_who_deployed_it(ops: Desk) -> None:
    ops("note-deployment", "--reason", "better prompt")
    [change] = ops.audit.changes("", limit=10)[0]
    assert (change.action, change.by, change.subject) == ("deploy", OLGA, f"release {PROD.release}")
    assert json.loads(change.after or "")["sha256"] == ops.deployment.release().sha256


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
    assert re.search(rf"run\.created +by {header.user_id} \(user\) under {header.release}", said)
    assert "a secret question" in ops("runs", "show", "acme", header.run_id, "--contents")


def test_tools_that_changed_at_their_servers_are_listed_with_what_became_of_them(ops: Desk) -> None:
    assert "0 shown" in ops("tools", "stopped")
    ops.deployment = replace(ops.deployment, stage=replace(PROD, release=STAGES["local"].release))
    current, replaced = TOOLS["parcels__track_parcel"].contract.sha256(), "0" * 64
    for contract in (current, replaced):
        ops.stopped.stop(contract, tool="parcels__track_parcel")
    told = ops("tools", "stopped")
    assert "2 shown" in told
    for contract, now in ((current, "refused until it is reviewed"), (replaced, "not of the release")):
        [row] = [line for line in told.splitlines() if contract[:12] in line]
        assert "parcels__track_parcel" in row
        assert f"{FakeClock().now():%Y-%m-%d}" in row
        assert now in row


def test_a_refusal_names_what_is_wrong(ops: Desk) -> None:
    assert "tenant_id: " in ops("switches", "on", "everything", "--tenant", "No Tenant", "--reason", "x", code=1)
    assert "reason: " in ops("switches", "on", "everything", "--reason", "", code=1)
    assert "value: user_runs is between" in ops("limits", "set", "user_runs", "10001", code=1)
    assert "name: there is no such limit" in ops("limits", "set", "sunshine", "1", code=1)


@pytest.mark.parametrize("what", ["tool:isue_refund", "release:support-desk-0", "agent:desk", "model:gpt"])
def test_a_switch_of_a_name_that_nobody_knows_is_put_on_with_a_warning(ops: Desk, what: str) -> None:
    assert "warning: no " in ops("switches", "on", what, "--reason", "an incident")
    assert what in ops("switches", "list")


@pytest.mark.parametrize("what", ["tool:issue_refund", "release:support-desk-1", "agent:support_desk", "read_only"])
def test_a_switch_of_what_there_is_needs_no_warning(ops: Desk, what: str) -> None:
    assert "warning" not in ops("switches", "on", what, "--reason", "an incident")


def test_a_table_is_whole_on_a_narrow_terminal(ops: Desk) -> None:
    reason = "it pays twice, " * 10
    ops("switches", "on", "tool:issue_refund", "--reason", reason)
    [row] = [line for line in ops("switches", "list", columns=40).splitlines() if "issue_refund" in line]
    assert OLGA in row
    assert reason.strip() in row


def test_who_has_no_credentials_is_told_so(ops: Desk) -> None:
    ops.deployment = replace(ops.deployment, credentials=lambda: None)
    assert "error: keepgate-prod-administer can't be invoked: Unable to locate credentials" in ops(
        "limits", "show", code=1
    )
