"""Each door gets its ports, and pays at its start for nothing that it doesn't use."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import NoCredentialsError

from agent import contract_lock
from agent.aws.bedrock import BedrockModel
from agent.aws.directory import CognitoDirectory
from agent.aws.functions import LambdaResourceFacts, LambdaToolRunner, LambdaWake
from agent.aws.ledger import DynamoDbLedger
from agent.aws.run_log import DynamoDbRunLog
from agent.aws.tenant_sessions import AMBIENT, NOWHERE
from agent.aws.tool_queue import SqsToolQueue
from agent.errors import ConfigurationInvalid
from agent.limits import Limits, read_allowances
from lambdas import clients, wiring
from lambdas.settings import (
    RunAgentSettings,
    RunToolSettings,
    ShimSettings,
    StreamEventsSettings,
    SweepRunsSettings,
    WorkToolQueueSettings,
)
from support_desk.lock_contracts import PATH
from support_desk.tools import TOOLS

STAGE: dict[str, Any] = {"stage": "test", "service": "door", "trace_exporter": "none", "runs_table": "runs"}
LIMITS: dict[str, Any] = {
    "control_table": "control",
    "user_day_limit_micros": 1,
    "tenant_month_limit_micros": 2,
    "platform_month_limit_micros": 3,
    "user_runs_limit": 4,
    "tenant_runs_limit": 5,
    "tenant_jobs_limit": 6,
}
LEDGER: dict[str, Any] = {**LIMITS, "ledger_table": "ledger", "platform_shards": 2, "tool_queue_url": "https://queue"}
BREAKERS: dict[str, Any] = {
    "breaker_failures": 5,
    "breaker_window_s": 30,
    "breaker_open_s": 30,
}
SETTINGS = {
    "shim": ShimSettings(
        **STAGE,
        **LIMITS,
        ledger_table="ledger",
        agent_function="run_agent",
        release="support-desk-1",
        client_ids="app",
        allowed_origins="",
    ),
    "stream_events": StreamEventsSettings(**STAGE, client_ids="app", allowed_origins=""),
    "agent_runtime": RunAgentSettings(
        **STAGE,
        **LEDGER,
        **BREAKERS,
        agent_function="run_agent",
        tool_function="run_tool",
        isolates_tenants=False,
        user_pool_id="eu-central-1_pool",
    ),
    "tool_room": RunToolSettings(
        **STAGE,
        tenant_table="tenants",
        bucket="files",
        data_role_arn="arn:aws:iam::1:role/data",
        progress_table="progress",
        secrets_prefix="keepgate/test",
        control_table="control",
        tool_servers="",
    ),
    "queue_worker": WorkToolQueueSettings(
        **STAGE,
        **LIMITS,
        **BREAKERS,
        tool_queue_url="https://queue",
        progress_table="progress",
        max_receives=4,
        tool_function="run_tool",
        isolates_tenants=False,
        agent_function="run_agent",
    ),
    "sweeper": SweepRunsSettings(**STAGE, **LEDGER, agent_function="run_agent"),
}
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "eu-central-1",
}


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*AMBIENT, *NOWHERE):
        monkeypatch.setenv(name, "")  # so that what the tool room changes is put back
        monkeypatch.delenv(name)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for made in (clients.client, clients._patient, wiring._release, wiring._limits):
        made.cache_clear()
    yield
    for made in (clients.client, clients._patient, wiring._release, wiring._limits):
        made.cache_clear()
    boto3.setup_default_session()


def build(door: str) -> Any:
    return getattr(wiring, door)(SETTINGS[door])


def test_the_run_api_can_append_and_wake() -> None:
    room = build("shim")
    assert isinstance(room.log, DynamoDbRunLog)
    assert isinstance(room.wake, LambdaWake)
    assert room.release.name == "support-desk-1"
    assert {name: contract.sha256() for name, contract in room.contracts.items()} == {
        name: tool.contract.sha256() for name, tool in TOOLS.items()
    }


def test_the_event_stream_can_read() -> None:
    assert isinstance(build("stream_events").log, DynamoDbRunLog)


def test_the_agent_has_model_money_tools_and_can_wake_itself() -> None:
    runtime = build("agent_runtime")
    assert isinstance(runtime.model, BedrockModel)
    assert isinstance(runtime.ledger, DynamoDbLedger)
    assert isinstance(runtime.tool_runner, LambdaToolRunner)
    assert isinstance(runtime.facts, LambdaResourceFacts)
    assert isinstance(runtime.dispatcher.queue, SqsToolQueue)
    assert runtime.wake._function == "run_agent"
    assert set(runtime.releases("support-desk-1").tools) <= set(runtime.tools)
    release = runtime.releases("support-desk-1")
    assert all(runtime.prices.of(choice.id) for choice in (release.model, release.fallback))
    allowances = read_allowances(PATH.parent / "limits.toml", "test")
    stage = Limits(1, 2, 3, user_runs=4, tenant_runs=5, tenant_jobs=6, allowances=allowances)
    assert runtime.ledger._limits._defaults == stage
    assert runtime.limits is runtime.allowances._limits is runtime.ledger._limits
    assert runtime.dispatcher.limits is runtime.ledger._limits
    assert isinstance(runtime.directory, CognitoDirectory)


def test_the_queue_worker_and_the_sweeper_have_theirs() -> None:
    assert isinstance(build("queue_worker").tool_runner, LambdaToolRunner)
    assert isinstance(build("sweeper").ledger, DynamoDbLedger)


def test_the_tool_room_keeps_its_credentials_and_leaves_none_in_the_environment() -> None:
    room = build("tool_room")
    assert room.log._client._request_signer._credentials.access_key == "test"
    assert "AWS_ACCESS_KEY_ID" not in os.environ
    with pytest.raises(NoCredentialsError):
        boto3.client("dynamodb").list_tables()


@pytest.mark.parametrize("door", ["agent_runtime", "tool_room", "queue_worker"])
def test_a_function_that_knows_tools_does_not_start_with_others_than_the_reviewed(
    door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract_lock, "read", lambda _: {})
    with pytest.raises(ConfigurationInvalid, match="not as reviewed"):
        build(door)
    assert os.environ["AWS_ACCESS_KEY_ID"] == "test"


def test_every_call_has_its_timeouts_said_and_only_harmless_ones_are_repeated() -> None:
    for client, read_s, attempts in [
        (clients.client("dynamodb"), 3, 2),
        (clients.bedrock(31.5), 40, 1),
        (clients.patient_lambda(15.0), 20, 1),
        (wiring._facts(SETTINGS["agent_runtime"])._client, 5, 1),
    ]:
        config = client.meta.config
        assert (config.connect_timeout, config.read_timeout) == (2, read_s)
        assert config.retries["total_max_attempts"] == attempts


def test_timeouts_cut_short_share_their_client() -> None:
    assert clients.bedrock(31.5) is clients.bedrock(40) is not clients.bedrock(41)


@pytest.mark.parametrize(
    ("door", "never"),
    [
        ("shim", {"cedarpy", "agent.loop", "agent.policy", "agent.aws.bedrock", "agent.aws.allowances"}),
        ("stream_events", {"cedarpy", "agent.loop", "agent.policy", "agent.aws.bedrock", "agent.aws.ledger"}),
        ("agent_runtime", {"mcp", "httpx2", "agent.mcp_client", "agent.mcp_wire", "jsonschema"}),
        (
            "tool_room",
            {"cedarpy", "agent.loop", "agent.aws.bedrock", "agent.aws.ledger", "mcp", "httpx2", "jsonschema"},
        ),
        ("queue_worker", {"cedarpy", "agent.loop", "agent.aws.bedrock", "agent.aws.ledger"}),
        ("sweeper", {"cedarpy", "agent.loop", "agent.aws.bedrock", "support_desk.tools"}),
    ],
)
def test_a_door_imports_nothing_of_the_other_rooms(door: str, never: set[str]) -> None:
    code = (
        f"import json, os, sys; os.environ.update({ENVIRONMENT!r});"
        "from lambdas import settings, wiring;"
        f"wiring.{door}(settings.{type(SETTINGS[door]).__name__}(**json.loads(sys.argv[1])));"
        "print(json.dumps(sorted(sys.modules)))"
    )
    values = json.dumps(vars(SETTINGS[door]))
    done = subprocess.run([sys.executable, "-c", code, values], capture_output=True, text=True, check=True, timeout=60)
    assert never & set(json.loads(done.stdout)) == set()
