"""The scripted model's endpoint, spoken to by the real SDK."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError
from urllib3.exceptions import ProtocolError

from local.bedrock_wire import scripted_server

QUESTION = "Where is order 1001? marker-of-this-test"
TOOLS: list[dict[str, Any]] = [
    {
        "toolSpec": {
            "name": "lookup_order",
            "description": "Look one order up.",
            "inputSchema": {
                "json": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}
            },
        }
    }
]


class Endpoint:
    """The server, its scenario file and an SDK client."""

    def __init__(self, url: str, scenarios: Path) -> None:
        self._scenarios = scenarios
        self.client: Any = boto3.client(
            "bedrock-runtime",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"total_max_attempts": 1}, read_timeout=10),
        )

    def told(self, *steps: dict[str, Any], repeat: bool = False) -> None:
        scenario = {"match": "marker-of-this-test", "steps": steps, "repeat": repeat}
        self._scenarios.write_text(json.dumps({"scenarios": [scenario]}))

    def stream(self, *messages: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
        asked = list(messages) or [said("user", QUESTION)]
        request = {"modelId": "m:0", "messages": asked, "toolConfig": {"tools": TOOLS}, **changes}
        with closing(self.client.converse_stream(**request)["stream"]) as stream:
            return list(stream)


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"text": text}]}


def used(identity: str, tool: str = "lookup_order", **arguments: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"toolUse": {"toolUseId": identity, "name": tool, "input": arguments}}]}


def brought(identity: str, result: dict[str, Any]) -> dict[str, Any]:
    content = [{"text": json.dumps(result)}]
    return {"role": "user", "content": [{"toolResult": {"toolUseId": identity, "content": content}}]}


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    scenarios = tmp_path / "scenarios.json"
    with scripted_server(scenarios) as server:
        endpoint = Endpoint(server.url, scenarios)
        yield endpoint
        endpoint.client.close()


def test_a_call_streams_text_then_a_tool_use_then_the_stop_reason_then_the_usage(endpoint: Endpoint) -> None:
    events = endpoint.stream()
    names = [next(iter(event)) for event in events]
    assert names[0] == "messageStart"
    assert names[-2:] == ["messageStop", "metadata"]
    [start] = [event["contentBlockStart"] for event in events if "contentBlockStart" in event]
    assert start["start"]["toolUse"]["name"] == "lookup_order"
    deltas = [event["contentBlockDelta"] for event in events if "contentBlockDelta" in event]
    arguments = "".join(d["delta"]["toolUse"]["input"] for d in deltas if "toolUse" in d["delta"])
    assert json.loads(arguments) == {"order_id": "1001"}
    assert [d["contentBlockIndex"] for d in deltas if "text" in d["delta"]] == [0, 0, 0, 0]
    assert names.count("contentBlockStop") == 2
    assert events[-2]["messageStop"]["stopReason"] == "tool_use"
    usage = events[-1]["metadata"]["usage"]
    assert usage["inputTokens"] > 50
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"]


def test_the_answer_tells_the_facts_the_tool_brought_and_no_others(endpoint: Endpoint) -> None:
    facts = {"order_id": "1001", "status": "shipped", "carrier": "Blue Heron Freight"}
    events = endpoint.stream(said("user", QUESTION), used("a", order_id="1001"), brought("a", facts))
    text = "".join(e["contentBlockDelta"]["delta"]["text"] for e in events if "contentBlockDelta" in e)
    assert text == "Lookup order: order id 1001, status shipped, carrier Blue Heron Freight."
    assert events[-2]["messageStop"]["stopReason"] == "end_turn"


def test_converse_gives_in_one_piece_what_converse_stream_streams(endpoint: Endpoint) -> None:
    answer = endpoint.client.converse(modelId="m:0", messages=[said("user", QUESTION)], toolConfig={"tools": TOOLS})
    [text, call] = answer["output"]["message"]["content"]
    assert text == {"text": "One moment: lookup order."}
    assert call["toolUse"]["input"] == {"order_id": "1001"}
    assert answer["stopReason"] == "tool_use"
    assert answer["usage"]["outputTokens"] > 0


def test_an_answer_longer_than_max_tokens_is_cut_there(endpoint: Endpoint) -> None:
    endpoint.told({"text": "word " * 100})
    events = endpoint.stream(inferenceConfig={"maxTokens": 10})
    text = "".join(e["contentBlockDelta"]["delta"]["text"] for e in events if "contentBlockDelta" in e)
    assert 5 <= len(text.split()) <= 10
    assert events[-2]["messageStop"]["stopReason"] == "max_tokens"
    assert not any("contentBlockStart" in event for event in events)


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([said("assistant", "Hello")], "must start with a user message"),
        ([said("user", "a"), said("assistant", "b")], "must end with a user message"),
        ([said("user", "a"), said("user", "b")], "must alternate"),
        ([said("user", " ")], "messages.0.content.0 is blank"),
        ([{"role": "user", "content": []}], "messages.0 is empty"),
        ([said("user", "a"), used("x"), said("user", "b")], "Expected toolResult blocks at messages.2.content"),
        ([said("user", "a"), used("x"), brought("y", {})], "for the following Ids: x"),
        ([brought("x", {})], "exceeds the number of toolUse blocks"),
        ([said("user", "a"), used("bad id"), brought("bad id", {})], "toolUseId does not satisfy"),
        ([said("user", "a"), used("x", tool="bad name"), brought("x", {})], "toolUse.name does not satisfy"),
    ],
)
def test_a_conversation_bedrock_would_refuse_is_refused(
    endpoint: Endpoint, messages: list[dict[str, Any]], sentence: str
) -> None:
    with pytest.raises(ClientError, match=sentence) as refused:
        endpoint.stream(*messages)
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_tool_blocks_without_a_tool_configuration_are_refused(endpoint: Endpoint) -> None:
    messages = [said("user", "a"), used("x"), brought("x", {})]
    with pytest.raises(ClientError, match="toolConfig field must be defined"):
        endpoint.client.converse(modelId="m:0", messages=messages)


def test_one_message_may_not_answer_a_call_twice(endpoint: Endpoint) -> None:
    twice = {"role": "user", "content": [*brought("x", {})["content"], *brought("x", {})["content"]]}
    with pytest.raises(ClientError, match="exceeds the number"):
        endpoint.stream(said("user", "a"), used("x"), twice)


@pytest.mark.parametrize(("code", "status"), [("ThrottlingException", 429), ("ServiceUnavailableException", 503)])
def test_a_scenario_refuses_as_many_calls_as_it_has_steps_and_then_the_model_behaves(
    endpoint: Endpoint, code: str, status: int
) -> None:
    endpoint.told({"error": code}, {"error": code})
    for _ in range(2):
        with pytest.raises(ClientError) as refused:
            endpoint.stream()
        assert refused.value.response["Error"]["Code"] == code
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert endpoint.stream()[-2]["messageStop"]["stopReason"] == "tool_use"


def test_a_stream_breaks_in_the_middle_with_the_error_the_scenario_names(endpoint: Endpoint) -> None:
    endpoint.told({"break_after": 3, "break_with": "modelStreamErrorException"})
    with pytest.raises(EventStreamError, match="modelStreamErrorException"):
        endpoint.stream()


def test_a_cut_stream_ends_without_stop_reason(endpoint: Endpoint) -> None:
    endpoint.told({"break_after": 3})
    with pytest.raises(ProtocolError, match="ended prematurely"):
        endpoint.stream()


def test_a_step_that_repeats_never_ends(endpoint: Endpoint) -> None:
    call = {"tool": "lookup_order", "input_json": '{"order_id": "1001"}'}
    endpoint.told({"calls": [call]}, repeat=True)
    messages = [said("user", QUESTION)]
    for turn in range(5):
        assert endpoint.stream(*messages)[-2]["messageStop"]["stopReason"] == "tool_use"
        messages += [used(f"t{turn}", order_id="1001"), brought(f"t{turn}", {"status": "shipped"})]


def test_a_scenario_sends_malformed_arguments_unknown_tools_and_repeated_ids_as_they_are(endpoint: Endpoint) -> None:
    endpoint.told(
        {
            "text": "",
            "calls": [
                {"tool": "drop_tables", "tool_use_id": "same"},
                {"tool": "lookup_order", "input_json": '{"order_id": ', "tool_use_id": "same"},
            ],
            "usage": "missing",
        }
    )
    events = endpoint.stream()
    starts = [event["contentBlockStart"]["start"]["toolUse"] for event in events if "contentBlockStart" in event]
    assert starts == [
        {"toolUseId": "same", "name": "drop_tables"},
        {"toolUseId": "same", "name": "lookup_order"},
    ]
    assert "messageStop" in events[-1]


def test_a_question_without_the_testers_marker_is_answered_normally(endpoint: Endpoint) -> None:
    endpoint.told({"error": "ThrottlingException"}, repeat=True)
    assert endpoint.stream(said("user", "Be slow, throttle me and fail, order 1001"))


def test_a_paced_stream_arrives_piece_by_piece(endpoint: Endpoint) -> None:
    endpoint.told({"pace_s": 0.1, "text": "one two three", "calls": []})
    begun = time.monotonic()
    stream = endpoint.client.converse_stream(
        modelId="m:0", messages=[said("user", QUESTION)], toolConfig={"tools": TOOLS}
    )["stream"]
    arrived = [time.monotonic() - begun for _ in stream]
    assert arrived[-1] - arrived[0] > 0.4


def test_a_wrong_scenario_file_is_said_and_not_passed_over(endpoint: Endpoint) -> None:
    endpoint.told({"errror": "ThrottlingException"})
    with pytest.raises(ClientError, match="scenario file is wrong"):
        endpoint.stream()


def test_a_path_that_is_not_converse_is_not_found(endpoint: Endpoint) -> None:
    with pytest.raises(ClientError) as refused:
        endpoint.client.invoke_model(modelId="m:0", body=b"{}")
    assert refused.value.response["Error"]["Code"] == "ResourceNotFoundException"
