"""The model's contract, for the scripted double and for Bedrock on its real wire; then what Bedrock alone can do."""

import base64
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from agent.aws.bedrock import BedrockModel, Guardrail, _to_model_error
from agent.errors import (
    ModelError,
    ModelNotOffered,
    ModelRequestRejected,
    ModelThrottled,
    ModelTimedOut,
    ModelUnavailable,
)
from agent.events import Usage
from agent.ports.model import (
    GuardrailTold,
    Model,
    ModelRequest,
    ModelStopped,
    ReasoningDone,
    TextDelta,
    ToolAsked,
    ToolSpec,
    UsageReported,
)
from agent.testing.model import ScriptedModel, Step, asks, says
from local.bedrock_wire import BedrockServer, Broken, Cut, Request, StreamEvent
from local.converse_rules import Refused

TOOL = ToolSpec("lookup_order", "Look one order up.", {"type": "object", "properties": {"id": {"type": "string"}}})
REQUEST = ModelRequest(
    model_id="vendor.model-1:0",
    system="Be kind.",
    messages=[{"role": "user", "content": [{"text": "Where is order 1001?"}]}],
    tools=(TOOL,),
    max_tokens=500,
    temperature=0.2,
)
USAGE = Usage(input_tokens=100, output_tokens=20)

Play = list[StreamEvent | Exception | Callable[[], object]]
"""What the endpoint does: send an event, fail, or something in between."""


class Endpoint:
    """Bedrock's wire in front of a play."""

    def __init__(self) -> None:
        self.play: Play = []
        self.asked: list[Request] = []
        self.gone = threading.Event()
        """Set when the client has gone away."""

    def __call__(self, request: Request) -> Iterator[StreamEvent]:
        self.asked.append(request)
        try:
            for act in self.play:
                match act:
                    case Exception():
                        raise act
                    case tuple():
                        yield act
                    case _:
                        act()
        finally:
            self.gone.set()


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def bedrock(endpoint: Endpoint) -> Iterator[BedrockModel]:
    clients = []

    def client_for(read_timeout_s: float) -> Any:
        clients.append(
            boto3.Session("test", "test", region_name="eu-central-1").client(
                "bedrock-runtime",
                endpoint_url=server.url,
                config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=read_timeout_s),
            )
        )
        return clients[-1]

    with BedrockServer(endpoint) as server:
        yield BedrockModel(client_for)
        for client in clients:
            client.close()


# --- the contract -----------------------------------------------------------------------------------------------------

Answering = Callable[[list[Step]], Model]


@pytest.fixture(params=["scripted", "bedrock"])
def answering(request: pytest.FixtureRequest) -> Answering:
    """Makes a model that gives this answer."""
    if request.param == "scripted":
        return lambda steps: ScriptedModel(steps)
    endpoint: Endpoint = request.getfixturevalue("endpoint")
    model: BedrockModel = request.getfixturevalue("bedrock")

    def make(steps: list[Step]) -> Model:
        endpoint.play = [act for step in steps for act in on_wire(step)]
        return model

    return make


def on_wire(step: Step) -> Iterator[StreamEvent | Exception | Callable[[], object]]:
    """Yield what Bedrock sends for a part of an answer."""
    match step:
        case TextDelta(block=block, text=text):
            yield "contentBlockDelta", {"contentBlockIndex": block, "delta": {"text": text}}
        case ToolAsked(block=block, provider_id=provider_id, tool=tool, arguments_json=written):
            yield from tool_use(block, provider_id, tool, *written)
        case ModelStopped(stop_reason=reason):
            yield "messageStop", {"stopReason": reason}
        case UsageReported(usage=usage):
            yield metadata(usage)
        case ModelThrottled():
            yield Refused("ThrottlingException", "Slow down.")
        case ModelUnavailable():
            yield Broken("modelStreamErrorException", "It broke.")
        case ModelRequestRejected():
            yield Refused("ValidationException", "No.")
        case _:
            yield cast("Callable[[], object]", step)


