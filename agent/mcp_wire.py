"""One exchange with a server over MCP: connect, shake hands, ask one thing, hang up.

The official client speaks the protocol; what it may do is bounded here, below it: requests go to one address of one
origin, answers come uncompressed and end at a number of bytes, and all of it ends with the time. What the server asks
of us (sampling, elicitation, roots) is answered with an error by the client. Its check of results by the server's own
output schema is not used: that schema is nobody's review, and may refer to anything.

How a call failed decides whether it may have run: see `_failure`.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import anyio
import httpx2
import mcp_types as types
from mcp.client.session import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from opentelemetry import context, trace
from pydantic import JsonValue, TypeAdapter

from agent.mcp_client import Door
from agent.tool_servers import (
    MAX_ANSWER_BYTES,
    MAX_TOOLS,
    AnswerTooLarge,
    OfferedTool,
    ServerAnswer,
    ServerAsked,
    ServerError,
    ServerLost,
    ServerRefused,
    ServerRejected,
    ServerUnreachable,
)

CONNECT_S = 3.0
GOODBYE_S = 1.0
MAX_PAGES = 10
MAX_MESSAGE = 500
NOT_RUN = {types.METHOD_NOT_FOUND, types.INVALID_PARAMS}
"""Errors of the protocol that a server gives in place of running a tool."""
ANSWERED: TypeAdapter[types.CallToolResult | types.InputRequiredResult] = TypeAdapter(
    types.CallToolResult | types.InputRequiredResult
)

T = TypeVar("T")


def tools(door: Door, *, bearer: str | None, timeout_s: float) -> Mapping[str, OfferedTool]:
    """Return what the server offers, by name; a name that is offered twice is offered as nothing anybody reviewed."""

    async def ask(session: ClientSession) -> dict[str, OfferedTool]:
        offered: dict[str, OfferedTool] = {}
        cursor: str | None = None
        for _page in range(MAX_PAGES):
            params = types.PaginatedRequestParams(cursor=cursor) if cursor else None
            page = await session.send_request(types.ListToolsRequest(params=params), types.ListToolsResult)
            for tool in page.tools[:MAX_TOOLS]:
                twice = tool.name in offered
                schema = {} if twice else tool.input_schema
                offered[tool.name] = OfferedTool(tool.name, "" if twice else tool.description or "", schema)
            cursor = page.next_cursor
            if not cursor or len(offered) >= MAX_TOOLS:
                break
        return offered

    return anyio.run(_exchange, door, bearer, timeout_s, ask)


def call(
    door: Door, tool: str, arguments: Mapping[str, JsonValue], *, bearer: str | None, timeout_s: float
) -> ServerAnswer:
    """Have a tool run, and return what it answers."""

    async def ask(session: ClientSession) -> ServerAnswer:
        params = types.CallToolRequestParams(name=tool, arguments=dict(arguments))
        result = await session.send_request(types.CallToolRequest(params=params), ANSWERED)
        if isinstance(result, types.InputRequiredResult):
            raise ServerAsked("it wants more than the arguments")
        return _answer(result)

    return anyio.run(_exchange, door, bearer, timeout_s, ask)


def _answer(result: types.CallToolResult) -> ServerAnswer:
    texts = [block.text for block in result.content if isinstance(block, types.TextContent)]
    others = tuple(block.type for block in result.content if not isinstance(block, types.TextContent))
    return ServerAnswer(
        ok=not result.is_error, text="\n".join(texts), structured=result.structured_content, left_out=others
    )


@dataclass
class _Exchange:
    """What has happened on the connection so far."""

    is_asking: bool = False
    """Whether the tool's request is on its way: from here on it may have run."""
    status: int = 0
    """Of the answer to that request, before it of the newest one."""
    is_unsent: bool = False
    """Whether that request found no connection."""
    is_too_large: bool = False
    left_bytes: int = MAX_ANSWER_BYTES


