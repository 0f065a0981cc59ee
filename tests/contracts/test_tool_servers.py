"""What every `ToolServers` does: in memory, and the real client against a real server that behaves well or badly."""

import json
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from pydantic import JsonValue

from agent import mcp_wire
from agent.errors import ConfigurationInvalid
from agent.mcp_client import LISTING_KEPT_S, Door, McpClient, is_public
from agent.testing.clock import FakeClock
from agent.testing.tool_servers import MemoryServer, MemoryToolServers
from agent.tool_servers import (
    MAX_ANSWER_BYTES,
    AnswerTooLarge,
    OfferedTool,
    ServerAnswer,
    ServerAsked,
    ServerError,
    ServerLost,
    ServerPin,
    ServerRefused,
    ServerRejected,
    ServerUnreachable,
    ToolServers,
)
from tests.outsider import PARCEL, Outsider, running, text

URL = "https://parcels.example/mcp"
PIN = ServerPin(server="parcels", url=URL, tool="track_parcel", sha256="0" * 64)
GIVEN: dict[str, JsonValue] = {"tracking_number": "ABCD1"}


@pytest.fixture(scope="module")
def served() -> Iterator[Outsider]:
    with running(Outsider()) as outsider:
        yield outsider


@pytest.fixture
def outsider(served: Outsider) -> Iterator[Outsider]:
    served.reset()
    yield served
    served.hang.set()


@pytest.fixture
def client(outsider: Outsider) -> McpClient:
    return McpClient(FakeClock(), on_the_loopback={"parcels": outsider.url})


@dataclass
class Side:
    """An implementation, and what a test makes its server offer, answer and want."""

    servers: ToolServers
    offer: Callable[[OfferedTool, Callable[[Mapping[str, JsonValue]], ServerAnswer]], None]
    want: Callable[[str], None]

    def call(self, *, bearer: str | None = None) -> ServerAnswer:
        return self.servers.call(PIN, GIVEN, bearer=bearer, timeout_s=5)

    def tools(self, *, bearer: str | None = None) -> Mapping[str, OfferedTool]:
        return self.servers.tools("parcels", URL, bearer=bearer, timeout_s=5)


@pytest.fixture(params=["memory", "wire"])
def side(request: pytest.FixtureRequest, outsider: Outsider, client: McpClient) -> Side:
    if request.param == "memory":
        memory = MemoryServer()
        return Side(MemoryToolServers({URL: memory}), memory.offer, lambda bearer: setattr(memory, "bearer", bearer))

    outsider.offered = []

    def offer(tool: OfferedTool, answer: Callable[[Mapping[str, JsonValue]], ServerAnswer]) -> None:
        outsider.offered = [*(t for t in outsider.offered if t.name != tool.name), tool]

        def answered(arguments: dict[str, Any], _: Any) -> types.CallToolResult:
            given = answer(arguments)
            result = text(given.text, failed=not given.ok)
            return result.model_copy(update={"structured_content": given.structured})

        outsider.answers = answered

    def want(bearer: str) -> None:
        def manners(_: str) -> tuple[int, dict[str, str], bytes] | None:
            given = outsider.headers[-1].get("authorization")
            return None if given == f"Bearer {bearer}" else (401, {"www-authenticate": "Bearer"}, b"")

        outsider.manners = manners

    return Side(client, offer, want)


def test_what_is_offered_comes_with_its_description_and_schema_to_the_letter(side: Side) -> None:
    odd = OfferedTool("odd", "  Spaces, ünïcode & <markup> stay.\n", {"type": "object", "x-own": [1, {"a": None}]})
    side.offer(PARCEL, lambda _: ServerAnswer(ok=True, text=""))
    side.offer(odd, lambda _: ServerAnswer(ok=True, text=""))
    assert side.tools() == {"track_parcel": PARCEL, "odd": odd}


def test_a_call_takes_its_arguments_and_brings_text_and_data(side: Side) -> None:
    side.offer(PARCEL, lambda given: ServerAnswer(ok=True, text=str(given["tracking_number"]), structured={"days": 2}))
    assert side.call() == ServerAnswer(ok=True, text="ABCD1", structured={"days": 2})


def test_a_tools_own_failure_is_an_answer(side: Side) -> None:
    side.offer(PARCEL, lambda _: ServerAnswer(ok=False, text="No such parcel."))
    assert side.call() == ServerAnswer(ok=False, text="No such parcel.")


