"""Write mcp.lock.json, the reviewed copy of what servers outside say of their tools: `make lock-mcp`.

It asks each server that a release declares what it offers now. What has changed at a server is a change of the file and
of the hash that is printed; who has read the new description and schema puts that hash into the release. Nobody else
does: a release pins what was reviewed, and calls are refused until it pins what the server offers. See docs/mcp.md.

A server's key is taken from `MCP_KEY_<SERVER>`, and `MCP_AT_<SERVER>` says where on the loopback it is, if it is there.
"""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from agent.aws.clock import SystemClock
from agent.errors import ConfigurationInvalid
from agent.mcp_client import McpClient
from agent.pinned_tools import from_text, lock, to_text
from agent.release import DeclaredServer, Release
from agent.tool_servers import ServerError, ToolServers

FOLDER = Path(__file__).parent
PATH = FOLDER / "mcp.lock.json"
PATIENCE_S = 30.0


def declared(folder: Path = FOLDER) -> list[DeclaredServer]:
    """Return the servers of all releases."""
    names = sorted(path.stem for path in (folder / "releases").glob("*.toml"))
    return [server for name in names for server in Release.read(folder, name).mcp]


def locked(servers: Iterable[DeclaredServer], outside: ToolServers, keys: Mapping[str, str]) -> str:
    """Return what the file has to say.

    Raises:
        ConfigurationInvalid: a server does not offer a declared tool, or offers one that can't be taken.
        ServerError: a server does not answer.
    """
    servers = list(servers)
    offered = {
        server.name: outside.tools(server.name, server.url, bearer=keys.get(server.name.upper()), timeout_s=PATIENCE_S)
        for server in servers
    }
    return to_text(lock(servers, offered))


def main(environment: Mapping[str, str]) -> int:
    """Ask, write, and say which hashes releases have to pin."""
    keys = {name.removeprefix("MCP_KEY_"): key for name, key in environment.items() if name.startswith("MCP_KEY_")}
    try:
        servers = declared()
        elsewhere = {server.name: environment.get(f"MCP_AT_{server.name.upper()}", "") for server in servers}
        elsewhere = {name: url for name, url in elsewhere.items() if url}
        text = locked(servers, McpClient(SystemClock(), on_the_loopback=elsewhere), keys)
    except (ConfigurationInvalid, ServerError) as wrong:
        sys.stderr.write(f"error: {wrong}\n")
        return 1
    PATH.write_text(text, encoding="utf-8")
    for tool in from_text(text):
        if (pin := tool.contract.server) is not None:
            known = any(t.sha256 == pin.sha256 for s in servers if s.name == pin.server for t in s.tools)
            sys.stdout.write(f"{pin.sha256}  {tool.contract.name}{'' if known else '  is in no release'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
