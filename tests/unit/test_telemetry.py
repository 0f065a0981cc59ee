"""What a function tells the outside: one connected trace, lines without contents, counts; and where spans go."""

import base64
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import StatusCode

from agent import tracing
from agent.endings import EndReason, Status
from agent.errors import ConfigurationInvalid, LogContended, StoreUnavailable, describe
from agent.run_header import RunHeader, advance
from lambdas import telemetry
from lambdas.settings import Settings
from lambdas.telemetry import InvocationFailed, Telemetry
from support_desk.tools import TOOLS
from tests.contracts.facts import NOW, new_run
from tests.spans import Spans, spans

__all__ = ["spans"]

TRACEPARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
IDS = {"tenant_id": "acme", "run_id": "run_1", "call_id": "call_1_0", "traceparent": TRACEPARENT}
CONTEXT: Any = SimpleNamespace(aws_request_id="request-1")


def settings(exporter: str = "none") -> Settings:
    return Settings(stage="test", service="run_tool", trace_exporter=exporter)


@pytest.fixture
def tell(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> Telemetry:
    monkeypatch.delenv("_X_AMZN_TRACE_ID", raising=False)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    for name in ("", *telemetry.LIBRARIES):
        for attribute in ("handlers", "propagate", "level"):
            monkeypatch.setattr(logging.getLogger(name), attribute, getattr(logging.getLogger(name), attribute))
    return telemetry.start(settings())


@pytest.fixture
def log(tell: Telemetry) -> StringIO:
    """What the function prints: Powertools keeps a service's logger, and with it the stream of the first test."""
    printed = StringIO()
    handler = tell.logger.registered_handler
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(printed)
    return printed


def lines(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


# --- the door ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [IDS, {"Records": [{"messageId": "1", "body": json.dumps(IDS)}]}, {"requestPayload": IDS, "requestContext": {}}],
    ids=["an invocation", "a message of the queue", "a failed invocation's record"],
)
def test_the_doors_span_goes_on_where_the_ids_come_from(tell: Telemetry, spans: Spans, event: dict[str, Any]) -> None:
    assert tell.door(lambda e, c: e is event)(event, CONTEXT)
    span = spans.named("run_tool")
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACEPARENT[3:35], TRACEPARENT[36:52])
    assert span.attributes == {
        "faas.invocation_id": "request-1",
        "keepgate.tenant_id": "acme",
        "keepgate.run_id": "run_1",
        "keepgate.call_id": "call_1_0",
    }


@pytest.mark.parametrize(
    "event",
    [{}, {"Records": []}, {"Records": [{"body": "no JSON"}]}, {"Records": [{"body": "[]"}]}, {"httpMethod": "GET"}],
)
def test_without_ids_a_trace_begins_here(tell: Telemetry, spans: Spans, event: dict[str, Any]) -> None:
    tell.door(lambda e, c: None)(event, CONTEXT)
    assert spans.named("run_tool").parent is None


@pytest.mark.parametrize(("flag", "sampled"), [("1", True), ("0", False)])
def test_without_ids_lambdas_own_trace_goes_on_sampled_as_it_is(
    tell: Telemetry, spans: Spans, monkeypatch: pytest.MonkeyPatch, flag: str, sampled: bool
) -> None:
    own = f"Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled={flag}"
    monkeypatch.setenv("_X_AMZN_TRACE_ID", own)
    carried = []
    tell.door(lambda e, c: carried.append(tracing.traceparent()))({}, CONTEXT)
    assert carried[0].startswith("00-5759e988bd862e3fe1be46a994272793-")
    assert carried[0].endswith("-01" if sampled else "-00")
    assert len(spans.finished()) == sampled


def test_each_line_names_the_run_and_no_line_after_it(tell: Telemetry, log: StringIO) -> None:
    def handler(event: dict[str, Any], context: Any) -> None:
        tell.logger.info("working")
        logging.getLogger("agent.sweep").warning("trouble", extra={"error": "x"})

    tell.door(handler)(IDS, CONTEXT)
    tell.logger.info("between")
    working, trouble, between = lines(log.getvalue())
    for line in (working, trouble):
        assert line["run_id"] == "run_1"
        assert line["tenant_id"] == "acme"
        assert line["request_id"] == "request-1"
        assert line["service"] == "run_tool"
        assert line["stage"] == "test"
    assert trouble["error"] == "x"
    assert "run_id" not in between