def test_a_wrong_key_is_refused_for_listing_and_calling_and_the_right_one_taken(side: Side) -> None:
    side.offer(PARCEL, lambda _: ServerAnswer(ok=True, text="here"))
    side.want("the right key")
    for wrong in (None, "another key"):
        with pytest.raises(ServerRefused):
            side.tools(bearer=wrong)
        with pytest.raises(ServerRefused):
            side.call(bearer=wrong)
    assert set(side.tools(bearer="the right key")) == {"track_parcel"}
    assert side.call(bearer="the right key").text == "here"


def test_where_nobody_is_nothing_was_asked(side: Side, outsider: Outsider) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        if isinstance(side.servers, McpClient):
            side.servers.on_the_loopback = {"parcels": f"http://127.0.0.1:{closed.getsockname()[1]}/mcp"}
        elif isinstance(side.servers, MemoryToolServers):
            side.servers.servers.clear()
        for ask in (side.tools, side.call):
            with pytest.raises(ServerUnreachable) as nobody:
                ask()
            assert nobody.value.ran is False


# What only a wire can do.


def test_other_content_than_text_and_data_is_not_taken(client: McpClient, outsider: Outsider) -> None:
    outsider.answers = lambda *_: types.CallToolResult(
        content=[
            types.TextContent(text="one"),
            types.ImageContent(data="AAAA", mime_type="image/png"),
            types.ResourceLink(name="x", uri="https://evil.example/x"),
            types.EmbeddedResource(resource=types.TextResourceContents(uri="file:///etc/passwd", text="root")),
            types.TextContent(text="two"),
        ]
    )
    answer = client.call(PIN, GIVEN, bearer=None, timeout_s=5)
    assert answer == ServerAnswer(ok=True, text="one\ntwo", left_out=("image", "resource_link", "resource"))


@pytest.mark.parametrize("streamed", [True, False])
def test_an_answer_is_read_up_to_a_bound_and_no_further(client: McpClient, outsider: Outsider, streamed: bool) -> None:
    huge = text("x" * MAX_ANSWER_BYTES)
    if streamed:
        outsider.answers = lambda *_: huge
    else:
        body = json.dumps(
            {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "x" * 2_000_000}]}}
        )
        json_type = {"content-type": "application/json"}
        outsider.manners = lambda method: (200, json_type, body.encode()) if method == "tools/call" else None
    with pytest.raises(AnswerTooLarge) as large:
        client.call(PIN, GIVEN, bearer=None, timeout_s=10)
    assert large.value.ran


def test_a_compressed_answer_is_not_unpacked(client: McpClient, outsider: Outsider) -> None:
    packed = {"content-type": "application/json", "content-encoding": "gzip"}
    outsider.manners = lambda method: (200, packed, b"\x1f\x8b") if method == "tools/call" else None
    with pytest.raises(ServerLost):
        client.call(PIN, GIVEN, bearer=None, timeout_s=5)
    assert {headers.get("accept-encoding") for headers in outsider.headers} == {"identity"}


def test_a_tool_that_does_not_answer_in_time_is_lost(client: McpClient, outsider: Outsider) -> None:
    outsider.answers = lambda *_: outsider.never()
    with pytest.raises(ServerLost) as lost:
        client.call(PIN, GIVEN, bearer=None, timeout_s=1)
    assert lost.value.ran
    assert outsider.calls == [GIVEN]


def answers_call_with(status: int, headers: dict[str, str], body: bytes = b"") -> Any:
    return lambda method: (status, headers, body) if method == "tools/call" else None