async def _exchange(
    door: Door, bearer: str | None, timeout_s: float, ask: Callable[[ClientSession], Awaitable[T]]
) -> T:
    exchange = _Exchange()
    answers: list[T] = []
    failed: Exception | None = None
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    token = context.attach(_untraced())
    try:
        with anyio.move_on_after(timeout_s) as patience:
            http = httpx2.AsyncClient(
                headers=headers,
                timeout=httpx2.Timeout(timeout_s, connect=CONNECT_S),
                transport=_Narrow(door, exchange),
                trust_env=False,  # no proxy and no .netrc of an environment
            )
            async with (
                http,
                streamable_http_client(door.url, http_client=http, max_sse_event_size=MAX_ANSWER_BYTES) as (
                    read,
                    write,
                ),
                ClientSession(read, write) as session,
            ):
                await session.initialize()
                answers.append(await ask(session))
                patience.deadline = min(patience.deadline, anyio.current_time() + GOODBYE_S)
    except Exception as error:  # noqa: BLE001 - whatever the library raises, in groups; what it means is decided below
        failed = error
    finally:
        context.detach(token)
    if answers:
        return answers[0]
    raise _failure(exchange, failed) from failed


def _failure(exchange: _Exchange, error: Exception | None) -> ServerError:
    """Return what went wrong; where the tool was asked and nothing proves that it did not run, it is `ServerLost`."""
    own = next((leaf for leaf in _leaves(error) if isinstance(leaf, ServerError)), None)
    said = next((leaf for leaf in _leaves(error) if isinstance(leaf, MCPError)), None)
    if own is not None:
        return own
    if exchange.status in {401, 403}:
        return ServerRefused("it does not take the key")
    if not exchange.is_asking:
        return ServerUnreachable("no answer that could be understood")
    if exchange.is_too_large:
        return AnswerTooLarge("the answer is too large")
    if exchange.is_unsent or 300 <= exchange.status < 400:
        return ServerUnreachable("no connection, or it sends us elsewhere")
    if 400 <= exchange.status < 500:
        return ServerRejected(said.message[:MAX_MESSAGE] if said else "it does not take the request")
    if said is not None and said.code in NOT_RUN and exchange.status == 200:
        return ServerRejected(said.message[:MAX_MESSAGE])
    return ServerLost("no answer that could be understood")


def _leaves(error: BaseException | None) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    elif error is not None:
        yield error


def _untraced() -> context.Context:
    """Return a context in which nothing is traced: the library's spans hold server's words, and it sends ids out."""
    nobody = trace.SpanContext(trace_id=1, span_id=1, is_remote=True, trace_flags=trace.TraceFlags(0))
    return trace.set_span_in_context(trace.NonRecordingSpan(nobody), context.Context())


class _Narrow(httpx2.AsyncBaseTransport):
    """To one address of one origin, and no more bytes back than an exchange may have."""

    def __init__(self, door: Door, exchange: _Exchange) -> None:
        self._url = httpx2.URL(door.url)
        self._address = door.address
        self._exchange = exchange
        self._inner = httpx2.AsyncHTTPTransport(trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        told = self._is_told(request)
        if self._exchange.is_too_large or _origin(request.url) != _origin(self._url):
            raise httpx2.RequestError("not to be asked", request=request)
        headers = request.headers.copy()
        headers["Accept-Encoding"] = "identity"
        narrowed = httpx2.Request(
            request.method,
            request.url.copy_with(host=self._address),
            headers=headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": self._url.host},
        )
        if told:
            self._exchange.status, self._exchange.is_unsent = 0, False
        try:
            answer = await self._inner.handle_async_request(narrowed)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            if told:
                self._exchange.is_unsent = True
            raise
        if told:
            self._exchange.status = answer.status_code
        if answer.headers.get("content-encoding", "identity") != "identity":
            await answer.aclose()
            raise httpx2.RequestError("an encoding nobody asked for", request=request)
        stream = _Counted(cast("httpx2.AsyncByteStream", answer.stream), self._exchange)
        return httpx2.Response(answer.status_code, headers=answer.headers, stream=stream, extensions=answer.extensions)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _is_told(self, request: httpx2.Request) -> bool:
        """Tell whether a request's answer says how the exchange goes: until the call each, then the call's alone."""
        if request.method != "POST":
            return False
        is_call = json.loads(request.content).get("method") == "tools/call"
        before, self._exchange.is_asking = self._exchange.is_asking, self._exchange.is_asking or is_call
        return is_call or not before


class _Counted(httpx2.AsyncByteStream):
    """A body that breaks off where the exchange has had its bytes."""

    def __init__(self, stream: httpx2.AsyncByteStream, exchange: _Exchange) -> None:
        self._stream = stream
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._exchange.left_bytes -= len(chunk)
            if self._exchange.left_bytes < 0:
                self._exchange.is_too_large = True
                raise httpx2.StreamError("the answer is too large")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
