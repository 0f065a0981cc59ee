"""A model on Amazon Bedrock, over ConverseStream: one attempt, no retries, a hard end.

The stream is translated part by part. A tool call and a reasoning block are given whole, at their end: one that was
cut off is not given at all. A stream that ends without the model having stopped is a failure, however much came.

Known limits: images, citations and tool results inside an answer are ignored; Keepgate does not ask for them.
"""

import base64
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError, ConnectTimeoutError, ParamValidationError, ReadTimeoutError
from urllib3.exceptions import ReadTimeoutError as StreamReadTimeoutError

from agent.aws.guardrail_trace import kinds_of
from agent.errors import (
    ModelError,
    ModelNotOffered,
    ModelRequestRejected,
    ModelThrottled,
    ModelTimedOut,
    ModelUnavailable,
)
from agent.events import Reasoning, Usage
from agent.ports.model import (
    GuardrailTold,
    ModelPart,
    ModelRequest,
    ModelStopped,
    ReasoningDone,
    TextDelta,
    ToolAsked,
    UsageReported,
)

if TYPE_CHECKING:
    from mypy_boto3_bedrock_runtime import BedrockRuntimeClient

FAILURES: Mapping[str, type[ModelError]] = {
    "ThrottlingException": ModelThrottled,
    "TooManyRequestsException": ModelThrottled,
    "ServiceQuotaExceededException": ModelThrottled,
    "ModelTimeoutException": ModelTimedOut,
    "InternalServerException": ModelUnavailable,
    "ServiceUnavailableException": ModelUnavailable,
    "ModelNotReadyException": ModelUnavailable,
    "ModelErrorException": ModelUnavailable,
    "ModelStreamErrorException": ModelUnavailable,
    "ValidationException": ModelRequestRejected,
    "AccessDeniedException": ModelNotOffered,
    "ResourceNotFoundException": ModelNotOffered,
}
"""Bedrock's error codes; any other is a refusal where it is a 4xx, else the service's failure."""


@dataclass(frozen=True)
class Guardrail:
    """A Bedrock guardrail that every call passes. A call whose guardrail can't be applied is refused by Bedrock."""

    identifier: str
    version: str


class BedrockModel:
    """`ports.Model` on Bedrock.

    `client_for` gives a client whose read timeout is the one asked for, with the SDK's retries off: each attempt is an
    event with a reservation of its own, so the loop counts them.
    """

    def __init__(
        self, client_for: Callable[[float], "BedrockRuntimeClient"], guardrail: Guardrail | None = None
    ) -> None:
        self._client_for = client_for
        self._guardrail = guardrail

    def stream(self, request: ModelRequest, *, timeout_s: float) -> Iterator[ModelPart]:
        """See `ports.Model`. A generator: the call begins, and its time runs, with the first part asked for."""
        ends_at = time.monotonic() + timeout_s
        late = threading.Event()
        answer = _Answer()
        with ExitStack() as cleanup:
            try:
                stream = self._client_for(timeout_s).converse_stream(**_to_wire(request, self._guardrail))["stream"]
                cleanup.callback(stream.close)
                # A read timeout bounds each silence, not the whole. urllib3's `shutdown` is made for ending another
                # thread's read; botocore and its stubs hide the way to it.
                raw: Any = stream._raw_stream  # type: ignore[attr-defined] # noqa: SLF001
                alarm = threading.Timer(ends_at - time.monotonic(), _cut, (raw, late))
                alarm.daemon = True
                alarm.start()
                cleanup.callback(alarm.cancel)
                for event in stream:
                    yield from answer.parts(event)
                answer.require_end()
            except Exception as error:
                raise _to_model_error(error, late=late.is_set(), begun=answer.begun) from error


def _cut(raw: Any, late: threading.Event) -> None:  # noqa: ANN401 - urllib3's response, which botocore hides
    late.set()
    with suppress(OSError, RuntimeError, ValueError):  # it ended in the same moment
        raw.shutdown()


def _to_model_error(error: Exception, *, late: bool, begun: bool) -> ModelError:
    """Return what an exception means. A socket shut down under a read fails in many ways: `late` tells."""
    if late or isinstance(error, (ReadTimeoutError, StreamReadTimeoutError, ConnectTimeoutError)):
        return ModelTimedOut("no end of the answer in time")
    match error:
        case ModelError():
            return error
        case ParamValidationError():
            return ModelRequestRejected("the request does not fit the API")
        case ClientError():
            # In a stream the codes begin with a small letter.
            code = error.response["Error"].get("Code", "")
            code = code[:1].upper() + code[1:]
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
            kind = FAILURES.get(code) or (ModelRequestRejected if 400 <= status < 500 else ModelUnavailable)
            if kind is ModelThrottled and begun:
                kind = ModelUnavailable  # tokens were made, and may be billed: not the harmless refusal
            return kind(code)
        case _:
            return ModelUnavailable(type(error).__name__)


