"""The ways between the rooms: running a tool, queueing a call, waking the agent."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.config import Config
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError, SSLError
from moto.core.botocore_stubber import MockRawResponse
from pydantic import BaseModel

from agent.aws.dynamodb import Backoff
from agent.aws.functions import LambdaResourceFacts, LambdaToolRunner, LambdaWake
from agent.aws.tool_queue import SqsToolQueue
from agent.contracts import Effect
from agent.errors import (
    CallNotDecided,
    ConfigurationInvalid,
    FactsUnavailable,
    StoreUnavailable,
    ToolLost,
    ToolUnreached,
)
from agent.events import ToolCompleted
from agent.ports.tool_room import ResourceFacts, ToolReply, ToolRunner
from agent.testing.decided_run import CALL, RUN, DecidedRun
from agent.testing.rooms import InProcessResourceFacts, InProcessToolRunner
from agent.testing.tenant_data import MemoryTenantData
from agent.tools import Arguments, Facts, TenantData, ToolContext, ToolFailed, facts, tool
from lambdas import run_tool, telemetry
from lambdas.settings import Settings
from tests.contracts.conftest import Sleeps
from tests.contracts.wire import Wire, error, lose_reply

TRACEPARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


class Say(Arguments):
    text: str


class Said(BaseModel):
    text: str


class Loudness(Facts):
    decibels: int


@facts(Loudness)
def loudness(data: TenantData, voice_id: str) -> Loudness | None:
    if voice_id == "broken":
        raise ValueError("secret")
    item = data.get("voice", voice_id)
    return None if item is None else Loudness(decibels=item["decibels"])


@tool(
    effect=Effect.WRITE,
    mode="once",
    resource="Voice::all",
    facts=loudness,
    data_actions=("dynamodb:PutItem", "dynamodb:GetItem"),
    errors=("hoarse",),
)
def say(args: Say, context: ToolContext) -> Said:
    """Say something aloud, once, for the tests of the rooms."""
    if args.text == "fail":
        raise ToolFailed("hoarse", "The voice is gone.")
    if args.text == "break":
        raise ValueError("secret")
    context.data.put("said", context.call_id, {"text": args.text})
    return Said(text=args.text)


@pytest.fixture
def run() -> DecidedRun:
    return DecidedRun(say)


class Lambda:
    """Plays AWS Lambda at the far end of a client: each invocation goes to a function, or meets a fault."""

    def __init__(self, function: Callable[[dict[str, Any]], Any]) -> None:
        self.function = function
        self.faults: list[Exception | AWSResponse] = []
        self.invoked: list[tuple[str, dict[str, Any]]] = []
        self.read_timeouts: list[float] = []
        self.tenants: list[str | None] = []

    def client_for(self, read_timeout_s: float) -> Any:
        self.read_timeouts.append(read_timeout_s)
        config = Config(retries={"total_max_attempts": 1}, read_timeout=read_timeout_s)
        client = boto3.Session("test", "test", region_name="eu-central-1").client("lambda", config=config)
        client.meta.events.register("before-send", self._send)
        return client

    def _send(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Exception):
                raise fault
            return fault
        name = request.url.split("/functions/")[1].split("/")[0]
        event = json.loads(request.body)
        self.invoked.append((name, event))
        tenant: Any = request.headers.get("X-Amz-Tenant-Id")
        self.tenants.append(tenant.decode() if isinstance(tenant, bytes) else tenant)
        if request.headers.get("X-Amz-Invocation-Type") in {"Event", b"Event"}:
            return response(202, {})
        try:
            return response(200, self.function(event))
        except Exception as died:  # noqa: BLE001 - as Lambda does
            return response(200, {"errorType": type(died).__name__}, function_error="Unhandled")


def response(status: int, body: Any, *, function_error: str | None = None, code: str | None = None) -> AWSResponse:
    headers = {"X-Amz-Function-Error": function_error, "x-amzn-ErrorType": code}
    raw = MockRawResponse(json.dumps(body))
    return AWSResponse("https://lambda", status, {k: v for k, v in headers.items() if v}, raw)


def context() -> Any:
    return SimpleNamespace(aws_request_id="request-1")


@pytest.fixture
def aws_lambda(run: DecidedRun) -> Lambda:
    """Lambda with the real door of run_tool behind it, over the run's own tool room."""
    tell = telemetry.start(Settings(stage="test", service="run_tool", trace_exporter="none"))
    door = run_tool.door(run.room, tell, end_process=lambda _: None)
    return Lambda(lambda event: door(event, context()))