def tool_use(block: int, provider_id: str, tool: str, *pieces: str, ends: bool = True) -> Iterator[StreamEvent]:
    yield (
        "contentBlockStart",
        {
            "contentBlockIndex": block,
            "start": {"toolUse": {"toolUseId": provider_id, "name": tool}},
        },
    )
    for piece in pieces:
        yield "contentBlockDelta", {"contentBlockIndex": block, "delta": {"toolUse": {"input": piece}}}
    if ends:
        yield "contentBlockStop", {"contentBlockIndex": block}


def metadata(usage: Usage) -> StreamEvent:
    tokens = {
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.input_tokens + usage.output_tokens,
        "cacheReadInputTokens": usage.cache_read_tokens,
        "cacheWriteInputTokens": usage.cache_write_tokens,
    }
    return "metadata", {"usage": tokens, "metrics": {"latencyMs": 1}}


def test_text_comes_piece_by_piece_then_the_stop_then_the_usage(answering: Answering) -> None:
    model = answering(says("It ", "is ", "on its way. ünïcode \U0001f600"))
    assert list(model.stream(REQUEST, timeout_s=5)) == [
        TextDelta(0, "It "),
        TextDelta(0, "is "),
        TextDelta(0, "on its way. ünïcode \U0001f600"),
        ModelStopped("end_turn"),
        UsageReported(USAGE),
    ]


def test_tool_calls_come_whole_and_unparsed(answering: Answering) -> None:
    model = answering(asks(("lookup_order", {"id": "1001"}), ("lookup_order", '{"id": '), text="I look."))
    assert list(model.stream(REQUEST, timeout_s=5)) == [
        TextDelta(0, "I look."),
        ToolAsked(1, "provider-1", "lookup_order", '{"id": "1001"}'),
        ToolAsked(2, "provider-2", "lookup_order", '{"id": '),
        ModelStopped("tool_use"),
        UsageReported(USAGE),
    ]


def test_a_model_may_report_no_usage(answering: Answering) -> None:
    parts = list(answering(says("Hi.", usage=None)).stream(REQUEST, timeout_s=5))
    assert parts[-1] == ModelStopped("end_turn")


@pytest.mark.parametrize("error", [ModelThrottled("no"), ModelUnavailable("no"), ModelRequestRejected("no")])
def test_a_failure_at_the_call_is_a_model_error(answering: Answering, error: ModelError) -> None:
    with pytest.raises(type(error)):
        list(answering([error]).stream(REQUEST, timeout_s=5))


def test_a_failure_in_the_stream_comes_after_what_came_before(answering: Answering) -> None:
    parts = answering([TextDelta(0, "It is"), ModelUnavailable("broke")]).stream(REQUEST, timeout_s=5)
    assert next(parts) == TextDelta(0, "It is")
    with pytest.raises(ModelUnavailable):
        next(parts)


def test_closing_the_iterator_abandons_the_call(answering: Answering) -> None:
    parts = cast("Any", answering(says("It ", "is ", "on its way.")).stream(REQUEST, timeout_s=5))
    assert next(parts) == TextDelta(0, "It ")
    parts.close()
    assert list(parts) == []


# --- Bedrock alone ----------------------------------------------------------------------------------------------------


def test_the_request_is_the_whole_conversation_with_the_tools(bedrock: BedrockModel, endpoint: Endpoint) -> None:
    endpoint.play = [("messageStop", {"stopReason": "end_turn"})]
    list(bedrock.stream(REQUEST, timeout_s=5))
    [asked] = endpoint.asked
    assert asked.model_id == "vendor.model-1:0"
    assert asked.body == {
        "system": [{"text": "Be kind."}],
        "messages": [{"role": "user", "content": [{"text": "Where is order 1001?"}]}],
        "inferenceConfig": {"maxTokens": 500, "temperature": 0.2},
        "toolConfig": {
            "tools": [
                {
                    "toolSpec": {
                        "name": "lookup_order",
                        "description": "Look one order up.",
                        "inputSchema": {"json": {"type": "object", "properties": {"id": {"type": "string"}}}},
                    }
                }
            ]
        },
    }


