"""Bedrock's Converse and ConverseStream on 127.0.0.1: the real wire format in front of a model that is not Bedrock.

Whatever answers is a `Source`: a function from a valid request to stream events. Errors raised before the first event
become HTTP errors with Bedrock's types and statuses; later ones end the stream as exception frames. Not here: IAM
(requests arrive signed with the agent's role, but nobody checks that on this port), quotas, guardrails, caching.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from pydantic import ValidationError

from local import event_stream, scripted_model
from local.converse_rules import Refused, converse_stream, require_valid
from local.scenarios import Scenarios, Step

ROUTE = re.compile(r"/model/([^/]+)/(converse|converse-stream)")
MAX_BODY_BYTES = 8 << 20
GUARDRAIL_SAYS = "This was held back by a guardrail of the model's service."

StreamEvent = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Request:
    """A valid Converse request."""

    model_id: str
    body: dict[str, Any]


Source = Callable[[Request], Iterator[StreamEvent]]


class Broken(Exception):
    """An error within a stream: `code` in the stream's spelling, such as `modelStreamErrorException`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Cut(Exception):
    """The connection ends in the middle of a stream."""


class Scripted:
    """The scripted model as a source, with what a scenario changes about each call."""

    def __init__(self, scenarios: Scenarios) -> None:
        self._scenarios = scenarios

    def __call__(self, request: Request) -> Iterator[StreamEvent]:
        """Yield the answer's events.

        Raises:
            Refused: a scenario says so.
            Broken: a scenario says so, after some events.
            Cut: likewise.
        """
        conversation = scripted_model.read(request.body)
        step = self._scenarios.step(conversation.question)
        time.sleep(step.pause_s)
        if step.error:
            raise Refused(step.error, "A scenario of the local cloud refused this call.")
        said = _forced(step, scripted_model.answer(conversation))
        for number, event in enumerate(_events(request, said, step)):
            if number == step.break_after:
                if step.break_with is None:
                    raise Cut
                raise Broken(step.break_with, "A scenario of the local cloud broke this stream.")
            if number:
                time.sleep(step.pace_s)
            yield event


def _forced(step: Step, said: scripted_model.Answer) -> scripted_model.Answer:
    calls = said.calls
    if step.calls is not None:
        calls = tuple(
            scripted_model.Call(call.tool, call.input_json, call.tool_use_id or f"tooluse_forced_{index}")
            for index, call in enumerate(step.calls)
        )
    text = said.text if step.text is None else step.text
    if step.guardrail is not None:
        return scripted_model.Answer(GUARDRAIL_SAYS, (), "guardrail_intervened")
    stop_reason = step.stop_reason or ("tool_use" if calls else "end_turn")
    return scripted_model.Answer(text, calls, stop_reason)


def _events(request: Request, said: scripted_model.Answer, step: Step) -> Iterator[StreamEvent]:
    """Yield an answer as Claude streams on Bedrock: text in pieces, then each tool use with its input in pieces."""
    left = (request.body.get("inferenceConfig") or {}).get("maxTokens", 4096)
    spent, block, stop_reason = 0, 0, said.stop_reason
    yield "messageStart", {"role": "assistant"}
    for index, piece in enumerate(re.findall(r"\s*\S+\s*", said.text)):
        if spent >= left:
            stop_reason = "max_tokens"
            break
        spent += scripted_model.count_tokens(piece)
        yield "contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": piece}}
        block = 1 if index == 0 else block
    if block:
        yield "contentBlockStop", {"contentBlockIndex": 0}
    for index, call in enumerate(said.calls, start=block):
        if stop_reason == "max_tokens":
            break
        start = {"toolUse": {"toolUseId": call.tool_use_id, "name": call.tool}}
        yield "contentBlockStart", {"contentBlockIndex": index, "start": start}
        middle = len(call.input_json) // 2
        for piece in ("", call.input_json[:middle], call.input_json[middle:]):
            yield "contentBlockDelta", {"contentBlockIndex": index, "delta": {"toolUse": {"input": piece}}}
        yield "contentBlockStop", {"contentBlockIndex": index}
        spent += scripted_model.count_tokens(call.tool + call.input_json)
    yield "messageStop", {"stopReason": stop_reason}
    if step.usage == "reported":
        asked = scripted_model.count_tokens(json.dumps(request.body))
        usage = {"inputTokens": asked, "outputTokens": spent, "totalTokens": asked + spent}
        yield "metadata", {"usage": usage, "metrics": {"latencyMs": 1}, **_guardrail_trace(step)}


