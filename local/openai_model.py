"""Any OpenAI-compatible server behind Bedrock's wire: `MODEL_URL=http://…/v1 make run`.

Chat completions are streamed through piece by piece, and the server's errors become Bedrock's. (The emulator has a
proxy of its own; it waits for the whole answer, and when the server is down it answers with invented text.)
`MODEL_NAME` picks the server's model, or else its first; `MODEL_KEY` is sent as bearer token. Text and tools only.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx

from local.bedrock_wire import Broken, Request, StreamEvent
from local.converse_rules import Refused

STOP_REASONS = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "length": "max_tokens",
    "content_filter": "content_filtered",
}
ERRORS = {
    400: "ValidationException",
    401: "AccessDeniedException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    422: "ValidationException",
    429: "ThrottlingException",
}


class OpenAiModel:
    """A chat-completions server as a source of Converse events."""

    def __init__(self, url: str, *, model: str | None = None, key: str | None = None, timeout_s: float = 120) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=url.rstrip("/") + "/", headers=headers, timeout=timeout_s)
        self._model = model

    def close(self) -> None:
        """Close the connections to the server."""
        self._client.close()

    def first_model(self) -> str:
        """Return the configured model's name, or the first that the server lists.

        Raises:
            httpx.HTTPError: the server can't be asked.
            ValueError: it lists none.
        """
        if self._model is None:
            response = self._client.get("models")
            response.raise_for_status()
            names = [entry["id"] for entry in response.json().get("data", [])]
            if not names:
                raise ValueError("the server lists no models; name one with MODEL_NAME")
            self._model = names[0]
        return self._model

    def __call__(self, request: Request) -> Iterator[StreamEvent]:
        """Yield the answer's events as the server sends its pieces.

        Raises:
            Refused: the server refused, or could not be reached.
            Broken: it failed in the middle of its answer.
        """
        begun = False
        try:
            with self._client.stream("POST", "chat/completions", json=self._payload(request)) as response:
                if response.status_code != httpx.codes.OK:
                    response.read()
                    code = ERRORS.get(response.status_code, "ServiceUnavailableException")
                    raise Refused(code, f"The model's server says: {response.text[:500]}")
                yield "messageStart", {"role": "assistant"}
                begun = True
                yield from _converse_events(_chunks(response))
        except httpx.TimeoutException as slow:
            raise _failure(begun, "ModelTimeoutException", "The model's server is too slow.") from slow
        except (httpx.HTTPError, ValueError, KeyError) as lost:
            raise _failure(begun, "ServiceUnavailableException", f"The model's server failed: {lost}") from lost

    def _payload(self, request: Request) -> dict[str, Any]:
        body = request.body
        inference = body.get("inferenceConfig") or {}
        payload: dict[str, Any] = {
            "model": self.first_model(),
            "messages": _messages(body),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if "maxTokens" in inference:
            payload["max_tokens"] = inference["maxTokens"]
        if "temperature" in inference:
            payload["temperature"] = inference["temperature"]
        if tools := [
            tool["toolSpec"] for tool in (body.get("toolConfig") or {}).get("tools", []) if "toolSpec" in tool
        ]:
            payload["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool["name"],
                        "description": tool.get("description", ""),
                        "parameters": tool["inputSchema"]["json"],
                    },
                }
                for tool in tools
            ]
        return payload


def _failure(begun: bool, code: str, message: str) -> Refused | Broken:
    return Broken("modelStreamErrorException", message) if begun else Refused(code, message)


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    system = "\n\n".join(block["text"] for block in body.get("system") or [] if "text" in block)
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for message in body["messages"]:
        results = [block["toolResult"] for block in message["content"] if "toolResult" in block]
        messages += [{"role": "tool", "tool_call_id": r["toolUseId"], "content": _result_text(r)} for r in results]
        text = "\n".join(block["text"] for block in message["content"] if "text" in block)
        calls = [_tool_call(block["toolUse"]) for block in message["content"] if "toolUse" in block]
        if calls:
            messages.append({"role": message["role"], "content": text or None, "tool_calls": calls})
        elif text:
            messages.append({"role": message["role"], "content": text})
    return messages


def _result_text(result: dict[str, Any]) -> str:
    text = "\n".join(part["text"] if "text" in part else json.dumps(part["json"]) for part in result["content"])
    return f"error: {text}" if result.get("status") == "error" else text


def _tool_call(use: dict[str, Any]) -> dict[str, Any]:
    function = {"name": use["name"], "arguments": json.dumps(use["input"])}
    return {"id": use["toolUseId"], "type": "function", "function": function}


def _chunks(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the stream's chunks; one that ends without `[DONE]` was cut."""
    for line in response.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        yield json.loads(data)
    raise ValueError("the answer was cut off")


class _Blocks:
    """Turns chunks into content blocks: at most one is open at a time."""

    def __init__(self) -> None:
        self._index = -1
        self._open: str | None = None

    def events(self, delta: dict[str, Any]) -> Iterator[StreamEvent]:
        """Yield the events of one chunk's delta."""
        if text := delta.get("content"):
            if self._open != "text":
                yield from self._begin("text")
            yield "contentBlockDelta", {"contentBlockIndex": self._index, "delta": {"text": text}}
        for call in delta.get("tool_calls") or []:
            name = f"call {call.get('index', 0)}"
            if self._open != name:
                yield from self._begin(name)
                use = {"toolUseId": call.get("id") or f"tooluse_{self._index}", "name": call["function"]["name"]}
                yield "contentBlockStart", {"contentBlockIndex": self._index, "start": {"toolUse": use}}
            if piece := call["function"].get("arguments"):
                yield "contentBlockDelta", {"contentBlockIndex": self._index, "delta": {"toolUse": {"input": piece}}}

    def end(self) -> Iterator[StreamEvent]:
        """Yield the end of the open block, if one is."""
        if self._open:
            yield "contentBlockStop", {"contentBlockIndex": self._index}

    def _begin(self, what: str) -> Iterator[StreamEvent]:
        yield from self.end()
        self._index, self._open = self._index + 1, what


def _converse_events(chunks: Iterator[dict[str, Any]]) -> Iterator[StreamEvent]:
    blocks, stop_reason, usage = _Blocks(), "end_turn", None
    for chunk in chunks:
        if chunk.get("error"):
            raise ValueError(str(chunk["error"])[:500])
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", [])[:1]:
            yield from blocks.events(choice.get("delta") or {})
            stop_reason = STOP_REASONS.get(choice.get("finish_reason") or "", stop_reason)
    yield from blocks.end()
    yield "messageStop", {"stopReason": stop_reason}
    if usage:
        spent, said = usage["prompt_tokens"], usage["completion_tokens"]
        counts = {"inputTokens": spent, "outputTokens": said, "totalTokens": spent + said}
        yield "metadata", {"usage": counts, "metrics": {"latencyMs": 1}}
