"""Servers outside that offer tools over MCP: what the core needs of one, and the pin that people have reviewed.

`agent.mcp_client` is this port on the wire, `agent.testing.tool_servers` in memory. A method opens a connection, asks
one thing and closes it. What comes back is outside text of a bounded size, whatever the server means it to be.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from agent.errors import KeepgateError

MAX_TOOLS = 200
"""A server's tools beyond these are not looked at."""
MAX_ANSWER_BYTES = 1_000_000
"""What is read of one answer, all protocol around it included."""


class ServerPin(BaseModel):
    """A tool of a server outside, as people reviewed it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: str
    url: str
    tool: str
    """Its name there."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the name, description and input schema that were reviewed: `OfferedTool.sha256`."""
    key_argument: str | None = None
    """Where the call's idempotency key goes; without one a call is never repeated."""
    reviewed: str = ""
    """The day of the last review. A new day makes a new contract, which lets a tool run that was stopped."""


MAX_STOPPED = 200
"""How many stopped contracts are listed at most."""


@dataclass(frozen=True)
class StoppedTool:
    """A contract that is stopped."""

    tool: str
    contract_sha256: str
    since: datetime


@dataclass(frozen=True)
class OfferedTool:
    """A tool as its server describes it now."""

    name: str
    description: str
    input_schema: dict[str, Any]


@dataclass(frozen=True)
class ServerAnswer:
    """What a call of a server's tool came to."""

    ok: bool
    """False where the server's tool itself says that it failed."""
    text: str
    structured: JsonValue = None
    left_out: tuple[str, ...] = ()
    """Kinds of content (`image`, `resource`, …) that were not taken."""


class ServerError(KeepgateError):
    """A server outside did not do what it was asked. `ran` says whether the tool may have acted."""

    code = "server_error"
    ran: ClassVar[bool] = False


class ServerUnreachable(ServerError):
    """Nothing was asked of the tool: no connection, no handshake, or an address nobody may call."""

    code = "server_unreachable"


class ServerRefused(ServerError):
    """The server does not take the credentials."""

    code = "server_refused"


class ServerRejected(ServerError):
    """The server knows no such tool or does not take the arguments; the message is the server's."""

    code = "server_rejected"


class ServerAsked(ServerError):
    """In place of an answer the server asked for something (a person's input, a model's), which it never gets."""

    code = "server_asked"
    ran = True


class AnswerTooLarge(ServerError):
    """The answer was longer than is read. The tool has run."""

    code = "answer_too_large"
    ran = True


class ServerLost(ServerError):
    """The tool was asked, and no answer came that could be understood."""

    code = "server_lost"
    ran = True


class ToolServers(Protocol):
    """Asks servers outside. `bearer` goes into the Authorization header where there is one."""

    def tools(self, server: str, url: str, *, bearer: str | None, timeout_s: float) -> Mapping[str, OfferedTool]:
        """Return what a server offers, by name.

        Raises:
            ServerRefused, ServerUnreachable.
        """
        ...

    def call(
        self,
        pin: ServerPin,
        arguments: Mapping[str, JsonValue],
        *,
        bearer: str | None,
        timeout_s: float,
    ) -> ServerAnswer:
        """Have a tool run with these arguments.

        Raises:
            ServerError: one of its subclasses.
        """
        ...


class StoppedTools(Protocol):
    """Which contracts of servers' tools are stopped, because the server's tool was once not the one that is pinned.

    A contract is stopped for good: what runs again is a reviewed pin, which is another contract.
    """

    def is_stopped(self, contract_sha256: str) -> bool:
        """Tell whether calls under a contract must not run.

        Raises:
            StoreUnavailable: not known, so no.
        """
        ...

    def stop(self, contract_sha256: str, *, tool: str) -> None:
        """Stop it.

        Raises:
            StoreUnavailable: perhaps not stopped.
        """
        ...

    def stopped(self) -> list[StoppedTool]:
        """Return what is stopped, the latest first; `MAX_STOPPED` at most.

        Raises:
            StoreUnavailable: not known.
        """
        ...
