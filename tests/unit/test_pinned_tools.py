"""The lock of servers' tools: what was reviewed is what the model is told and releases pin, or nothing is."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.contracts import Effect, SecretNeed
from agent.errors import ConfigurationInvalid
from agent.mcp_client import McpClient
from agent.pinned_tools import from_text, lock, pinned_sha256, to_text
from agent.release import DeclaredServer, DeclaredTool, Release
from agent.testing.clock import FakeClock
from agent.testing.tool_servers import MemoryServer, MemoryToolServers
from agent.tool_servers import OfferedTool, ServerAnswer
from local import parcel_server
from support_desk import lock_mcp
from support_desk.tools import TOOLS
from tests.outsider import Outsider, running

OFFERED = OfferedTool(
    name="Find-Parcel",
    description="Tell where a parcel is, by its number.",
    input_schema={
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"number": {"type": "string"}, "key": {"type": "string"}},
        "required": ["number", "key"],
    },
)
TOOL = DeclaredTool(name="Find-Parcel", sha256=pinned_sha256(OFFERED))
SERVER = DeclaredServer(name="parcels", url="https://parcels.example/mcp", tools=(TOOL,))


def declared(**changes: Any) -> DeclaredServer:
    return SERVER.model_copy(update={"tools": (TOOL.model_copy(update=changes),)})


def made(server: DeclaredServer = SERVER, offered: OfferedTool = OFFERED) -> Any:
    [tool] = from_text(to_text(lock([server], {"parcels": {offered.name: offered}})))
    return tool


def test_a_locked_tool_is_an_external_untrusted_tool_that_runs_once() -> None:
    contract = made().contract
    assert contract.name == "parcels__find_parcel"
    assert (contract.effect, contract.trusted, contract.mode) == (Effect.EXTERNAL, False, "once")
    assert contract.resource == "ToolServer::parcels"
    assert contract.description == OFFERED.description
    assert contract.schema_["additionalProperties"] is False
    assert "$schema" not in contract.schema_
    assert (contract.server.url, contract.server.tool) == ("https://parcels.example/mcp", "Find-Parcel")


def test_a_key_the_server_knows_a_repeated_call_by_is_the_platforms_to_fill_in() -> None:
    tool = made(declared(key_argument="key"))
    assert tool.contract.mode == "idempotent"
    assert (set(tool.contract.schema_["properties"]), tool.contract.schema_["required"]) == ({"number"}, ["number"])
    with pytest.raises(ValidationError):
        tool.arguments.model_validate({"number": "1", "key": "the model's"})


def test_its_calls_use_up_allowances_as_a_release_says() -> None:
    assert made(declared(allowances=("calls.tenant_hour",))).contract.allowances == ("calls.tenant_hour",)
    with pytest.raises(ConfigurationInvalid, match="integer"):
        made(declared(allowances=("number.user_day",)))


def test_people_may_tell_the_model_in_words_of_their_own() -> None:
    own = "Find out where a parcel is. Nothing else."
    tool = made(declared(description=own))
    assert tool.contract.description == own
    assert tool.contract.server.sha256 == pinned_sha256(OFFERED), "the server's words stay pinned"


@pytest.mark.parametrize(
    ("server", "offered"),
    [
        (SERVER, replace(OFFERED, name="other")),
        (SERVER, replace(OFFERED, description="Short.")),
        (SERVER, replace(OFFERED, description="x" * 2001)),
        (SERVER, replace(OFFERED, input_schema={"type": "object", "properties": {"a b": {"type": "string"}}})),
        (SERVER, replace(OFFERED, input_schema={"$ref": "https://x.example"})),
        (declared(key_argument="gone"), OFFERED),
        (
            declared(key_argument="number"),
            replace(OFFERED, input_schema={"type": "object", "properties": {"number": {}}}),
        ),
        (declared(resource="no resource"), OFFERED),
    ],
)
def test_what_can_not_be_taken_is_not_locked(server: DeclaredServer, offered: OfferedTool) -> None:
    with pytest.raises(ConfigurationInvalid):
        made(server, offered)


def test_releases_that_declare_a_server_differently_can_not_be_locked() -> None:
    offered = {"parcels": {OFFERED.name: OFFERED}}
    same = lock([SERVER, SERVER], offered)
    assert same == lock([SERVER], offered)
    others = (
        SERVER.model_copy(update={"timeout_s": 30}),
        SERVER.model_copy(update={"secret": SecretNeed(name="k", scope="user")}),
        declared(key_argument="key"),
    )
    for other in others:
        with pytest.raises(ConfigurationInvalid, match="differently"):
            lock([SERVER, other], offered)


@pytest.mark.parametrize(
    ("field", "value"),
    [("description", "Tell where a parcel is, and the customer's address."), ("input_schema", {"type": "object"})],
)
def test_a_lock_that_was_changed_by_hand_is_refused(field: str, value: Any) -> None:
    document = json.loads(to_text(lock([SERVER], {"parcels": {OFFERED.name: OFFERED}})))
    document["parcels"]["tools"]["Find-Parcel"][field] = value
    with pytest.raises(ConfigurationInvalid, match="hash"):
        from_text(json.dumps(document))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"parcels": {}}', '{"parcels": 1}'])
def test_what_is_no_lock_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationInvalid):
        from_text(text)


@pytest.mark.parametrize(
    "url",
    [
        "http://parcels.example/mcp",
        "https:///mcp",
        "https://user:word@parcels.example/mcp",
        "https://parcels.example/mcp#x",
        "ftp://parcels.example/",
        "parcels.example",
    ],
)
def test_a_release_names_servers_by_https_and_without_credentials(url: str) -> None:
    with pytest.raises(ValidationError):
        DeclaredServer(name="parcels", url=url, tools=(TOOL,))


# The support desk's own.


def test_every_pin_of_every_release_is_what_the_lock_has() -> None:
    locked = {name: t.contract.server for name, t in TOOLS.items() if t.contract.server}
    pins = {
        name: sha256
        for path in (lock_mcp.FOLDER / "releases").glob("*.toml")
        for name, sha256 in Release.read(lock_mcp.FOLDER, path.stem).pins.items()
    }
    assert pins == {name: pin.sha256 for name, pin in locked.items()}, "review the diff, then pin what was reviewed"


def test_the_laptops_release_is_the_first_one_and_the_carriers_server() -> None:
    first, laptop = (
        tomllib.loads((lock_mcp.FOLDER / "releases" / f"support-desk-{name}.toml").read_text())
        for name in ("1", "local-1")
    )
    assert [server["name"] for server in laptop.pop("mcp")] == ["parcels"]
    assert laptop == first, "copy what changed in support-desk-1 to support-desk-local-1"


@pytest.fixture(scope="module")
def carrier() -> Any:
    outsider = Outsider()
    outsider.app = lambda: parcel_server.app(["the key of acme"])  # type: ignore[method-assign] # another server in it
    with running(outsider) as served:
        yield McpClient(FakeClock(), on_the_loopback={"parcels": served.url})


def test_the_lock_is_what_the_carriers_server_offers(carrier: McpClient) -> None:
    text = lock_mcp.locked(lock_mcp.declared(), carrier, {"PARCELS": "the key of acme"})
    assert text == lock_mcp.PATH.read_text(encoding="utf-8"), "review what changed, then run `make lock-mcp`"


def test_the_carrier_knows_a_repeated_request(carrier: McpClient) -> None:
    pin = TOOLS["parcels__track_parcel"].contract.server
    assert pin is not None

    def asked(request_id: str) -> ServerAnswer:
        arguments: Any = {"tracking_number": "JD014600007919", "request_id": request_id}
        return carrier.call(pin, arguments, bearer="the key of acme", timeout_s=5)

    counts = [asked(request_id).structured["asked"] for request_id in ("a", "a", "b")]  # type: ignore[index,call-overload]
    assert counts == [1, 1, 2]


def test_the_command_writes_what_servers_say_and_names_the_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = MemoryServer()
    memory.offer(
        OfferedTool("track_parcel", "Tell where a parcel is, in other words.", TOOL_SCHEMA),
        lambda _: ServerAnswer(ok=True, text=""),
    )
    servers = MemoryToolServers({"https://parcels.example/mcp": memory})
    monkeypatch.setattr(lock_mcp, "McpClient", lambda *_, **__: servers)
    monkeypatch.setattr(lock_mcp, "PATH", tmp_path / "mcp.lock.json")
    assert lock_mcp.main({}) == 0
    assert "in other words" in (tmp_path / "mcp.lock.json").read_text()
    assert "parcels__track_parcel  is in no release" in capsys.readouterr().out
    memory.tools.clear()
    assert lock_mcp.main({}) == 1
    assert "does not offer track_parcel" in capsys.readouterr().err
    servers.servers.clear()
    assert lock_mcp.main({}) == 1
    assert "error: parcels at https://parcels.example/mcp: nobody is there" in capsys.readouterr().err


TOOL_SCHEMA = {
    "type": "object",
    "properties": {"tracking_number": {"type": "string"}, "request_id": {"type": "string"}},
}
