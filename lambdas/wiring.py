"""What each door is given: the only place that chooses the ports.

Each function imports what its door needs **inside itself**, and this is the one module that does so: every door imports
this file, and a door that streams events must not pay for Cedar, the loop or a Bedrock client at its cold start.
"""

import os
from functools import cache
from typing import TYPE_CHECKING, Any

from lambdas import clients
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

    from agent.admission import Room1
    from agent.aws.allowances import DynamoDbAllowances
    from agent.aws.breakers import DynamoDbBreakers
    from agent.aws.controls import DynamoDbControlBook
    from agent.aws.functions import LambdaResourceFacts, LambdaToolRunner, LambdaWake
    from agent.aws.ledger import DynamoDbLedger
    from agent.aws.limits import DynamoDbLimitBook
    from agent.aws.progress import DynamoDbProgressNotes
    from agent.aws.run_log import DynamoDbRunLog
    from agent.contracts import Contract
    from agent.decided_call import ToolRoom
    from agent.dispatch import Dispatcher
    from agent.operating import Desk
    from agent.queued_calls import QueueWorker
    from agent.release import Release
    from agent.runtime import Runtime
    from agent.sweep import Sweeper
    from agent.tools import Tool
    from agent.watching import Room1Reader


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
        accounts=DynamoDbAccounts(clients.client("dynamodb"), settings.ledger_table, _limits(settings)),
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
        model=BedrockModel(clients.bedrock, guardrail),
        tool_runner=_tool_runner(settings),
        facts=_facts(settings),
        dispatcher=_dispatcher(settings),
        wake=_wake(settings.agent_function),
        breakers=_breakers(settings),
        controls=_controls(settings.control_table),
        policy=CedarPolicy.load(_agent_folder() / "policies"),
        directory=CognitoDirectory(clients.client("cognito-idp"), settings.user_pool_id),
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
    from agent.decided_call import ToolRoom
    from agent.mcp_client import McpClient
    from agent.pinned_call import Outside

    tools = _tools(settings.stage)
    clock = SystemClock()
    log = _run_log(settings.runs_table)
    notes = _notes(settings.progress_table)
    access = TenantSessions(
        sts=clients.client("sts"),
        role_arn=settings.data_role_arn,
        table=settings.tenant_table,
        bucket=settings.bucket,
        connect=Connect(dynamodb=clients.tenant_dynamodb, s3=clients.tenant_s3, secrets=clients.tenant_secrets),
        clock=clock,
        secret_store=SecretStore(settings.secrets_prefix, clock),
    )
    outside = Outside(
        servers=McpClient(clock, on_the_loopback=json.loads(settings.tool_servers or "{}")),
        stopped=DynamoDbStoppedTools(clients.client("dynamodb"), settings.control_table, clock),
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
    from agent.aws.stopped_tools import DynamoDbStoppedTools
    from agent.operating import Desk

    clock = SystemClock()
    return Desk(
        switches=_controls(settings.control_table),
        limits=_limits(settings),
        audit=DynamoDbAuditTrail(clients.client("dynamodb"), settings.control_table),
        clock=clock,
        stopped_tools=DynamoDbStoppedTools(clients.client("dynamodb"), settings.control_table, clock),
    )


def callers(settings: AdministerSettings) -> "Callable[[str, str], str]":
    """Return what finds out who signed a command."""
    from agent.aws import caller
    from agent.aws.clock import SystemClock

    sts_url, clock = clients.client("sts").meta.endpoint_url, SystemClock()

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

    return DynamoDbRunLog(clients.client("dynamodb"), table)


def _ledger(settings: RunAgentSettings | SweepRunsSettings) -> "DynamoDbLedger":
    from agent.aws.ledger import DynamoDbLedger

    return DynamoDbLedger(
        clients.client("dynamodb"), settings.ledger_table, _limits(settings), settings.platform_shards
    )


def _allowances(settings: RunAgentSettings | SweepRunsSettings) -> "DynamoDbAllowances":
    from agent.aws.allowances import DynamoDbAllowances

    return DynamoDbAllowances(clients.client("dynamodb"), settings.ledger_table, _limits(settings))


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
    return DynamoDbLimitBook(clients.client("dynamodb"), settings.control_table, defaults, clock=SystemClock())


def _dispatcher(settings: RunAgentSettings | WorkToolQueueSettings | SweepRunsSettings) -> "Dispatcher":
    from agent.aws.clock import SystemClock
    from agent.aws.job_lines import DynamoDbJobLines
    from agent.aws.tool_queue import SqsToolQueue
    from agent.dispatch import Dispatcher

    return Dispatcher(
        lines=DynamoDbJobLines(clients.client("dynamodb"), settings.runs_table),
        queue=SqsToolQueue(clients.client("sqs"), settings.tool_queue_url),
        limits=_limits(settings),
        clock=SystemClock(),
    )


def _notes(table: str) -> "DynamoDbProgressNotes":
    from agent.aws.clock import SystemClock
    from agent.aws.progress import DynamoDbProgressNotes

    return DynamoDbProgressNotes(clients.client("dynamodb"), table, SystemClock())


def _breakers(settings: BreakerSettings) -> "DynamoDbBreakers":
    from agent.aws.breakers import DynamoDbBreakers
    from agent.aws.clock import SystemClock
    from agent.ports.breakers import BreakerRules

    rules = BreakerRules(
        failures=settings.breaker_failures, window_s=settings.breaker_window_s, open_s=settings.breaker_open_s
    )
    return DynamoDbBreakers(clients.client("dynamodb"), settings.control_table, rules, SystemClock())


@cache
def _controls(table: str) -> "DynamoDbControlBook":
    from agent.aws.clock import SystemClock
    from agent.aws.controls import DynamoDbControlBook

    return DynamoDbControlBook(clients.client("dynamodb"), table, clock=SystemClock())


def _wake(function: str) -> "LambdaWake":
    from agent.aws.functions import LambdaWake

    return LambdaWake(clients.client("lambda"), function)


def _tool_runner(settings: RunAgentSettings | WorkToolQueueSettings) -> "LambdaToolRunner":
    from agent.aws.functions import LambdaToolRunner

    return LambdaToolRunner(clients.patient_lambda, settings.tool_function, isolates_tenants=settings.isolates_tenants)


def _facts(settings: RunAgentSettings) -> "LambdaResourceFacts":
    from agent.aws.functions import LambdaResourceFacts

    client = clients.new("lambda", read_timeout_s=clients.FACTS_TIMEOUT_S, attempts=1)
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