def test_what_was_not_asked_for_is_not_sent(bedrock: BedrockModel, endpoint: Endpoint) -> None:
    endpoint.play = [("messageStop", {"stopReason": "end_turn"})]
    bare = ModelRequest("m:0", "s", REQUEST.messages, (), 10)
    list(bedrock.stream(bare, timeout_s=5))
    assert endpoint.asked[0].body["inferenceConfig"] == {"maxTokens": 10}
    assert "toolConfig" not in endpoint.asked[0].body


def test_reasoning_is_kept_verbatim_and_goes_back_as_it_came(bedrock: BedrockModel, endpoint: Endpoint) -> None:
    sealed = base64.b64encode(b"\x00\xff sealed").decode()

    def reasons(block: int, delta: dict[str, Any]) -> StreamEvent:
        return "contentBlockDelta", {"contentBlockIndex": block, "delta": {"reasoningContent": delta}}

    endpoint.play = [
        reasons(0, {"text": "First "}),
        reasons(0, {"text": "this."}),
        reasons(0, {"signature": "c2ln"}),
        ("contentBlockStop", {"contentBlockIndex": 0}),
        reasons(1, {"redactedContent": sealed}),
        ("contentBlockStop", {"contentBlockIndex": 1}),
        ("messageStop", {"stopReason": "end_turn"}),
    ]
    first, second = [part.reasoning for part in bedrock.stream(REQUEST, timeout_s=5) if isinstance(part, ReasoningDone)]
    assert first.block == {"reasoningContent": {"reasoningText": {"text": "First this.", "signature": "c2ln"}}}
    assert second.block == {"reasoningContent": {"redactedContent": sealed}}
    assert type(second).model_validate_json(second.model_dump_json()) == second
    said = {"role": "assistant", "content": [first.block, second.block, {"text": "So."}]}
    again = ModelRequest("m:0", "s", [*REQUEST.messages, said, *REQUEST.messages], (TOOL,), 10)
    list(bedrock.stream(again, timeout_s=5))
    assert endpoint.asked[1].body["messages"][1] == said


def test_tokens_of_the_cache_are_counted_apart(bedrock: BedrockModel, endpoint: Endpoint) -> None:
    usage = Usage(input_tokens=1, output_tokens=2, cache_read_tokens=3, cache_write_tokens=4)
    endpoint.play = [("messageStop", {"stopReason": "end_turn"}), metadata(usage)]
    assert list(bedrock.stream(REQUEST, timeout_s=5))[-1] == UsageReported(usage)


def test_a_call_without_arguments_has_an_empty_object(bedrock: BedrockModel, endpoint: Endpoint) -> None:
    endpoint.play = [*tool_use(0, "p", "list_orders", ""), ("messageStop", {"stopReason": "tool_use"})]
    assert next(bedrock.stream(REQUEST, timeout_s=5)) == ToolAsked(0, "p", "list_orders", "{}")


def test_a_tool_call_that_was_cut_off_is_not_given(bedrock: BedrockModel, endpoint: Endpoint) -> None:
    endpoint.play = [
        *tool_use(0, "p", "lookup_order", '{"id"', ends=False),
        ("messageStop", {"stopReason": "max_tokens"}),
    ]
    assert list(bedrock.stream(REQUEST, timeout_s=5)) == [ModelStopped("max_tokens")]