@pytest.fixture(params=["in process", "lambda"])
def runner(request: pytest.FixtureRequest, run: DecidedRun) -> ToolRunner:
    if request.param == "in process":
        return InProcessToolRunner(run.room)
    aws_lambda: Lambda = request.getfixturevalue("aws_lambda")
    return LambdaToolRunner(aws_lambda.client_for, "run_tool")


def called(runner: ToolRunner, call_id: str = CALL, **changes: str) -> ToolReply:
    return runner.run(changes.get("tenant_id", "acme"), RUN, call_id, timeout_s=5, traceparent=None)


# --- tool runners -----------------------------------------------------------------------------------------------------


def test_a_decided_call_runs_and_answers(runner: ToolRunner, run: DecidedRun) -> None:
    run.decide({"text": "hellö"})
    run.start()
    assert called(runner) == ToolReply("ok", '{"text":"hellö"}', None, 0)


def test_a_tools_own_failure_is_an_answer(runner: ToolRunner, run: DecidedRun) -> None:
    run.decide({"text": "fail"})
    run.start()
    reply = called(runner)
    assert reply.outcome == "error"
    assert json.loads(reply.content) == {"error": "hoarse", "message": "The voice is gone."}


def test_a_call_that_is_not_decided_not_started_or_over_is_refused(runner: ToolRunner, run: DecidedRun) -> None:
    with pytest.raises(CallNotDecided):
        called(runner)
    run.decide({"text": "hello"})
    with pytest.raises(CallNotDecided):
        called(runner)
    run.start()
    for wrong in ({"tenant_id": "globex"}, {"call_id": "call_1_1"}):
        with pytest.raises(CallNotDecided):
            called(runner, **wrong)
    run.append(ToolCompleted(call_id=CALL, tool="say", outcome="ok", content="{}", duration_ms=1))
    with pytest.raises(CallNotDecided):
        called(runner)


def test_what_a_broken_once_tool_did_is_not_known(runner: ToolRunner, run: DecidedRun) -> None:
    run.decide({"text": "break"})
    run.start()
    with pytest.raises(ToolLost):
        called(runner)


# --- resource facts ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["in process", "lambda"])
def resource_facts(request: pytest.FixtureRequest, run: DecidedRun, backoff: Backoff) -> ResourceFacts:
    if request.param == "in process":
        return InProcessResourceFacts(run.room)
    aws_lambda: Lambda = request.getfixturevalue("aws_lambda")
    return LambdaResourceFacts(aws_lambda.client_for(5), "run_tool", backoff=backoff)


def test_what_a_resource_is_comes_back_as_declared_and_a_missing_one_as_none(
    resource_facts: ResourceFacts, run: DecidedRun
) -> None:
    MemoryTenantData(run.table, "acme").put("voice", "all", {"decibels": 60, "secret": "hush"})
    MemoryTenantData(run.table, "globex").put("voice", "loud", {"decibels": 90})
    assert resource_facts.of("acme", RUN, tool="say", resource="Voice::all") == {"decibels": 60}
    assert resource_facts.of("acme", RUN, tool="say", resource="Voice::loud") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"tool": "shout"},
        {"resource": "Voice::broken"},
        {"resource": "Item::all"},
        {"resource": ""},
        {"run_id": "run_01JABCDEFGHJKMNPQRSTVWXYZ9"},
        {"tenant_id": "globex"},
    ],
    ids=str,
)
def test_what_nobody_may_ask_or_nobody_can_read_is_not_guessed(
    resource_facts: ResourceFacts, wrong: dict[str, str]
) -> None:
    asked = {"tenant_id": "acme", "run_id": RUN, "tool": "say", "resource": "Voice::all", **wrong}
    with pytest.raises(FactsUnavailable) as refused:
        resource_facts.of(asked["tenant_id"], asked["run_id"], tool=asked["tool"], resource=asked["resource"])
    assert "secret" not in str(refused.value)


