"""A server outside, of the official kind and on the loopback, whose tools and manners a test changes while it runs."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server

from agent.tool_servers import OfferedTool
from local.processes import free_port

PARCEL = OfferedTool(
    name="track_parcel",
    description="Tell where a parcel is, by its tracking number.",
    input_schema={
        "type": "object",
        "properties": {
            "tracking_number": {"type": "string", "pattern": "^[A-Z0-9]{4,20}$"},
            "request_id": {"type": "string"},
        },
        "required": ["tracking_number"],
    },
)

Answer = types.CallToolResult | types.InputRequiredResult
Asgi = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


def text(*texts: str, failed: bool = False) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=each) for each in texts], is_error=failed)


class Outsider:
    """What it offers, how it answers, and what it was asked."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self.hang = threading.Event()
        """Lets hanging answers go when the test is over."""
        self.reset()

    def reset(self) -> None:
        self.offered = [PARCEL]
        self.answers: Callable[[dict[str, Any], Any], Any] = lambda arguments, _: text(f"asked {json.dumps(arguments)}")
        self.manners: Callable[[str], tuple[int, dict[str, str], bytes] | None] = lambda _: None
        """What it answers in place of the protocol, by the message's method."""
        self.calls: list[dict[str, Any]] = []
        self.methods: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.hang.clear()

    async def _list(self, _: Any, __: Any) -> types.ListToolsResult:
        tools = [
            types.Tool(name=tool.name, description=tool.description, input_schema=tool.input_schema)
            for tool in self.offered
        ]
        return types.ListToolsResult(tools=tools)

    async def _call(self, context: Any, params: types.CallToolRequestParams) -> Answer:
        self.calls.append(params.arguments or {})
        answer = self.answers(params.arguments or {}, context)
        result: Answer = await answer if asyncio.iscoroutine(answer) else answer
        return result

    async def never(self) -> Answer:
        """An answer that comes only when the test is over."""
        while not self.hang.is_set():
            await asyncio.sleep(0.02)
        return text("too late")

    def app(self) -> Asgi:
        # Without the library's own check of arguments and results: this one may offer and answer anything.
        server = Server("outsider", on_list_tools=self._list, on_call_tool=self._call)
        inner: Any = server.streamable_http_app()

        async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await inner(scope, receive, send)
                return
            body, more = b"", scope["method"] == "POST"
            while more:
                message = await receive()
                body, more = body + message.get("body", b""), message.get("more_body", False)
            method = json.loads(body).get("method", "") if body else scope["method"]
            self.methods.append(method)
            self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
            if (instead := self.manners(method)) is not None:
                status, headers, content = instead
                encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
                await send({"type": "http.response.start", "status": status, "headers": encoded})
                await send({"type": "http.response.body", "body": content})
                return
            given = [{"type": "http.request", "body": body, "more_body": False}]

            async def again() -> Any:
                return given.pop() if given else await receive()

            await inner(scope, again, send)

        return app


@contextmanager
def running(outsider: Outsider, **config: Any) -> Iterator[Outsider]:
    """Serve until the block ends, on a thread and a port of its own."""
    quiet: dict[str, Any] = {"log_config": None, "timeout_graceful_shutdown": 1}
    server = uvicorn.Server(uvicorn.Config(outsider.app(), port=outsider.port, **quiet, **config))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    started = threading.Event()
    while not server.started and thread.is_alive():
        started.wait(0.01)
    try:
        yield outsider
    finally:
        outsider.hang.set()
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