def test_events_nobody_knows_yet_are_passed_over(bedrock: BedrockModel, endpoint: Endpoint) -> None:
    endpoint.play = [
        ("messageStart", {"role": "assistant"}),
        ("somethingNew", {"x": 1}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"citation": {}}}),
        ("messageStop", {"stopReason": "something_new"}),
    ]
    assert list(bedrock.stream(REQUEST, timeout_s=5)) == [ModelStopped("something_new")]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("ThrottlingException", ModelThrottled),
        ("ModelTimeoutException", ModelTimedOut),
        ("InternalServerException", ModelUnavailable),
        ("ServiceUnavailableException", ModelUnavailable),
        ("ModelNotReadyException", ModelUnavailable),
        ("ModelErrorException", ModelUnavailable),
        ("ValidationException", ModelRequestRejected),
        ("AccessDeniedException", ModelNotOffered),
        ("ResourceNotFoundException", ModelNotOffered),
    ],
)
def test_each_error_of_the_service_says_who_must_act(
    bedrock: BedrockModel, endpoint: Endpoint, code: str, expected: type[ModelError]
) -> None:
    endpoint.play = [Refused(code, "secret text of the request")]
    with pytest.raises(ModelError) as raised:
        list(bedrock.stream(REQUEST, timeout_s=5))
    assert type(raised.value) is expected
    assert str(raised.value) == code


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("throttlingException", ModelThrottled),
        ("internalServerException", ModelUnavailable),
        ("serviceUnavailableException", ModelUnavailable),
        ("modelStreamErrorException", ModelUnavailable),
        ("validationException", ModelRequestRejected),
    ],
)
def test_each_error_within_a_stream_too(
    bedrock: BedrockModel, endpoint: Endpoint, code: str, expected: type[ModelError]
) -> None:
    endpoint.play = [("messageStart", {"role": "assistant"}), Broken(code, "broken")]
    parts = bedrock.stream(REQUEST, timeout_s=5)
    with pytest.raises(ModelError) as raised:
        list(parts)
    # Once tokens may have been made, even a throttled stream may be billed.
    assert type(raised.value) is (ModelUnavailable if expected is ModelThrottled else expected)
    assert raised.value.billed is (expected is not ModelRequestRejected)


