"""What each door is given: the only place that builds AWS clients and chooses the ports.

Each function imports what its door needs **inside itself**, and this is the one module that does so: every door imports
this file, and a door that streams events must not pay for Cedar, the loop or a Bedrock client at its cold start.
Clients are built once per process, with their timeouts said aloud: the SDK's defaults wait a minute and try five times.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from lambdas.settings import (
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
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sts import STSClient
    from mypy_boto3_sts.type_defs import CredentialsTypeDef

    from agent.admission import Room1
    from agent.aws.functions import LambdaToolRunner
    from agent.aws.ledger import DynamoDbLedger
    from agent.aws.run_log import DynamoDbRunLog
    from agent.execution import ToolRoom
    from agent.queued_calls import QueueWorker
    from agent.release import Release
    from agent.runtime import Runtime
    from agent.sweep import Sweeper
    from agent.watching import Room1Reader

CONNECT_TIMEOUT_S = 2
READ_TIMEOUT_S = 5
"""For a call that answers at once: a table, the queue, an asynchronous invoke."""

FILE_TIMEOUT_S = 30
"""For a file of some megabytes."""


def shim(settings: ShimSettings) -> "Room1":
    """Return what `lambdas.shim` needs."""
    from agent.admission import Room1
    from agent.aws.clock import SystemClock
    from agent.aws.functions import LambdaWake

    release = _release(settings.release)
    return Room1(_run_log(settings.runs_table), LambdaWake(_lambda(), settings.agent_function), SystemClock(), release)


def stream_events(settings: StreamEventsSettings) -> "Room1Reader":
    """Return what `lambdas.stream_events` needs."""
    from agent.aws.clock import SystemClock
    from agent.watching import Room1Reader

    return Room1Reader(_run_log(settings.runs_table), SystemClock())


def tool_room(settings: RunToolSettings) -> "ToolRoom":
    """Return what `lambdas.run_tool` needs. After it the environment holds no credentials that a tool could pick up."""
    import os

    from agent.aws.clock import SystemClock
    from agent.aws.tenant_sessions import Connect, TenantSessions, drop_ambient_credentials
    from agent.execution import ToolRoom
    from support_desk.tools import TOOLS

    clock = SystemClock()
    access = TenantSessions(
        sts=_sts(),
        role_arn=settings.data_role_arn,
        table=settings.tenant_table,
        bucket=settings.bucket,
        connect=Connect(dynamodb=_tenants_dynamodb, s3=_tenants_s3),
        clock=clock,
    )
    room = ToolRoom(log=_run_log(settings.runs_table), tools=TOOLS, access=access, clock=clock)
    drop_ambient_credentials(os.environ)
    return room


def queue_worker(settings: WorkToolQueueSettings) -> "QueueWorker":
    """Return what `lambdas.work_tool_queue` needs."""
    from agent.aws.clock import SystemClock
    from agent.aws.functions import LambdaWake
    from agent.queued_calls import QueueWorker
    from support_desk.tools import TOOLS

    return QueueWorker(
        log=_run_log(settings.runs_table),
        tool_runner=_tool_runner(settings.tool_function),
        wake=LambdaWake(_lambda(), settings.agent_function),
        tools=TOOLS,
        clock=SystemClock(),
    )


def agent_runtime(settings: RunAgentSettings) -> "Runtime":
    """Return what `lambdas.run_agent` works with."""
    import random

    from agent.aws.bedrock import BedrockModel
    from agent.aws.clock import SystemClock
    from agent.aws.functions import LambdaWake
    from agent.aws.tool_queue import SqsToolQueue
    from agent.policy import CedarPolicy
    from agent.pricing import Prices
    from agent.runtime import Runtime
    from support_desk.tools import TOOLS

    return Runtime(
        log=_run_log(settings.runs_table),
        ledger=_ledger(settings),
        model=BedrockModel(_bedrock),
        tool_runner=_tool_runner(settings.tool_function),
        tool_queue=SqsToolQueue(_sqs(), settings.tool_queue_url),
        wake=LambdaWake(_lambda(), settings.agent_function),
        policy=CedarPolicy.load(_agent_folder() / "policies"),
        clock=SystemClock(),
        random=random.random,
        releases=_release,
        tools=TOOLS,
        prices=Prices.read(),
    )


def sweeper(settings: SweepRunsSettings) -> "Sweeper":
    """Return what `lambdas.sweep_runs` works with."""
    from agent.aws.clock import SystemClock
    from agent.aws.functions import LambdaWake
    from agent.sweep import Sweeper

    return Sweeper(
        log=_run_log(settings.runs_table),
        ledger=_ledger(settings),
        wake=LambdaWake(_lambda(), settings.agent_function),
        clock=SystemClock(),
    )


def _run_log(table: str) -> "DynamoDbRunLog":
    from agent.aws.run_log import DynamoDbRunLog

    return DynamoDbRunLog(_dynamodb(), table)


def _ledger(settings: RunAgentSettings | SweepRunsSettings) -> "DynamoDbLedger":
    from agent.aws.ledger import DynamoDbLedger
    from agent.limits import Limits

    limits = Limits(
        settings.user_day_limit_micros, settings.tenant_month_limit_micros, settings.platform_month_limit_micros
    )
    return DynamoDbLedger(_dynamodb(), settings.ledger_table, limits, settings.platform_shards)


def _tool_runner(function: str) -> "LambdaToolRunner":
    from agent.aws.functions import LambdaToolRunner

    return LambdaToolRunner(_patient_lambda, function)


@cache
def _release(name: str) -> "Release":
    from agent.release import Release

    return Release.read(_agent_folder(), name)


def _agent_folder() -> "Path":
    from pathlib import Path

    import support_desk

    return Path(support_desk.__path__[0])


@cache
def _dynamodb() -> "DynamoDBClient":
    import boto3

    return boto3.client("dynamodb", config=_config())


@cache
def _lambda() -> "LambdaClient":
    import boto3

    return boto3.client("lambda", config=_config())


@cache
def _patient_lambda(read_timeout_s: float) -> "LambdaClient":
    import boto3

    return boto3.client("lambda", config=_config(read_timeout_s=read_timeout_s, attempts=1))


@cache
def _bedrock(read_timeout_s: float) -> "BedrockRuntimeClient":
    import boto3

    return boto3.client("bedrock-runtime", config=_config(read_timeout_s=read_timeout_s, attempts=1))


@cache
def _sqs() -> "SQSClient":
    import boto3

    return boto3.client("sqs", config=_config())


@cache
def _sts() -> "STSClient":
    import boto3

    return boto3.client("sts", config=_config())


def _tenants_dynamodb(session: "CredentialsTypeDef") -> "DynamoDBClient":
    import boto3

    return boto3.client(
        "dynamodb",
        config=_config(),
        aws_access_key_id=session["AccessKeyId"],
        aws_secret_access_key=session["SecretAccessKey"],
        aws_session_token=session["SessionToken"],
    )


def _tenants_s3(session: "CredentialsTypeDef") -> "S3Client":
    import boto3

    return boto3.client(
        "s3",
        config=_config(read_timeout_s=FILE_TIMEOUT_S),
        aws_access_key_id=session["AccessKeyId"],
        aws_secret_access_key=session["SecretAccessKey"],
        aws_session_token=session["SessionToken"],
    )


def _config(*, read_timeout_s: float = READ_TIMEOUT_S, attempts: int = 3) -> Any:  # noqa: ANN401 - imported inside
    from botocore.config import Config

    return Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": attempts},
        tcp_keepalive=True,
    )
