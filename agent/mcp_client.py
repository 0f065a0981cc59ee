"""Servers outside over MCP (streamable HTTP): the way out of room 3.

What a server offers is remembered for a quarter of a minute, per server and key. The protocol itself is
`agent.mcp_wire`, which is imported at the first request: it costs as much as everything else a tool needs.

Only public addresses are called, and the connection is made to the very address that was looked at, so a name that
answers otherwise the second time leads nowhere else. A stage on a laptop may put servers on the loopback instead.
"""

import hashlib
import ipaddress
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pydantic import JsonValue

from agent.errors import ConfigurationInvalid
from agent.ports.clock import Clock
from agent.tool_servers import OfferedTool, ServerAnswer, ServerPin, ServerUnreachable

LISTING_KEPT_S = 15
MAX_LISTINGS = 64
NOISY = ("mcp", "client", "httpx2", "httpcore2")
"""Loggers that would write what servers say into our log: `client` is the protocol library's, too."""
EMBEDDING = (ipaddress.ip_network("2002::/16"), ipaddress.ip_network("2001::/32"))
"""Addresses of IPv6 behind which any address of IPv4 may lie."""
UNICAST = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is given out (IANA). Python calls some of the rest global: `::127.0.0.1`, `fec0::1`, `5f00::1`."""


def look_up(host: str, port: int) -> list[str]:
    """Return the addresses of a host, as the system knows them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass
class McpClient:
    """`tool_servers.ToolServers` on the wire."""

    clock: Clock
    on_the_loopback: Mapping[str, str] = field(default_factory=dict)
    """Servers that are elsewhere on this stage, by name: `http://127.0.0.1:<port>/…`."""
    look_up: Callable[[str, int], list[str]] = look_up
    _listings: dict[tuple[str, str], tuple[float, Mapping[str, OfferedTool]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for server, url in self.on_the_loopback.items():
            parts = urlsplit(url)
            if parts.scheme != "http" or parts.hostname != "127.0.0.1" or parts.port is None:
                raise ConfigurationInvalid(f"the server {server} may be elsewhere only at http://127.0.0.1:<port>")
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def tools(self, server: str, url: str, *, bearer: str | None, timeout_s: float) -> Mapping[str, OfferedTool]:
        """See `tool_servers.ToolServers`."""
        # What a server offers may depend on who asks.
        key = url, hashlib.sha256((bearer or "").encode()).hexdigest()
        now = self.clock.monotonic()
        listed_at, offered = self._listings.pop(key, (0.0, None))
        if offered is None or now - listed_at >= LISTING_KEPT_S:
            from agent import mcp_wire

            listed_at, offered = now, mcp_wire.tools(self._door(server, url), bearer=bearer, timeout_s=timeout_s)
        self._listings[key] = listed_at, offered
        while len(self._listings) > MAX_LISTINGS:
            del self._listings[next(iter(self._listings))]
        return offered

    def call(
        self, pin: ServerPin, arguments: Mapping[str, JsonValue], *, bearer: str | None, timeout_s: float
    ) -> ServerAnswer:
        """See `tool_servers.ToolServers`."""
        from agent import mcp_wire

        door = self._door(pin.server, pin.url)
        return mcp_wire.call(door, pin.tool, arguments, bearer=bearer, timeout_s=timeout_s)

    def _door(self, server: str, url: str) -> "Door":
        elsewhere = self.on_the_loopback.get(server)
        if elsewhere is not None:
            return Door(elsewhere, "127.0.0.1")
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ServerUnreachable("only https is spoken")
        try:
            addresses = self.look_up(parts.hostname, parts.port or 443)
        except OSError as unknown:
            raise ServerUnreachable("its name is not known") from unknown
        if not addresses or not all(map(is_public, addresses)):
            raise ServerUnreachable("its address is not a public one")
        return Door(url, addresses[0])


@dataclass(frozen=True)
class Door:
    """A server's URL, and the one address that is called for it."""

    url: str
    address: str


def is_public(address: str) -> bool:
    """Tell whether an address belongs to the internet: no loopback, no private net, no metadata service."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip not in UNICAST or any(ip in net for net in EMBEDDING):
            return False
    return ip.is_global and not ip.is_multicast
