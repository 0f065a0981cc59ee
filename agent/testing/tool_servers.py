"""Servers outside in memory: the twin of `agent.mcp_client`, held to the same contract suite, and the stopped tools."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from agent.ports.clock import Clock
from agent.testing.clock import FakeClock
from agent.tool_servers import (
    MAX_STOPPED,
    AnswerTooLarge,
    OfferedTool,
    ServerAnswer,
    ServerPin,
    ServerRefused,
    ServerRejected,
    ServerUnreachable,
    StoppedTool,
)

Answering = Callable[[Mapping[str, JsonValue]], ServerAnswer]


@dataclass
class MemoryServer:
    """A server: what it offers, how its tools answer, and what it has been asked."""

    tools: dict[str, tuple[OfferedTool, Answering]] = field(default_factory=dict)
    bearer: str | None = None
    """The only one it takes, if it wants any."""
    calls: list[tuple[str, dict[str, JsonValue]]] = field(default_factory=list)
    max_characters: int = 1_000_000

    def offer(self, tool: OfferedTool, answer: Answering) -> None:
        """Offer a tool from now on."""
        self.tools[tool.name] = tool, answer


class MemoryToolServers:
    """`tool_servers.ToolServers` over servers by their URL."""

    def __init__(self, servers: Mapping[str, MemoryServer] | None = None) -> None:
        self.servers = dict(servers or {})

    def tools(
        self,
        server: str,  # noqa: ARG002 - the port's
        url: str,
        *,
        bearer: str | None,
        timeout_s: float,  # noqa: ARG002 - the port's
    ) -> Mapping[str, OfferedTool]:
        """See `tool_servers.ToolServers`."""
        return {name: tool for name, (tool, _) in self._at(url, bearer).tools.items()}

    def call(
        self,
        pin: ServerPin,
        arguments: Mapping[str, JsonValue],
        *,
        bearer: str | None,
        timeout_s: float,  # noqa: ARG002 - the port's
    ) -> ServerAnswer:
        """See `tool_servers.ToolServers`."""
        server = self._at(pin.url, bearer)
        if pin.tool not in server.tools:
            raise ServerRejected(f"Unknown tool: {pin.tool}")
        server.calls.append((pin.tool, dict(arguments)))
        answer = server.tools[pin.tool][1](arguments)
        if len(answer.text) > server.max_characters:
            raise AnswerTooLarge("too long")
        return answer

    def _at(self, url: str, bearer: str | None) -> MemoryServer:
        server = self.servers.get(url)
        if server is None:
            raise ServerUnreachable("nobody is there")
        if server.bearer is not None and bearer != server.bearer:
            raise ServerRefused("not this bearer")
        return server


@dataclass
class MemoryStoppedTools:
    """`tool_servers.StoppedTools` as a dictionary."""

    clock: Clock = field(default_factory=FakeClock)
    contracts: dict[str, StoppedTool] = field(default_factory=dict)

    def is_stopped(self, contract_sha256: str) -> bool:
        """See `tool_servers.StoppedTools`."""
        return contract_sha256 in self.contracts

    def stop(self, contract_sha256: str, *, tool: str) -> None:
        """See `tool_servers.StoppedTools`."""
        self.contracts[contract_sha256] = StoppedTool(tool, contract_sha256, self.clock.now())

    def stopped(self) -> list[StoppedTool]:
        """See `tool_servers.StoppedTools`."""
        return sorted(self.contracts.values(), key=lambda tool: tool.since, reverse=True)[:MAX_STOPPED]
