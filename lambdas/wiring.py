"""What each door is given: the only place that builds AWS clients and chooses the ports.

Each function imports what its door needs **inside itself**, and this is the one module that does so: every door imports
this file, and a door that streams events must not pay for Cedar, the loop or a Bedrock client at its cold start.
Clients are built once per process, with their timeouts said aloud: the SDK's defaults wait a minute and try five times.
"""

import math
import os
from functools import cache
from typing import TYPE_CHECKING, Any

from lambdas.settings import (
    AdministerSettings,
    BreakerSettings,
    LimitedSettings,
    RunAgentSettings,
    RunToolSettings,
    ShimSettings,
    StreamEventsSettings,
    SweepRunsSettings,
    WorkToolQueueSettings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mypy_boto3_bedrock_runtime import BedrockRuntimeClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sts.type_defs import CredentialsTypeDef

    from agent.admission import Room1
    from agent.aws.allowances import DynamoDbAllowances
    from agent.aws.breakers import DynamoDbBreakers
    from agent.aws.controls import DynamoDbControlBook
    from agent.aws.functions import LambdaResourceFacts, LambdaToolRunner, LambdaWake
    from agent.aws.ledger import DynamoDbLedger
    from agent.aws.limits import DynamoDbLimitBook
    from agent.aws.progress import DynamoDbProgressNotes
    from agent.aws.run_log import DynamoDbRunLog
    from agent.dispatch import Dispatcher
    from agent.execution import ToolRoom
    from agent.operating import Desk
    from agent.queued_calls import QueueWorker
    from agent.release import Release
    from agent.runtime import Runtime
    from agent.sweep import Sweeper
    from agent.tools import Contract, Tool
    from agent.watching import Room1Reader

CONNECT_TIMEOUT_S = 2
READ_TIMEOUT_S = 3
"""For a call that answers at once: a table, the queue, an asynchronous invoke."""
FACTS_TIMEOUT_S = 5
"""For what a resource is: the start of a function and a read; a run does not hear meanwhile."""
FILE_TIMEOUT_S = 30
"""For an object of the bucket."""
TIMEOUT_STEP_S = 10


def shim(settings: ShimSettings) -> "Room1":
    """Return what `lambdas.shim` needs."""
    from agent.admission import Room1
    from agent.aws.accounts import DynamoDbAccounts
    from agent.aws.clock import SystemClock

    return Room1(
        log=_run_log(settings.runs_table),
        wake=_wake(settings.agent_function),
        clock=SystemClock(),
        limits=_limits(settings),
        release=_release(settings.release),
        controls=_controls(settings.control_table),
        accounts=DynamoDbAccounts(_client("dynamodb"), settings.ledger_table, _limits(settings)),
        contracts=_contracts(),
    )


def stream_events(settings: StreamEventsSettings) -> "Room1Reader":
    """Return what `lambdas.stream_events` needs."""
    from agent.aws.clock import SystemClock
    from agent.watching import Room1Reader

    return Room1Reader(log=_run_log(settings.runs_table), clock=SystemClock())


def agent_runtime(settings: RunAgentSettings) -> "Runtime":
    """Return what `lambdas.run_agent` works with."""
    import random

    from agent.aws.bedrock import BedrockModel, Guardrail
    from agent.aws.clock import SystemClock
    from agent.aws.directory import CognitoDirectory
    from agent.policy import CedarPolicy
    from agent.pricing import Prices
    from agent.runtime import Runtime

    # An identifier without a version makes every call fail: half a setting guards nothing, so it must not work.
    guardrail = Guardrail(settings.guardrail_id, settings.guardrail_version) if settings.guardrail_id else None
    return Runtime(
        log=_run_log(settings.runs_table),
        ledger=_ledger(settings),
        allowances=_allowances(settings),
        limits=_limits(settings),
        model=BedrockModel(_bedrock, guardrail),
        tool_runner=_tool_runner(settings),
        facts=_facts(settings),
        dispatcher=_dispatcher(settings),
        wake=_wake(settings.agent_function),
        breakers=_breakers(settings),
        controls=_controls(settings.control_table),
        policy=CedarPolicy.load(_agent_folder() / "policies"),
        directory=CognitoDirectory(_client("cognito-idp"), settings.user_pool_id),
        clock=SystemClock(),
        random=random.random,
        releases=_release,
        tools=_tools(settings.stage),
        prices=Prices.read(),
    )


def tool_room(settings: RunToolSettings, tell_changed: "Callable[[Contract], None]" = lambda _: None) -> "ToolRoom":
    """Return what `lambdas.run_tool` works with, and take the function's own credentials out of its environment.

    `tell_changed` is told of each call of a server's tool that is refused because the tool has changed.
    """
    import json

    from agent.aws.clock import SystemClock
    from agent.aws.secrets import SecretStore
    from agent.aws.stopped_tools import DynamoDbStoppedTools
    from agent.aws.tenant_sessions import Connect, TenantSessions, drop_ambient_credentials
    from agent.execution import ToolRoom
    from agent.mcp_client import McpClient
    from agent.pinned_call import Outside

    tools = _tools(settings.stage)
    clock = SystemClock()
    log = _run_log(settings.runs_table)
    notes = _notes(settings.progress_table)
    access = TenantSessions(
        sts=_client("sts"),
        role_arn=settings.data_role_arn,
        table=settings.tenant_table,
        bucket=settings.bucket,
        connect=Connect(dynamodb=_tenant_dynamodb, s3=_tenant_s3, secrets=_tenant_secrets),
        clock=clock,
        secret_store=SecretStore(settings.secrets_prefix, clock),
    )
    outside = Outside(
        servers=McpClient(clock, on_the_loopback=json.loads(settings.tool_servers or "{}")),
        stopped=DynamoDbStoppedTools(_client("dynamodb"), settings.control_table, clock),
        tell_changed=tell_changed,
    )
    drop_ambient_credentials(os.environ)
    return ToolRoom(log=log, tools=tools, access=access, clock=clock, notes=notes, outside=outside)


def queue_worker(settings: WorkToolQueueSettings) -> "QueueWorker":
    """Return what `lambdas.work_tool_queue` works with."""
    from agent.aws.clock import SystemClock
    from agent.queued_calls import QueueWorker

    return QueueWorker(
        log=_run_log(settings.runs_table),
        tool_runner=_tool_runner(settings),
        wake=_wake(settings.agent_function),
        dispatcher=_dispatcher(settings),
        breakers=_breakers(settings),
        notes=_notes(settings.progress_table),
        tools=_tools(settings.stage),
        releases=_release,
        clock=SystemClock(),
        controls=_controls(settings.control_table),
        agent=_agent_folder().name,
    )


def operators_desk(settings: LimitedSettings) -> "Desk":
    """Return what operators work with."""
    from agent.aws.audit import DynamoDbAuditTrail
    from agent.aws.clock import SystemClock
    from agent.operating import Desk

    return Desk(
        switches=_controls(settings.control_table),
        limits=_limits(settings),
        audit=DynamoDbAuditTrail(_client("dynamodb"), settings.control_table),
        clock=SystemClock(),
    )


def callers(settings: AdministerSettings) -> "Callable[[str, str], str]":
    """Return what finds out who signed a command."""
    from agent.aws import caller
    from agent.aws.clock import SystemClock

    sts_url, clock = _client("sts").meta.endpoint_url, SystemClock()

    def who(proof: str, command_json: str) -> str:
        return caller.require_caller(
            proof,
            bound=caller.bound_to(settings.function, command_json),
            sts_url=sts_url,
            account=settings.account,
            clock=clock,
            send=caller.get,
        )

    return who


def sweeper(settings: SweepRunsSettings) -> "Sweeper":
    """Return what `lambdas.sweep_runs` works with."""
    from agent.aws.clock import SystemClock
    from agent.sweep import Sweeper

    return Sweeper(
        log=_run_log(settings.runs_table),
        ledger=_ledger(settings),
        allowances=_allowances(settings),
        wake=_wake(settings.agent_function),
        dispatcher=_dispatcher(settings),
        clock=SystemClock(),
    )


def _run_log(table: str) -> "DynamoDbRunLog":
    from agent.aws.run_log import DynamoDbRunLog

    return DynamoDbRunLog(_client("dynamodb"), table)


def _ledger(settings: RunAgentSettings | SweepRunsSettings) -> "DynamoDbLedger":
    from agent.aws.ledger import DynamoDbLedger

    return DynamoDbLedger(_client("dynamodb"), settings.ledger_table, _limits(settings), settings.platform_shards)


def _allowances(settings: RunAgentSettings | SweepRunsSettings) -> "DynamoDbAllowances":
    from agent.aws.allowances import DynamoDbAllowances

    return DynamoDbAllowances(_client("dynamodb"), settings.ledger_table, _limits(settings))


@cache
def _limits(settings: LimitedSettings) -> "DynamoDbLimitBook":
    from agent.aws.clock import SystemClock
    from agent.aws.limits import DynamoDbLimitBook
    from agent.limits import Limits, read_allowances

    defaults = Limits(
        user_day_micros=settings.user_day_limit_micros,
        tenant_month_micros=settings.tenant_month_limit_micros,
        platform_month_micros=settings.platform_month_limit_micros,
        user_runs=settings.user_runs_limit,
        tenant_runs=settings.tenant_runs_limit,
        tenant_jobs=settings.tenant_jobs_limit,
        allowances=read_allowances(_agent_folder() / "limits.toml", settings.stage),
    )
    return DynamoDbLimitBook(_client("dynamodb"), settings.control_table, defaults, clock=SystemClock())


def _dispatcher(settings: RunAgentSettings | WorkToolQueueSettings | SweepRunsSettings) -> "Dispatcher":
    from agent.aws.clock import SystemClock
    from agent.aws.job_lines import DynamoDbJobLines
    from agent.aws.tool_queue import SqsToolQueue
    from agent.dispatch import Dispatcher

    return Dispatcher(
        lines=DynamoDbJobLines(_client("dynamodb"), settings.runs_table),
        queue=SqsToolQueue(_client("sqs"), settings.tool_queue_url),
        limits=_limits(settings),
        clock=SystemClock(),
    )


def _notes(table: str) -> "DynamoDbProgressNotes":
    from agent.aws.clock import SystemClock
    from agent.aws.progress import DynamoDbProgressNotes

    return DynamoDbProgressNotes(_client("dynamodb"), table, SystemClock())


def _breakers(settings: BreakerSettings) -> "DynamoDbBreakers":
    from agent.aws.breakers import DynamoDbBreakers
    from agent.aws.clock import SystemClock
    from agent.ports.breakers import BreakerRules

    rules = BreakerRules(
        failures=settings.breaker_failures, window_s=settings.breaker_window_s, open_s=settings.breaker_open_s
    )
    return DynamoDbBreakers(_client("dynamodb"), settings.control_table, rules, SystemClock())


@cache
def _controls(table: str) -> "DynamoDbControlBook":
    from agent.aws.clock import SystemClock
    from agent.aws.controls import DynamoDbControlBook

    return DynamoDbControlBook(_client("dynamodb"), table, clock=SystemClock())


def _wake(function: str) -> "LambdaWake":
    from agent.aws.functions import LambdaWake

    return LambdaWake(_client("lambda"), function)


def _tool_runner(settings: RunAgentSettings | WorkToolQueueSettings) -> "LambdaToolRunner":
    from agent.aws.functions import LambdaToolRunner

    return LambdaToolRunner(_patient_lambda, settings.tool_function, isolates_tenants=settings.isolates_tenants)


def _facts(settings: RunAgentSettings) -> "LambdaResourceFacts":
    from agent.aws.functions import LambdaResourceFacts

    client = _new("lambda", read_timeout_s=FACTS_TIMEOUT_S, attempts=1)
    return LambdaResourceFacts(client, settings.tool_function, isolates_tenants=settings.isolates_tenants)


def _agent_folder() -> "Path":
    from pathlib import Path

    import support_desk

    return Path(support_desk.__path__[0])


@cache
def _release(name: str) -> "Release":
    from agent.release import Release

    return Release.read(_agent_folder(), name)


def _contracts() -> dict[str, "Contract"]:
    """Return the tools' contracts as data: the people's room imports no tool."""
    from agent import contract_lock

    return contract_lock.contracts(_agent_folder() / contract_lock.FILE)


def _tools(stage: str) -> "Mapping[str, Tool[Any]]":
    """Return the tools, having checked that they are the reviewed ones."""
    from agent.contract_lock import require_locked
    from support_desk.tools import TOOLS

    require_locked(TOOLS, _agent_folder(), stage)
    return TOOLS


def _bedrock(read_timeout_s: float) -> "BedrockRuntimeClient":
    client: BedrockRuntimeClient = _patient_client("bedrock-runtime", _step(read_timeout_s))
    return client


def _patient_lambda(read_timeout_s: float) -> "LambdaClient":
    client: LambdaClient = _patient_client("lambda", _step(read_timeout_s))
    return client


def _step(seconds: float) -> int:
    """Round up, so that timeouts cut short by a lease's end don't each build a client."""
    return math.ceil(seconds / TIMEOUT_STEP_S) * TIMEOUT_STEP_S


@cache
def _patient_client(service: str, read_timeout_s: int) -> Any:  # noqa: ANN401 - the caller says which
    # No retries of the SDK: a model call's attempts are the loop's to make and to pay for, and a tool whose answer was
    # lost must not be run again.
    return _new(service, read_timeout_s=read_timeout_s, attempts=1)


def _tenant_dynamodb(credentials: "CredentialsTypeDef") -> "DynamoDBClient":
    client: DynamoDBClient = _new("dynamodb", credentials=credentials)
    return client


def _tenant_s3(credentials: "CredentialsTypeDef") -> "S3Client":
    client: S3Client = _new("s3", read_timeout_s=FILE_TIMEOUT_S, credentials=credentials)
    return client


def _tenant_secrets(credentials: "CredentialsTypeDef") -> "SecretsManagerClient":
    client: SecretsManagerClient = _new("secretsmanager", credentials=credentials)
    return client


@cache
def _client(service: str) -> Any:  # noqa: ANN401 - as above
    return _new(service)


def _new(
    service: str,
    *,
    read_timeout_s: int = READ_TIMEOUT_S,
    attempts: int = 2,
    credentials: "CredentialsTypeDef | None" = None,
) -> Any:  # noqa: ANN401 - as above
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": attempts},
        tcp_keepalive=True,
    )
    held = (
        {}
        if credentials is None
        else {
            "aws_access_key_id": credentials["AccessKeyId"],
            "aws_secret_access_key": credentials["SecretAccessKey"],
            "aws_session_token": credentials["SessionToken"],
        }
    )
    make: Any = boto3.client  # it has an overload for each service's name
    return make(service, config=config, **held)
