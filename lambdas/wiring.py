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
    from pathlib import Path

    from mypy_boto3_bedrock_runtime import BedrockRuntimeClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sts.type_defs import CredentialsTypeDef

    from agent.admission import Room1
    from agent.aws.breakers import DynamoDbBreakers
    from agent.aws.functions import LambdaToolRunner, LambdaWake
    from agent.aws.ledger import DynamoDbLedger
    from agent.aws.limits import DynamoDbLimitBook
    from agent.aws.progress import DynamoDbProgressNotes
    from agent.aws.run_log import DynamoDbRunLog
    from agent.dispatch import Dispatcher
    from agent.execution import ToolRoom
    from agent.queued_calls import QueueWorker
    from agent.release import Release
    from agent.runtime import Runtime
    from agent.sweep import Sweeper
    from agent.tools import Contract
    from agent.watching import Room1Reader

CONNECT_TIMEOUT_S = 2
READ_TIMEOUT_S = 3
"""For a call that answers at once: a table, the queue, an asynchronous invoke."""
FILE_TIMEOUT_S = 30
"""For an object of the bucket."""
TIMEOUT_STEP_S = 10


def shim(settings: ShimSettings) -> "Room1":
    """Return what `lambdas.shim` needs."""
    from agent.admission import Room1
    from agent.aws.clock import SystemClock

    return Room1(
        log=_run_log(settings.runs_table),
        wake=_wake(settings.agent_function),
        clock=SystemClock(),
        limits=_limits(settings),
        release=_release(settings.release),
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

    from agent.aws.bedrock import BedrockModel
    from agent.aws.clock import SystemClock
    from agent.aws.directory import CognitoDirectory
    from agent.policy import CedarPolicy
    from agent.pricing import Prices
    from agent.runtime import Runtime
    from support_desk.tools import TOOLS

    return Runtime(
        log=_run_log(settings.runs_table),
        ledger=_ledger(settings),
        model=BedrockModel(_bedrock),
        tool_runner=_tool_runner(settings.tool_function),
        dispatcher=_dispatcher(settings),
        wake=_wake(settings.agent_function),
        breakers=_breakers(settings),
        policy=CedarPolicy.load(_agent_folder() / "policies"),
        directory=CognitoDirectory(_client("cognito-idp"), settings.user_pool_id),
        clock=SystemClock(),
        random=random.random,
        releases=_release,
        tools=TOOLS,
        prices=Prices.read(),
    )


def tool_room(settings: RunToolSettings) -> "ToolRoom":
    """Return what `lambdas.run_tool` works with, and take the function's own credentials out of its environment."""
    from agent.aws.clock import SystemClock
    from agent.aws.tenant_sessions import Connect, TenantSessions, drop_ambient_credentials
    from agent.execution import ToolRoom
    from support_desk.tools import TOOLS

    clock = SystemClock()
    log = _run_log(settings.runs_table)
    notes = _notes(settings.progress_table)
    access = TenantSessions(
        sts=_client("sts"),
        role_arn=settings.data_role_arn,
        table=settings.tenant_table,
        bucket=settings.bucket,
        connect=Connect(dynamodb=_tenant_dynamodb, s3=_tenant_s3),
        clock=clock,
    )
    drop_ambient_credentials(os.environ)
    return ToolRoom(log=log, tools=TOOLS, access=access, clock=clock, notes=notes)


def queue_worker(settings: WorkToolQueueSettings) -> "QueueWorker":
    """Return what `lambdas.work_tool_queue` works with."""
    from agent.aws.clock import SystemClock
    from agent.queued_calls import QueueWorker
    from support_desk.tools import TOOLS

    return QueueWorker(
        log=_run_log(settings.runs_table),
        tool_runner=_tool_runner(settings.tool_function),
        wake=_wake(settings.agent_function),
        dispatcher=_dispatcher(settings),
        breakers=_breakers(settings),
        notes=_notes(settings.progress_table),
        tools=TOOLS,
        clock=SystemClock(),
    )


def sweeper(settings: SweepRunsSettings) -> "Sweeper":
    """Return what `lambdas.sweep_runs` works with."""
    from agent.aws.clock import SystemClock
    from agent.sweep import Sweeper

    return Sweeper(
        log=_run_log(settings.runs_table),
        ledger=_ledger(settings),
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


@cache
def _limits(settings: LimitedSettings) -> "DynamoDbLimitBook":
    from agent.aws.clock import SystemClock
    from agent.aws.limits import DynamoDbLimitBook
    from agent.limits import Limits

    defaults = Limits(
        user_day_micros=settings.user_day_limit_micros,
        tenant_month_micros=settings.tenant_month_limit_micros,
        platform_month_micros=settings.platform_month_limit_micros,
        user_runs=settings.user_runs_limit,
        tenant_runs=settings.tenant_runs_limit,
        tenant_jobs=settings.tenant_jobs_limit,
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
    from agent.ports import BreakerRules

    rules = BreakerRules(
        failures=settings.breaker_failures, window_s=settings.breaker_window_s, open_s=settings.breaker_open_s
    )
    return DynamoDbBreakers(_client("dynamodb"), settings.control_table, rules, SystemClock())


def _wake(function: str) -> "LambdaWake":
    from agent.aws.functions import LambdaWake

    return LambdaWake(_client("lambda"), function)


def _tool_runner(function: str) -> "LambdaToolRunner":
    from agent.aws.functions import LambdaToolRunner

    return LambdaToolRunner(_patient_lambda, function)


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
    import json

    from agent.tools import Contract

    locked = json.loads((_agent_folder() / "contracts.lock.json").read_text(encoding="utf-8"))
    return {name: Contract.model_validate(entry["contract"]) for name, entry in locked.items()}


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
