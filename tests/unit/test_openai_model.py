"""An OpenAI-compatible server behind Bedrock's wire: the SDK on one side, a small chat server on the other."""

import json
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from local.bedrock_wire import BedrockServer
from local.openai_model import OpenAiModel


class ChatServer(BaseHTTPRequestHandler):
    """Answers with the chunks it was told; keeps what it was asked."""

    protocol_version = "HTTP/1.1"
    status: ClassVar[int] = 200
    chunks: ClassVar[list[Any]] = []
    asked: ClassVar[list[dict[str, Any]]] = []
    keys: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.answer(json.dumps({"data": [{"id": "small-model"}]}).encode())

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.keys.append(self.headers.get("Authorization"))
        lines = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in self.chunks]
        self.answer("".join(f"data: {line}\n\n" for line in lines).encode())

    def answer(self, body: bytes) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def delta(finish: str | None = None, **content: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": content, "finish_reason": finish}]}


def tool_piece(index: int, arguments: str, name: str | None = None) -> dict[str, Any]:
    begun = {"id": f"id-{index}"} if name else {}
    return {"index": index, **begun, "function": {"arguments": arguments, **({"name": name} if name else {})}}


USAGE = {"choices": [], "usage": {"prompt_tokens": 90, "completion_tokens": 12}}


@pytest.fixture
def server() -> Iterator[type[ChatServer]]:
    told: Any = type("Told", (ChatServer,), {"chunks": [], "asked": [], "keys": []})
    http = ThreadingHTTPServer(("127.0.0.1", 0), told)
    http.daemon_threads = True
    told.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = Thread(target=http.serve_forever, args=(0.05,))
    thread.start()
    yield told
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def bedrock(server: Any) -> Iterator[Any]:
    with closing(OpenAiModel(server.url, key="a-key")) as model, BedrockServer(model) as wire:
        client = boto3.client(
            "bedrock-runtime",
            endpoint_url=wire.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"total_max_attempts": 1}),
        )
        yield client
        client.close()


TOOLS = {"tools": [{"toolSpec": {"name": "lookup_order", "inputSchema": {"json": {"type": "object"}}}}]}


def stream(bedrock: Any, messages: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    messages = messages or [{"role": "user", "content": [{"text": "Where is order 1001?"}]}]
    response = bedrock.converse_stream(
        modelId="m",
        messages=messages,
        system=[{"text": "Be brief."}],
        toolConfig=TOOLS,
        inferenceConfig={"maxTokens": 50},
    )
    with closing(response["stream"]) as events:
        return list(events)


def test_text_and_parallel_tool_calls_come_through_as_blocks_with_usage(server: Any, bedrock: Any) -> None:
    server.chunks += [
        delta(role="assistant", content="Let me "),
        delta(content="look."),
        delta(tool_calls=[tool_piece(0, "", "lookup_order")]),
        delta(tool_calls=[tool_piece(0, '{"order_id":')]),
        delta(tool_calls=[tool_piece(0, '"1001"}')]),
        delta(tool_calls=[tool_piece(1, '{"order_id":"1002"}', "lookup_order")]),
        delta(finish="tool_calls"),
        USAGE,
        "[DONE]",
    ]
    events = stream(bedrock)
    blocks: dict[int, str] = {}
    for event in events:
        if piece := event.get("contentBlockDelta"):
            text = piece["delta"].get("text") or piece["delta"]["toolUse"]["input"]
            blocks[piece["contentBlockIndex"]] = blocks.get(piece["contentBlockIndex"], "") + text
    assert blocks == {0: "Let me look.", 1: '{"order_id":"1001"}', 2: '{"order_id":"1002"}'}
    starts = [event["contentBlockStart"]["start"]["toolUse"] for event in events if "contentBlockStart" in event]
    assert [start["toolUseId"] for start in starts] == ["id-0", "id-1"]
    assert sum("contentBlockStop" in event for event in events) == 3
    assert events[-2]["messageStop"]["stopReason"] == "tool_use"
    assert events[-1]["metadata"]["usage"] == {"inputTokens": 90, "outputTokens": 12, "totalTokens": 102}


def test_the_server_is_asked_with_the_whole_conversation_and_the_key(server: Any, bedrock: Any) -> None:
    server.chunks += [delta(content="On its way."), delta(finish="stop"), USAGE, "[DONE]"]
    use = {"toolUseId": "a", "name": "lookup_order", "input": {"order_id": "1001"}}
    bad = {"toolUseId": "a", "content": [{"text": "no such order"}], "status": "error"}
    stream(
        bedrock,
        [
            {"role": "user", "content": [{"text": "Where?"}]},
            {"role": "assistant", "content": [{"toolUse": use}]},
            {"role": "user", "content": [{"toolResult": bad}]},
        ],
    )
    [asked] = server.asked
    assert asked["model"] == "small-model"
    assert asked["max_tokens"] == 50
    assert asked["tools"][0]["function"]["name"] == "lookup_order"
    assert [message["role"] for message in asked["messages"]] == ["system", "user", "assistant", "tool"]
    assert asked["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"order_id": "1001"}'
    assert asked["messages"][3] == {"role": "tool", "tool_call_id": "a", "content": "error: no such order"}
    assert server.keys == ["Bearer a-key"]


@pytest.mark.parametrize(
    ("status", "code"),
    [(429, "ThrottlingException"), (401, "AccessDeniedException"), (500, "ServiceUnavailableException")],
)
def test_the_servers_refusals_become_bedrocks(server: Any, bedrock: Any, status: int, code: str) -> None:
    bedrock_first = [delta(content="x"), "[DONE]"]
    server.chunks += bedrock_first
    stream(bedrock)
    server.status = status
    with pytest.raises(ClientError) as refused:
        stream(bedrock)
    assert refused.value.response["Error"]["Code"] == code


def test_an_answer_that_is_cut_off_breaks_the_stream_and_invents_nothing(server: Any, bedrock: Any) -> None:
    server.chunks += [delta(content="It is ")]
    with pytest.raises(EventStreamError, match="cut off"):
        stream(bedrock)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with closing(OpenAiModel("http://127.0.0.1:9/v1", model="m")) as model, BedrockServer(model) as wire:
        client = boto3.client(
            "bedrock-runtime",
            endpoint_url=wire.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"total_max_attempts": 1}),
        )
        with closing(client), pytest.raises(ClientError) as refused:
            stream(client)
        assert refused.value.response["Error"]["Code"] == "ServiceUnavailableException"