@dataclass
class _Answer:
    """What has come of one answer so far, by block."""

    begun: bool = False
    stopped: bool = False
    _tools: dict[int, tuple[str, str, list[str]]] = field(default_factory=dict)
    _reasoning: dict[int, dict[str, Any]] = field(default_factory=dict)

    def parts(self, event: Mapping[str, Any]) -> Iterator[ModelPart]:
        """Yield what one event of the stream completes."""
        self.begun = True
        match event:
            case {"contentBlockStart": {"contentBlockIndex": block, "start": {"toolUse": use}}}:
                self._tools[block] = (use["toolUseId"], use["name"], [])
            case {"contentBlockDelta": {"contentBlockIndex": block, "delta": {"text": text}}}:
                yield TextDelta(block, text)
            case {"contentBlockDelta": {"contentBlockIndex": block, "delta": {"toolUse": {"input": piece}}}}:
                self._tools[block][2].append(piece)
            case {"contentBlockDelta": {"contentBlockIndex": block, "delta": {"reasoningContent": piece}}}:
                self._reason(block, piece)
            case {"contentBlockStop": {"contentBlockIndex": block}}:
                yield from self._end(block)
            case {"messageStop": {"stopReason": reason}}:
                self.stopped = True
                yield ModelStopped(reason)
            case {"metadata": told}:
                yield from _told(told)

    def require_end(self) -> None:
        """Raise ModelUnavailable where the stream is over and the model had not stopped."""
        if not self.stopped:
            raise ModelUnavailable("the stream ended before the model did")

    def _reason(self, block: int, piece: Mapping[str, Any]) -> None:
        content = self._reasoning.setdefault(block, {})
        if "redactedContent" in piece:
            # Bytes, which JSON can't hold: `_to_wire` turns them back.
            content["redactedContent"] = base64.b64encode(piece["redactedContent"]).decode()
        for name in ("text", "signature"):
            if name in piece:
                text = content.setdefault("reasoningText", {"text": ""})
                text[name] = text.get(name, "") + piece[name]

    def _end(self, block: int) -> Iterator[ModelPart]:
        if block in self._tools:
            provider_id, tool, pieces = self._tools.pop(block)
            # A call without arguments streams no input at all.
            yield ToolAsked(block, provider_id, tool, "".join(pieces) or "{}")
        if block in self._reasoning:
            yield ReasoningDone(block, Reasoning(block={"reasoningContent": self._reasoning.pop(block)}))


def _told(metadata: Mapping[str, Any]) -> Iterator[ModelPart]:
    if usage := metadata.get("usage"):
        yield UsageReported(
            Usage(
                input_tokens=usage["inputTokens"],
                output_tokens=usage["outputTokens"],
                cache_read_tokens=usage.get("cacheReadInputTokens", 0),
                cache_write_tokens=usage.get("cacheWriteInputTokens", 0),
            )
        )
    if kinds := kinds_of(metadata.get("trace") or {}):
        yield GuardrailTold(kinds)


def _to_wire(request: ModelRequest, guardrail: Guardrail | None = None) -> dict[str, Any]:
    inference: dict[str, Any] = {"maxTokens": request.max_tokens}
    if request.temperature is not None:
        inference["temperature"] = request.temperature
    call: dict[str, Any] = {
        "modelId": request.model_id,
        "system": [{"text": request.system}],
        "messages": [
            {**message, "content": [_block_to_wire(block) for block in message["content"]]}
            for message in request.messages
        ],
        "inferenceConfig": inference,
    }
    if guardrail is not None:
        call["guardrailConfig"] = {
            "guardrailIdentifier": guardrail.identifier,
            "guardrailVersion": guardrail.version,
            # `async` shows text before it was looked at.
            "streamProcessingMode": "sync",
            "trace": "enabled",
        }
    if request.tools:
        call["toolConfig"] = {
            "tools": [
                {"toolSpec": {"name": t.name, "description": t.description, "inputSchema": {"json": t.schema}}}
                for t in request.tools
            ]
        }
    return call


def _block_to_wire(block: dict[str, Any]) -> dict[str, Any]:
    match block:
        case {"reasoningContent": {"redactedContent": str(encoded)}}:
            return {"reasoningContent": {"redactedContent": base64.b64decode(encoded)}}
        case _:
            return block