def test_a_failure_is_told_by_class_code_and_place_and_never_by_its_message(
    tell: Telemetry, spans: Spans, log: StringIO
) -> None:
    def handler(event: dict[str, Any], context: Any) -> None:
        try:
            int("the customer's secret")
        except ValueError as error:
            raise LogContended("another secret") from error

    with pytest.raises(InvocationFailed) as raised:
        tell.door(handler)(IDS, CONTEXT)
    assert str(raised.value) == "LogContended"
    assert raised.value.__suppress_context__, "Lambda prints the chain of what is raised"
    [line] = lines(log.getvalue())
    assert line["level"] == "ERROR"
    assert line["run_id"] == "run_1"
    assert (line["error"], line["code"], line["causes"]) == ("LogContended", "log_contended", ["ValueError"])
    assert line["places"][-1].endswith(" handler")
    span = spans.named("run_tool")
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "LogContended"
    assert "secret" not in json.dumps(line) + span.to_json()


def test_spans_are_flushed_before_the_answer_leaves_also_after_a_failure(tell: Telemetry) -> None:
    from opentelemetry import trace

    flushed: list[int] = []
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    real = provider.force_flush
    provider.force_flush = lambda ms=0: bool(flushed.append(ms)) or real(ms)  # type: ignore[method-assign]
    try:
        tell.door(lambda e, c: None)({}, CONTEXT)
        with pytest.raises(InvocationFailed):
            tell.door(lambda e, c: [][1])({}, CONTEXT)
    finally:
        provider.force_flush = real  # type: ignore[method-assign]
    assert flushed == [telemetry.FLUSH_TIMEOUT_MS] * 2


def test_a_described_error_has_a_bounded_chain() -> None:
    error: Exception = StoreUnavailable("x")
    for _ in range(20):
        outer = RuntimeError("y")
        outer.__cause__ = error
        error = outer
    assert len(describe(error)["causes"]) == 4


def test_an_ended_run_is_counted_by_reason(tell: Telemetry, capsys: pytest.CaptureFixture[str]) -> None:
    tell.count_run(ended())
    [metrics] = lines(capsys.readouterr().out)
    assert metrics["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Keepgate"
    assert sorted(metrics["_aws"]["CloudWatchMetrics"][0]["Dimensions"][0]) == ["reason", "service", "stage"]
    assert (metrics["reason"], metrics["stage"], metrics["service"]) == ("max_turns", "test", "run_tool")
    counted = {name: value[0] for name, value in metrics.items() if isinstance(value, list)}
    assert counted == {
        "RunsEnded": 1,
        "RunDuration": 2500,
        "CostMicros": 77,
        "InputTokens": 10,
        "OutputTokens": 5,
        "Turns": 3,
        "ToolCalls": 4,
    }
    assert "ann" not in json.dumps(metrics)


def test_a_refused_call_of_a_changed_tool_is_counted_for_the_alarm(
    tell: Telemetry, capsys: pytest.CaptureFixture[str]
) -> None:
    [contract] = [tool.contract for tool in TOOLS.values() if tool.contract.server]
    tell.count_stopped_tool(contract)
    [metrics] = lines(capsys.readouterr().out)
    assert metrics["ToolsChanged"] == [1]
    assert (metrics["stage"], metrics["service"]) == ("test", "run_tool")
    assert sorted(metrics["_aws"]["CloudWatchMetrics"][0]["Dimensions"][0]) == ["service", "stage"]


def ended() -> RunHeader:
    return advance(None, new_run().event).model_copy(
        update={
            "status": Status.FAILED,
            "reason": EndReason.MAX_TURNS,
            "ended_at": NOW + timedelta(milliseconds=2500),
            "spent_micros": 77,
            "input_tokens": 10,
            "output_tokens": 5,
            "turns": 3,
            "tool_calls": 4,
        }
    )


# --- where spans go ---------------------------------------------------------------------------------------------------


def test_a_file_gets_one_line_for_each_span(tmp_path: Path) -> None:
    path = tmp_path / "traces" / "spans.jsonl"
    provider = telemetry.provider(settings(f"file:{path}"))
    tracer = provider.get_tracer("t")
    with tracer.start_as_current_span("outer"), tracer.start_as_current_span("inner"):
        pass
    inner, outer = [json.loads(line) for line in path.read_text().splitlines()]
    assert (inner["name"], outer["name"]) == ("inner", "outer")
    assert inner["parent_id"] == outer["context"]["span_id"]
    assert inner["resource"]["attributes"] == {"service.name": "run_tool", "deployment.environment.name": "test"}
    provider.shutdown()


WRITER = """
import sys
from lambdas import telemetry
from lambdas.settings import Settings
provider = telemetry.provider(Settings(stage="test", service=sys.argv[1], trace_exporter=f"file:{sys.argv[2]}"))
for n in range(200):
    provider.get_tracer("t").start_span("x", attributes={"filler": "y" * 5000}).end()
"""


def test_several_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name, str(path)]) for name in ("a", "b", "c")]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    written = [json.loads(line)["resource"]["attributes"]["service.name"] for line in path.read_text().splitlines()]
    assert sorted(written) == ["a"] * 200 + ["b"] * 200 + ["c"] * 200