# --- Lambda alone -----------------------------------------------------------------------------------------------------


@pytest.fixture
def lambda_runner(aws_lambda: Lambda, run: DecidedRun, backoff: Backoff) -> LambdaToolRunner:
    run.decide({"text": "hello"})
    run.start()
    return LambdaToolRunner(aws_lambda.client_for, "run_tool", backoff=backoff)


def test_only_ids_travel_and_the_caller_waits_longer_than_the_tool(
    lambda_runner: LambdaToolRunner, aws_lambda: Lambda
) -> None:
    lambda_runner.run("acme", RUN, CALL, timeout_s=12, traceparent=TRACEPARENT)
    ids = {"tenant_id": "acme", "run_id": RUN, "call_id": CALL, "traceparent": TRACEPARENT}
    assert aws_lambda.invoked == [("run_tool", ids)]
    assert aws_lambda.read_timeouts == [17]


def test_a_function_that_keeps_tenants_apart_is_told_whose_call_it_is_and_another_is_not(
    aws_lambda: Lambda, run: DecidedRun
) -> None:
    run.decide({"text": "hello"})
    run.start()
    told = [
        LambdaToolRunner(aws_lambda.client_for, "run_tool", isolates_tenants=isolates) for isolates in (True, False)
    ]
    assert [called(runner).outcome for runner in told] == ["ok", "ok"]
    assert aws_lambda.tenants == ["acme", None]


def test_what_did_not_begin_is_tried_again(lambda_runner: LambdaToolRunner, aws_lambda: Lambda, sleeps: Sleeps) -> None:
    aws_lambda.faults = [
        response(429, {"Reason": "ConcurrentInvocationLimitExceeded"}, code="TooManyRequestsException"),
        EndpointConnectionError(endpoint_url="https://lambda"),
        ConnectTimeoutError(endpoint_url="https://lambda"),
    ]
    assert called(lambda_runner).outcome == "ok"
    assert sleeps == [0.025, 0.05, 0.1]
    assert len(aws_lambda.invoked) == 1


def test_what_can_not_be_reached_in_bounded_attempts_did_not_begin(
    lambda_runner: LambdaToolRunner, aws_lambda: Lambda, sleeps: Sleeps
) -> None:
    aws_lambda.faults = [EndpointConnectionError(endpoint_url="https://lambda")] * 50
    with pytest.raises(ToolUnreached, match="could not be reached"):
        called(lambda_runner)
    assert len(sleeps) == 7


@pytest.mark.parametrize(
    "fault",
    [
        ReadTimeoutError(endpoint_url="https://lambda"),
        SSLError(endpoint_url="https://lambda", error=OSError("bad record mac")),
        response(500, {}, code="ServiceException"),
        response(200, {"errorType": "Runtime.ExitError"}, function_error="Unhandled"),
    ],
    ids=["no answer", "broken off", "server error", "the function died"],
)
def test_what_may_have_begun_is_lost_and_never_tried_again(
    lambda_runner: LambdaToolRunner, aws_lambda: Lambda, fault: Exception | AWSResponse
) -> None:
    aws_lambda.faults = [fault]
    with pytest.raises(ToolLost):
        called(lambda_runner)
    assert aws_lambda.invoked == []


def test_a_right_that_is_missing_is_a_fault_of_the_deployment(
    lambda_runner: LambdaToolRunner, aws_lambda: Lambda
) -> None:
    aws_lambda.faults = [response(403, {}, code="AccessDeniedException")]
    with pytest.raises(ConfigurationInvalid, match="AccessDenied"):
        called(lambda_runner)