def test_errors_nobody_knows_yet_are_sorted_by_their_status() -> None:
    def error(status: int) -> ModelError:
        answer: Any = {"Error": {"Code": "NewException"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        return _to_model_error(ClientError(answer, "ConverseStream"), late=False, begun=False)

    assert type(error(418)) is ModelRequestRejected
    assert type(error(599)) is ModelUnavailable


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_connection_that_breaks_off_is_unavailable(bedrock: BedrockModel, endpoint: Endpoint, before: int) -> None:
    texts: Play = [on for n in range(before) for on in on_wire(TextDelta(0, f"{n}"))]
    endpoint.play = [*texts, Cut()]
    parts = bedrock.stream(REQUEST, timeout_s=5)
    assert [next(parts) for _ in range(before)] == [TextDelta(0, f"{n}") for n in range(before)]
    with pytest.raises(ModelUnavailable):
        next(parts)


def test_a_stream_that_ends_before_the_model_did_is_unavailable(bedrock: BedrockModel, endpoint: Endpoint) -> None:
    endpoint.play = list(on_wire(TextDelta(0, "It is")))
    with pytest.raises(ModelUnavailable, match="before the model did"):
        list(bedrock.stream(REQUEST, timeout_s=5))


def test_an_endpoint_nobody_answers_at_is_unavailable() -> None:
    client = boto3.Session("test", "test", region_name="eu-central-1").client(
        "bedrock-runtime", endpoint_url="http://127.0.0.1:9", config=Config(retries={"total_max_attempts": 1})
    )
    with pytest.raises(ModelUnavailable):
        list(BedrockModel(lambda _: client).stream(REQUEST, timeout_s=5))


def test_a_request_that_does_not_fit_the_api_is_rejected_here(bedrock: BedrockModel, endpoint: Endpoint) -> None:
    wrong: Any = ModelRequest("m:0", "s", [{"role": "user", "content": [{"text": 7}]}], (), 10)
    with pytest.raises(ModelRequestRejected):
        list(bedrock.stream(wrong, timeout_s=5))
    assert endpoint.asked == []


@pytest.mark.parametrize("silent_after", [0, 1])
def test_a_silent_model_is_given_up_at_the_hard_timeout(
    bedrock: BedrockModel, endpoint: Endpoint, silent_after: int
) -> None:
    over = threading.Event()
    endpoint.play = [*on_wire(TextDelta(0, "It ")), *on_wire(TextDelta(0, "is "))][:silent_after]
    endpoint.play.append(lambda: over.wait(20))
    parts = bedrock.stream(REQUEST, timeout_s=0.3)
    began = time.monotonic()
    with pytest.raises(ModelTimedOut):
        list(parts)
    over.set()
    assert time.monotonic() - began < 3


def test_a_model_that_never_stops_talking_is_given_up_too(bedrock: BedrockModel, endpoint: Endpoint) -> None:
    over = threading.Event()

    def talk() -> Iterator[StreamEvent]:
        while not over.wait(0.02):  # never a silence that a read timeout would notice
            yield from cast("Iterator[StreamEvent]", on_wire(TextDelta(0, "and ")))

    endpoint.play = cast("Play", talk())
    began = time.monotonic()
    with pytest.raises(ModelTimedOut):
        list(bedrock.stream(REQUEST, timeout_s=0.5))
    over.set()
    assert 0.4 < time.monotonic() - began < 3


def test_closing_the_iterator_closes_the_connection(bedrock: BedrockModel, endpoint: Endpoint) -> None:
    def talk() -> Iterator[StreamEvent]:
        while True:
            yield from cast("Iterator[StreamEvent]", on_wire(TextDelta(0, "x" * 10_000)))

    endpoint.play = cast("Play", talk())
    parts = cast("Any", bedrock.stream(REQUEST, timeout_s=20))
    next(parts)
    parts.close()
    assert endpoint.gone.wait(5), "the endpoint notices that nobody reads"


def test_nothing_is_left_running_after_an_answer(bedrock: BedrockModel, endpoint: Endpoint) -> None:
    endpoint.play = [("messageStop", {"stopReason": "end_turn"})]
    list(bedrock.stream(REQUEST, timeout_s=60))
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(5)  # a moment is enough where it was called off
            assert not thread.is_alive()


# --- a guardrail at the service ---------------------------------------------------------------------------------------

TRACE = {
    "guardrail": {
        "inputAssessment": {
            "g1": {"contentPolicy": {"filters": [{"type": "PROMPT_ATTACK", "confidence": "HIGH", "action": "BLOCKED"}]}}
        },
        "outputAssessments": {
            "g1": [
                {
                    "topicPolicy": {"topics": [{"name": "Legal advice", "type": "DENY", "action": "BLOCKED"}]},
                    "wordPolicy": {"customWords": [{"match": "SECRET-WORD", "action": "BLOCKED"}]},
                    "sensitiveInformationPolicy": {
                        "piiEntities": [
                            {"match": "SECRET-NUMBER", "type": "PIN", "action": "BLOCKED"},
                            {"match": "SECRET-NAME", "type": "NAME", "action": "ANONYMIZED"},
                        ]
                    },
                }
            ]
        },
    }
}


def test_a_guardrail_goes_with_each_call_and_holds_text_until_it_has_looked(
    endpoint: Endpoint, bedrock: BedrockModel
) -> None:
    endpoint.play = [
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Held back."}}),
        ("messageStop", {"stopReason": "guardrail_intervened"}),
        ("metadata", {"usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}, "metrics": {}, "trace": TRACE}),
    ]
    guarded = BedrockModel(bedrock._client_for, Guardrail("g1", "3"))
    parts = list(guarded.stream(REQUEST, timeout_s=5))
    assert endpoint.asked[0].body["guardrailConfig"] == {
        "guardrailIdentifier": "g1",
        "guardrailVersion": "3",
        "streamProcessingMode": "sync",
        "trace": "enabled",
    }
    assert ModelStopped("guardrail_intervened") in parts
    told = (
        "input content:prompt_attack",
        "output topic:legal_advice",
        "output word",
        "output sensitiveInformation:pin",
    )
    assert parts[-1] == GuardrailTold(told)
    assert "SECRET" not in repr(parts)


def test_without_a_guardrail_none_is_asked_for(endpoint: Endpoint, bedrock: BedrockModel) -> None:
    endpoint.play = [("messageStart", {"role": "assistant"}), ("messageStop", {"stopReason": "end_turn"})]
    list(bedrock.stream(REQUEST, timeout_s=5))
    assert "guardrailConfig" not in endpoint.asked[0].body