def test_x_ray_gets_a_datagram_for_each_span(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(5)
        monkeypatch.setenv("AWS_XRAY_DAEMON_ADDRESS", f"127.0.0.1:{daemon.getsockname()[1]}")
        provider = telemetry.provider(settings("xray"))
        provider.get_tracer("t").start_span("work", attributes={"keepgate.run_id": "run_1"}).end()
        head, _, body = daemon.recv(65_535).partition(b"\n")
        provider.shutdown()
    assert json.loads(head) == {"format": "json", "version": 1}
    assert body.startswith(b"T1S")
    message = ExportTraceServiceRequest.FromString(base64.b64decode(body[3:]))
    [span] = message.resource_spans[0].scope_spans[0].spans
    assert (span.name, span.attributes[0].value.string_value) == ("work", "run_1")


def test_a_datagram_nobody_takes_is_no_failure_of_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_XRAY_DAEMON_ADDRESS", "127.0.0.1:9")
    provider = telemetry.provider(settings("xray"))
    for attributes in ({}, {}, {"filler": "y" * 100_000}):
        provider.get_tracer("t").start_span("work", attributes=attributes).end()
    provider.shutdown()


def test_an_http_endpoint_gets_what_is_flushed() -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    received: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        provider = telemetry.provider(settings(f"http://127.0.0.1:{server.server_port}/v1/traces"))
        provider.get_tracer("t").start_span("work").end()
        assert provider.force_flush(5000)
        provider.shutdown()
        server.shutdown()
    assert b"work" in received[0]


def test_a_destination_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigurationInvalid, match="trace_exporter"):
        telemetry.provider(settings("syslog"))


def test_starting_reads_no_detectors_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "user=ann")
    assert "user" not in telemetry.provider(settings()).resource.attributes
    assert os.environ["OTEL_RESOURCE_ATTRIBUTES"]


# --- what must not be told, whoever tells it -------------------------------------------------------------------------

SECRET = "ann@shop.example paid with 4111 1111 1111 1111"


def test_what_a_library_logs_is_redacted_and_an_exception_told_by_its_class(tell: Telemetry, log: StringIO) -> None:
    library = logging.getLogger("some.library")
    library.warning("for %s", SECRET, extra={"who": {"mail": [SECRET]}, SECRET: 1})
    library.info("beneath the level")
    try:
        int(SECRET)
    except ValueError:
        library.exception("it failed")
        tell.logger.exception("so did this")
    first, second, third = lines(log.getvalue())
    bad = logging.LogRecord("some.library", logging.ERROR, __file__, 1, "%d", (SECRET,), None)
    broken = json.loads(tell.logger.registered_handler.format(bad))
    assert first["message"] == "for [email] paid with [card]"
    assert first["who"] == {"mail": ["[email] paid with [card]"]}
    assert (second["error_class"], third["error_class"]) == ("ValueError", "ValueError")
    assert broken == {"level": "ERROR", "message": "[withheld]", "error": "TypeError"}
    assert "exception" not in second
    assert "4111" not in log.getvalue()
    assert "ann@" not in log.getvalue()


def test_a_thread_that_dies_is_told_by_the_class_of_its_error(
    tell: Telemetry, log: StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    def die() -> None:
        raise KeyError(SECRET)

    thread = threading.Thread(target=die)
    thread.start()
    thread.join()
    [line] = lines(log.getvalue())
    assert line["error"] == "KeyError"
    assert "4111" not in log.getvalue() + capsys.readouterr().err


def test_spans_leave_redacted_whatever_was_put_on_them(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    provider = telemetry.provider(settings(f"file:{path}"))
    with provider.get_tracer("t").start_as_current_span(
        f"do {SECRET}", attributes={"a": SECRET, "l": [SECRET]}
    ) as span:
        span.add_event(SECRET, {"b": SECRET})
        span.set_status(StatusCode.ERROR, SECRET)
    provider.shutdown()
    [written] = [json.loads(line) for line in path.read_text().splitlines()]
    assert written["attributes"] == {"a": "[email] paid with [card]", "l": ["[email] paid with [card]"]}
    assert "4111" not in path.read_text()
    assert "ann@" not in path.read_text()