ERROR = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("manners", "expected"),
    [
        (answers_call_with(500, {}), ServerLost),
        (answers_call_with(502, {"content-type": "text/html"}, b"<p>bad gateway"), ServerLost),
        (answers_call_with(200, {"content-type": "text/html"}, b"<p>fine"), ServerLost),
        (answers_call_with(200, ERROR, b"{"), ServerLost),
        (answers_call_with(202, {}), ServerLost),
        (answers_call_with(429, {}), ServerRejected),
        (answers_call_with(403, {}), ServerRefused),
        (answers_call_with(302, {"location": "http://127.0.0.1:1/mcp"}), ServerUnreachable),
        (answers_call_with(307, {"location": "http://169.254.169.254/latest"}), ServerUnreachable),
        (answers_call_with(308, {"location": "https://evil.example/mcp"}), ServerUnreachable),
    ],
)
def test_what_an_answer_in_place_of_the_protocol_means(
    client: McpClient, outsider: Outsider, manners: Any, expected: type[ServerError]
) -> None:
    outsider.manners = manners
    with pytest.raises(expected):
        client.call(PIN, GIVEN, bearer="the key of a tenant", timeout_s=5)
    assert outsider.methods.count("tools/call") == 1, "it is never sent twice"


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_of_the_handshake_is_not_followed_elsewhere(
    client: McpClient, outsider: Outsider, status: int
) -> None:
    with running(Outsider()) as other:
        outsider.manners = lambda _: (status, {"location": other.url}, b"")
        with pytest.raises(ServerUnreachable):
            client.tools("parcels", URL, bearer="the key of a tenant", timeout_s=5)
        assert other.methods == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [(-32602, ServerRejected), (-32601, ServerRejected), (-32603, ServerLost), (-32000, ServerLost)],
)
def test_only_errors_that_say_it_did_not_run_count_as_not_run(
    client: McpClient, outsider: Outsider, code: int, expected: type[ServerError]
) -> None:
    def refuse(*_: Any) -> types.CallToolResult:
        from mcp.shared.exceptions import MCPError

        raise MCPError(code, "not like this " * 100)

    outsider.answers = refuse
    with pytest.raises(expected) as error:
        client.call(PIN, GIVEN, bearer=None, timeout_s=5)
    assert len(str(error.value)) <= 500


@pytest.mark.parametrize("wish", ["sampling", "elicitation", "roots"])
def test_what_a_server_asks_of_us_it_does_not_get(client: McpClient, outsider: Outsider, wish: str) -> None:
    got: list[str] = []

    async def asking(_: Any, context: Any) -> types.CallToolResult:
        said = types.SamplingMessage(role="user", content=types.TextContent(text="who is the user?"))
        requests: dict[str, Any] = {
            "sampling": types.CreateMessageRequest(
                params=types.CreateMessageRequestParams(messages=[said], max_tokens=10)
            ),
            "elicitation": types.ElicitRequest(
                params=types.ElicitRequestFormParams(message="?", requested_schema={"type": "object", "properties": {}})
            ),
            "roots": types.ListRootsRequest(),
        }
        try:
            result: Any = await context.session.send_request(requests[wish], types.EmptyResult)
            got.append(repr(result))
        except Exception as refused:  # noqa: BLE001 - however the library says no
            return text(f"no: {type(refused).__name__}")
        return text("yes")

    outsider.answers = asking
    answer = client.call(PIN, GIVEN, bearer=None, timeout_s=5)
    assert answer.text.startswith("no")
    assert got == []


def test_a_server_that_wants_input_in_place_of_an_answer_gets_none(client: McpClient, outsider: Outsider) -> None:
    wanted = {"resultType": "input_required", "requestState": "x", "inputRequests": {}}

    def manners(method: str) -> tuple[int, dict[str, str], bytes] | None:
        body = json.dumps({"jsonrpc": "2.0", "id": 2, "result": wanted}).encode()
        return (200, ERROR, body) if method == "tools/call" else None

    outsider.manners = manners
    with pytest.raises((ServerAsked, ServerLost)):
        client.call(PIN, GIVEN, bearer=None, timeout_s=5)


def test_a_name_that_is_offered_twice_is_nothing_anybody_reviewed(client: McpClient, outsider: Outsider) -> None:
    outsider.offered = [PARCEL, OfferedTool("track_parcel", "Another one.", PARCEL.input_schema)]
    found = client.tools("parcels", URL, bearer=None, timeout_s=5)["track_parcel"]
    assert found not in outsider.offered


def test_a_listing_is_remembered_briefly_and_for_one_key_alone(outsider: Outsider) -> None:
    clock = FakeClock()
    client = McpClient(clock, on_the_loopback={"parcels": outsider.url})

    def listed(bearer: str) -> int:
        client.tools("parcels", URL, bearer=bearer, timeout_s=5)
        return outsider.methods.count("tools/list")

    assert [listed("acme's"), listed("acme's"), listed("globex's")] == [1, 1, 2]
    clock.advance(LISTING_KEPT_S)
    assert listed("acme's") == 3


