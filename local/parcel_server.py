"""A carrier's server on the laptop: an example of a server outside, which speaks MCP and knows where parcels are.

`python -m local.parcel_server PORT`, with the keys it takes in `PARCEL_KEYS`, separated by commas. It is a server of
the official kind and knows nothing of Keepgate; `make run` starts it, the release `support-desk-local-1` uses it.
"""

import hashlib
import hmac
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import uvicorn
from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel, Field

from local.processes import end_with_parent

STATES = ("announced", "in_transit", "out_for_delivery", "delivered")
TOWNS = ("Leipzig", "Utrecht", "Lyon", "Gdansk")


class Parcel(BaseModel):
    """Where a parcel was seen last."""

    tracking_number: str
    state: Literal["announced", "in_transit", "out_for_delivery", "delivered"]
    town: str
    asked: int
    """How many different requests have asked for it: a repeated one does not count."""


def server() -> MCPServer[Any]:
    """Return the server with its one tool."""
    requests: dict[str, set[str]] = {}
    parcels: MCPServer[Any] = MCPServer("parcels", version="1.0", log_level="ERROR")

    @parcels.tool()
    def track_parcel(
        tracking_number: Annotated[str, Field(pattern=r"^[A-Z]{1,4}[0-9]{6,20}$", description="As on the label.")],
        request_id: Annotated[str, Field(max_length=100, description="The same for a repeated request.")],
    ) -> Parcel:
        """Tell where a parcel is: its state and the town in which it was seen last, by its tracking number."""
        asked = requests.setdefault(tracking_number, set())
        asked.add(request_id)
        digest = hashlib.sha256(tracking_number.encode()).digest()
        state: Any = STATES[digest[0] % len(STATES)]
        town = TOWNS[digest[1] % len(TOWNS)]
        return Parcel(tracking_number=tracking_number, state=state, town=town, asked=len(asked))

    return parcels


def app(keys: Sequence[str]) -> Any:  # noqa: ANN401 - an ASGI application
    """Return the server's application, for whoever has one of the keys."""
    inner: Any = server().streamable_http_app()

    async def guarded(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not any(hmac.compare_digest(given, f"Bearer {key}".encode()) for key in keys):
                refusal = [(b"www-authenticate", b"Bearer")]
                await send({"type": "http.response.start", "status": 401, "headers": refusal})
                await send({"type": "http.response.body", "body": b""})
                return
        await inner(scope, receive, send)

    return guarded


def main(port: int, keys: Sequence[str]) -> None:
    """Serve until the process is ended."""
    uvicorn.run(app(keys), host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    end_with_parent()
    main(int(sys.argv[1]), os.environ["PARCEL_KEYS"].split(","))