def test_only_ids_travel_for_the_facts_too(aws_lambda: Lambda) -> None:
    LambdaResourceFacts(aws_lambda.client_for(5), "run_tool").of("acme", RUN, tool="say", resource="Voice::all")
    ids = {"tenant_id": "acme", "run_id": RUN, "tool": "say", "resource": "Voice::all", "traceparent": None}
    assert aws_lambda.invoked == [("run_tool", ids)]


@pytest.mark.parametrize(
    ("faults", "calls"),
    [
        ([response(429, {}, code="TooManyRequestsException")], 1),
        ([EndpointConnectionError(endpoint_url="https://lambda")], 1),
        ([ReadTimeoutError(endpoint_url="https://lambda")], None),
        ([response(500, {}, code="ServiceException")], None),
        ([response(200, {"errorType": "Runtime.ExitError"}, function_error="Unhandled")], None),
        ([EndpointConnectionError(endpoint_url="https://lambda")] * 9, None),
    ],
    ids=["throttled", "not connected", "no answer", "server error", "the function died", "never connected"],
)
def test_facts_that_do_not_come_are_asked_for_again_only_where_that_is_quick(
    aws_lambda: Lambda, backoff: Backoff, faults: list[Exception | AWSResponse], calls: int | None
) -> None:
    source = LambdaResourceFacts(aws_lambda.client_for(5), "run_tool", backoff=backoff)
    aws_lambda.faults = list(faults)
    if calls is None:
        with pytest.raises(FactsUnavailable):
            source.of("acme", RUN, tool="say", resource="Voice::all")
    else:
        assert source.of("acme", RUN, tool="say", resource="Voice::all") is None
    assert len(aws_lambda.invoked) == (calls or 0)


# --- wake and queue ---------------------------------------------------------------------------------------------------


def test_waking_invokes_the_agent_without_waiting_for_it(aws_lambda: Lambda) -> None:
    LambdaWake(aws_lambda.client_for(5), "run_agent").wake("acme", RUN, traceparent=TRACEPARENT)
    ids = {"tenant_id": "acme", "run_id": RUN, "traceparent": TRACEPARENT}
    assert aws_lambda.invoked == [("run_agent", ids)]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (response(429, {}, code="TooManyRequestsException"), StoreUnavailable),
        (EndpointConnectionError(endpoint_url="https://lambda"), StoreUnavailable),
        (response(403, {}, code="AccessDeniedException"), ConfigurationInvalid),
        (response(404, {}, code="ResourceNotFoundException"), ConfigurationInvalid),
    ],
)
def test_a_wake_that_fails_says_whether_later_helps(
    aws_lambda: Lambda, fault: Exception | AWSResponse, expected: type[Exception]
) -> None:
    aws_lambda.faults = [fault]
    with pytest.raises(expected):
        LambdaWake(aws_lambda.client_for(5), "run_agent").wake("acme", RUN, traceparent=None)


def test_a_queued_call_arrives_as_ids(aws: Callable[[str], Any], wire: Wire) -> None:
    url = aws("sqs").create_queue(QueueName="tool-jobs")["QueueUrl"]
    SqsToolQueue(aws("sqs"), url).send("acme", RUN, CALL, traceparent=TRACEPARENT)
    [message] = aws("sqs").receive_message(QueueUrl=url)["Messages"]
    assert json.loads(message["Body"]) == {
        "tenant_id": "acme",
        "run_id": RUN,
        "call_id": CALL,
        "traceparent": TRACEPARENT,
    }


def test_a_queue_that_fails_says_whether_later_helps(aws: Callable[[str], Any], wire: Wire) -> None:
    queue = SqsToolQueue(aws("sqs"), aws("sqs").create_queue(QueueName="tool-jobs")["QueueUrl"])
    for fault in (error("InternalError", status=500), lose_reply):
        wire.next("SendMessage", fault)
        with pytest.raises(StoreUnavailable):
            queue.send("acme", RUN, CALL, traceparent=None)
    gone = SqsToolQueue(aws("sqs"), "https://sqs.eu-central-1.amazonaws.com/123456789012/gone")
    with pytest.raises(ConfigurationInvalid):
        gone.send("acme", RUN, CALL, traceparent=None)