def _guardrail_trace(step: Step) -> dict[str, Any]:
    """Return what a guardrail's trace adds to the metadata."""
    if step.guardrail is None:
        return {}
    topics = [{"name": topic, "type": "DENY", "action": "BLOCKED"} for topic in step.guardrail]
    return {"trace": {"guardrail": {"outputAssessments": {"guardrail1": [{"topicPolicy": {"topics": topics}}]}}}}


def converse_answer(events: Iterator[StreamEvent]) -> dict[str, Any]:
    """Return the answer of Converse that these events of ConverseStream stream."""
    blocks: dict[int, dict[str, Any]] = {}
    answer: dict[str, Any] = {}
    for name, payload in events:
        if name == "contentBlockStart":
            blocks[payload["contentBlockIndex"]] = {"toolUse": {**payload["start"]["toolUse"], "input": ""}}
        elif name == "contentBlockDelta":
            delta = payload["delta"]
            block = blocks.setdefault(payload["contentBlockIndex"], {"text": ""})
            if "text" in delta:
                block["text"] += delta["text"]
            else:
                block["toolUse"]["input"] += delta["toolUse"]["input"]
        elif name in {"messageStop", "metadata"}:
            answer |= payload
    for block in blocks.values():
        if use := block.get("toolUse"):
            use["input"] = json.loads(use["input"] or "{}")
    content = [blocks[index] for index in sorted(blocks)]
    return {"output": {"message": {"role": "assistant", "content": content}}, **answer}


class BedrockServer:
    """The endpoint, in a thread of this process, from `with` to its end."""

    def __init__(self, source: Source, *, port: int = 0) -> None:
        handler = type("Handler", (_Handler,), {"source": staticmethod(source)})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), name="bedrock-wire", daemon=True)

    @property
    def url(self) -> str:
        """What `AWS_ENDPOINT_URL_BEDROCK_RUNTIME` is set to."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def scripted_server(scenarios: Path | None = None, *, port: int = 0) -> BedrockServer:
    """Return the scripted model's endpoint, told by a scenario file if there is one."""
    return BedrockServer(Scripted(Scenarios(scenarios)), port=port)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    source: Source

    def do_POST(self) -> None:
        """Answer Converse and ConverseStream."""
        try:
            request, streamed = self._request()
            events = self.source(request)
            if streamed:
                first = next(events)
                self._stream(first, events)
            else:
                self._send(200, converse_answer(events))
        except Refused as refused:
            self._refuse(refused)
        except Broken as broken:
            self._refuse(Refused("ModelErrorException", str(broken)))
        except ValidationError as wrong:
            self._refuse(Refused("InternalServerException", f"The scenario file is wrong: {wrong}"))
        except (BrokenPipeError, ConnectionResetError, Cut):
            self.close_connection = True

    def _request(self) -> tuple[Request, bool]:
        route = ROUTE.fullmatch(self.path)
        if route is None:
            raise Refused("ResourceNotFoundException", f"There is no {self.path} here.")
        length = int(self.headers.get("Content-Length", 0))
        if length > MAX_BODY_BYTES:
            self.close_connection = True
            raise Refused("ValidationException", "The request is too large.")
        try:
            body = json.loads(self.rfile.read(length))
        except ValueError as wrong:
            raise Refused("ValidationException", f"The body is not JSON: {wrong}") from wrong
        model_id = unquote(route[1])
        require_valid(model_id, body)
        return Request(model_id, body), route[2] == "converse-stream"

    def _stream(self, first: StreamEvent, rest: Iterator[StreamEvent]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.amazon.eventstream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._chunk(event_stream.event(*first))
        try:
            for event in rest:
                self._chunk(event_stream.event(*event))
        except Broken as broken:
            self._chunk(event_stream.exception(broken.code, {"message": str(broken)}))
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _refuse(self, refused: Refused) -> None:
        shapes = {shape.name: shape for shape in converse_stream().error_shapes}
        status = shapes[refused.code].metadata["error"]["httpStatusCode"]
        self._send(status, {"message": str(refused)}, error_type=refused.code)

    def _send(self, status: int, document: dict[str, Any], *, error_type: str | None = None) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if error_type:
            self.send_header("x-amzn-ErrorType", error_type)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name of the method it replaces
        """Say nothing: the trace has every model call."""
