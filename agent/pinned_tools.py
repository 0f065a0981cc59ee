"""Tools of servers outside, made of their lock: what people reviewed is what the model is told and calls are held to.

The lock (`mcp.lock.json` beside an agent's contracts) is written from what the servers answer, for the tools that
releases declare, and reviewed as a diff. A tool made of it is a tool like any other, named `<server>__<tool>`: its
effect is `external`, its results are untrusted, and it runs in room 3 alone.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from agent.contracts import Contract, Effect, SecretNeed, sha256_of
from agent.errors import ConfigurationInvalid
from agent.input_schemas import NOT_USED, arguments_by, require_bounded, require_meant
from agent.release import DeclaredServer, DeclaredTool, in_words
from agent.tool_servers import OfferedTool, ServerPin
from agent.tools import Arguments, Tool, ToolContext

ERRORS = (
    "tool_changed",
    "tool_error",
    "store_unavailable",
    "server_unreachable",
    "server_refused",
    "server_rejected",
    "server_asked",
    "answer_too_large",
)
"""What a call of a server's tool fails with: see `agent.pinned_call`."""
PROPERTY = re.compile(r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")


class LockedTool(BaseModel):
    """A tool as its server described it, and what the release says of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    reviewed: str
    resource: str
    key_argument: str | None
    told: str | None
    """What the model is told in place of the server's description."""
    description: str
    input_schema: dict[str, Any]
    allowances: tuple[str, ...] = ()


class LockedServer(BaseModel):
    """A server, and its locked tools by the names they have there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    timeout_s: int
    secret: SecretNeed | None
    tools: dict[str, LockedTool] = Field(min_length=1)


def pinned_sha256(offered: OfferedTool) -> str:
    """Return the hash a release pins: of name, description and input schema, to the letter."""
    return sha256_of({"name": offered.name, "description": offered.description, "schema": offered.input_schema})


def lock(
    servers: Iterable[DeclaredServer], offered: Mapping[str, Mapping[str, OfferedTool]]
) -> dict[str, LockedServer]:
    """Return the lock of the servers that releases declare, each offering these tools now.

    Raises:
        ConfigurationInvalid: a tool is not offered or can't be taken, or two releases declare a server differently.
    """
    locked: dict[str, LockedServer] = {}
    for server in servers:
        tools = {tool.name: _locked(server, tool, offered[server.name]) for tool in server.tools}
        before = locked.get(server.name)
        made = LockedServer(url=server.url, timeout_s=server.timeout_s, secret=server.secret, tools=tools)
        if before is not None:
            if made.model_copy(update={"tools": {}}) != before.model_copy(update={"tools": {}}):
                raise ConfigurationInvalid(f"releases declare the server {server.name} differently")
            if any(before.tools.get(name, tool) != tool for name, tool in tools.items()):
                raise ConfigurationInvalid(f"releases declare a tool of {server.name} differently")
            made = made.model_copy(update={"tools": before.tools | tools})
        locked[server.name] = made
    for name, server_tools in locked.items():
        for tool in server_tools.tools:
            _tool(name, server_tools, tool)
    return locked


def to_text(locked: Mapping[str, LockedServer]) -> str:
    """Return the lock as it is stored: what changed at a server is what changed in the diff."""
    document = {name: server.model_dump(mode="json") for name, server in sorted(locked.items())}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def read(path: Path) -> list[Tool[Arguments]]:
    """Return the tools of a lock's file.

    Raises:
        ConfigurationInvalid: it is not there, or as `from_text` says.
    """
    try:
        return from_text(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as missing:
        raise ConfigurationInvalid(f"{path.name} can't be read; `make lock-mcp` writes it") from missing


def from_text(text: str) -> list[Tool[Arguments]]:
    """Return the tools of a lock.

    Raises:
        ConfigurationInvalid: it is no lock, or its hashes are not those of what it says.
    """
    try:
        servers = {name: LockedServer.model_validate(entry) for name, entry in json.loads(text).items()}
    except ValidationError as wrong:
        raise ConfigurationInvalid(f"mcp.lock.json: {in_words(wrong)}; `make lock-mcp` writes it") from wrong
    except (ValueError, AttributeError) as wrong:
        raise ConfigurationInvalid(f"mcp.lock.json: {wrong}; `make lock-mcp` writes it") from wrong
    return [_tool(name, server, tool) for name, server in servers.items() for tool in server.tools]


def _locked(server: DeclaredServer, declared: DeclaredTool, offered: Mapping[str, OfferedTool]) -> LockedTool:
    found = offered.get(declared.name)
    if found is None:
        raise ConfigurationInvalid(f"{server.name} does not offer {declared.name}")
    require_meant(require_bounded(found.input_schema))
    return LockedTool(
        sha256=pinned_sha256(found),
        reviewed=declared.reviewed,
        resource=declared.resource or f"ToolServer::{server.name}",
        key_argument=declared.key_argument,
        told=declared.description,
        description=found.description,
        input_schema=found.input_schema,
        allowances=declared.allowances,
    )


def _tool(server: str, entry: LockedServer, name: str) -> Tool[Arguments]:
    locked = entry.tools[name]
    if pinned_sha256(OfferedTool(name, locked.description, locked.input_schema)) != locked.sha256:
        raise ConfigurationInvalid(f"the lock of {server}.{name} does not have the hash of what it says")
    try:
        schema = _told_schema(require_bounded(locked.input_schema), locked.key_argument)
        contract = Contract(
            name=DeclaredServer.tool_name(server, name),
            description=locked.told or locked.description,
            effect=Effect.EXTERNAL,
            resource=locked.resource,
            mode="idempotent" if locked.key_argument else "once",
            timeout_s=entry.timeout_s,
            parallel=False,
            errors=ERRORS,
            allowances=locked.allowances,
            secrets=(entry.secret,) if entry.secret else (),
            server=ServerPin(
                server=server,
                url=entry.url,
                tool=name,
                sha256=locked.sha256,
                key_argument=locked.key_argument,
                reviewed=locked.reviewed,
            ),
            schema=schema,
        )
    except (ConfigurationInvalid, ValidationError) as wrong:
        raise ConfigurationInvalid(f"{server}.{name}: {wrong}") from wrong
    return Tool(contract=contract, arguments=arguments_by(schema), run=_ask)


def _told_schema(schema: Mapping[str, Any], key_argument: str | None) -> dict[str, Any]:
    """Return the schema the model is given: no unknown arguments, and without the key, which the platform fills in."""
    properties = dict(schema.get("properties", {}))
    if wrong := [name for name in properties if not PROPERTY.match(name)]:
        raise ConfigurationInvalid(f"an argument is called {wrong[0][:80]!r}")
    required = list(schema.get("required", []))
    if key_argument is not None:
        if properties.pop(key_argument, {}).get("type") != "string":
            raise ConfigurationInvalid(f"there is no text argument {key_argument} for the idempotency key")
        required = [name for name in required if name != key_argument]
    told = {key: value for key, value in schema.items() if key not in NOT_USED}
    return told | {"properties": properties, "required": required, "additionalProperties": False}


def _ask(arguments: Arguments, context: ToolContext) -> BaseModel:
    if context.server is None:
        raise ConfigurationInvalid("no servers outside are reached from here")
    given: dict[str, JsonValue] = arguments.model_dump(mode="json")
    return context.server.call(given)