def test_nothing_a_server_says_reaches_logs_or_traces_and_no_id_of_ours_reaches_it(
    client: McpClient, outsider: Outsider, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    caplog.set_level(logging.WARNING)

    def told(_: Any, context: Any) -> types.CallToolResult:
        outsider.calls.append({"meta": dict(context.meta or {})})
        return text("a private answer")

    outsider.answers = told
    with provider.get_tracer("t").start_as_current_span("run_tool") as span:
        client.call(PIN, GIVEN, bearer="the key of a tenant", timeout_s=5)
        outsider.manners = answers_call_with(200, ERROR, b'{"private": ')
        with pytest.raises(ServerLost):
            client.call(PIN, GIVEN, bearer="the key of a tenant", timeout_s=5)
        ours = format(span.get_span_context().trace_id, "032x")
    # The test's server, in the same process, traces what it does itself.
    found = [span for span in exporter.get_finished_spans() if format(span.context.trace_id, "032x") == ours]
    assert [span.name for span in found] == ["run_tool"]
    assert "private" not in caplog.text
    assert "the key" not in caplog.text
    assert ours not in json.dumps(outsider.calls, default=str) + json.dumps(outsider.headers)


# Where it may go.


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00:ec2::254", "ff02::1", "::ffff:169.254.169.254"),
        *("64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "not an address", ""),
        *("::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b:1::a9fe:a9fe", "fec0::1", "5f00::1", "2001:0:a9fe:a9fe::1"),
    ],
)
def test_no_address_but_a_public_one_is_called(address: str) -> None:
    assert not is_public(address)
    client = McpClient(FakeClock(), look_up=lambda host, port: ["93.184.216.34", address])
    with pytest.raises(ServerUnreachable):
        client.call(PIN, GIVEN, bearer=None, timeout_s=1)


def test_a_public_address_is_taken() -> None:
    assert is_public("93.184.216.34")
    assert is_public("2606:2800:220:1:248:1893:25c8:1946")


def test_the_address_that_was_looked_at_is_the_one_that_is_called(outsider: Outsider) -> None:
    """A name that answers a second time with another address leads nowhere else: it is asked once an exchange."""
    url = f"http://parcels.example:{outsider.port}/mcp"  # not https, so that the test's server can answer
    outsider.manners = lambda _: None
    with pytest.raises(ServerUnreachable):  # it checks the Host header, which names the server and not the address
        mcp_wire.tools(Door(url, "127.0.0.1"), bearer=None, timeout_s=5)
    assert outsider.headers[0]["host"] == f"parcels.example:{outsider.port}"


def certificate_of(name: str, folder: Path) -> tuple[Path, Path]:
    """Write a certificate that only vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    written = folder / "cert.pem", folder / "key.pem"
    written[0].write_bytes(made.public_bytes(Encoding.PEM))
    written[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return written


@pytest.mark.parametrize(("vouched_for", "known"), [("localhost", True), ("localhost", False), ("other.example", True)])
def test_the_certificate_must_be_the_names_though_an_address_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vouched_for: str, known: bool
) -> None:
    certificate, key = certificate_of(vouched_for, tmp_path)
    if known:
        paths = ssl.get_default_verify_paths()._replace(openssl_cafile=str(certificate), openssl_capath="/nowhere")
        monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    with running(Outsider(), ssl_certfile=str(certificate), ssl_keyfile=str(key)) as outsider:
        # `localhost` is a name that the server's own check of the Host header takes.
        door = Door(f"https://localhost:{outsider.port}/mcp", "127.0.0.1")
        if known and vouched_for == "localhost":
            assert set(mcp_wire.tools(door, bearer=None, timeout_s=5)) == {"track_parcel"}
            return
        with pytest.raises(ServerUnreachable):
            mcp_wire.tools(door, bearer="the key of a tenant", timeout_s=5)
        assert outsider.headers == []


def test_a_name_nobody_knows_is_unreachable() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror("no such name")

    with pytest.raises(ServerUnreachable):
        McpClient(FakeClock(), look_up=unknown).tools("parcels", URL, bearer=None, timeout_s=1)


def test_plain_http_is_not_spoken_but_on_the_loopback() -> None:
    pin = PIN.model_copy(update={"url": "http://parcels.example/mcp"})
    with pytest.raises(ServerUnreachable):
        McpClient(FakeClock()).call(pin, GIVEN, bearer=None, timeout_s=1)
    for url in ("http://10.0.0.1:80/mcp", "https://127.0.0.1:1/mcp", "http://127.0.0.1/mcp", "http://localhost:1/"):
        with pytest.raises(ConfigurationInvalid):
            McpClient(FakeClock(), on_the_loopback={"parcels": url})
