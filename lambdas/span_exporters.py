"""Where spans go: to X-Ray through Lambda's own UDP endpoint, to a file, or to an OTLP/HTTP endpoint.

AWS's ready-made UDP exporter comes only within distributions that pin another OpenTelemetry and bring gRPC, so the few
lines it takes are here. The protocol is that exporter's (aws-observability/aws-otel-python-instrumentation#232): a JSON
header line, `T1S` for sampled spans, and the OTLP message in base64, in one datagram.
"""

import base64
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)

from agent.errors import ConfigurationInvalid
from lambdas.redacting import RedactingSpanExporter

XRAY_ADDRESS = "127.0.0.1:2000"
"""The daemon's usual address; Lambda tells another in `AWS_XRAY_DAEMON_ADDRESS`."""


def processor(destination: str) -> SpanProcessor | None:
    """Return what takes finished spans to a destination: see `Settings.trace_exporter`.

    A file and a datagram cost next to nothing and are written at once, so that a killed function loses no finished
    span. A network call is not: those spans are batched, and `Telemetry.flush` sends them. None leaves unredacted.

    Raises:
        ConfigurationInvalid: the destination is none of the four kinds.
    """
    if destination == "none":
        return None
    if destination == "xray":
        exporter = XRaySpanExporter(os.environ.get("AWS_XRAY_DAEMON_ADDRESS", XRAY_ADDRESS))
        return SimpleSpanProcessor(RedactingSpanExporter(exporter))
    if destination.startswith("file:"):
        return SimpleSpanProcessor(RedactingSpanExporter(FileSpanExporter(Path(destination.removeprefix("file:")))))
    if destination.startswith(("http://", "https://")):
        # Imported where it is used: it brings an HTTP library that the other ways don't need.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return BatchSpanProcessor(RedactingSpanExporter(OTLPSpanExporter(endpoint=destination, timeout=2)))
    raise ConfigurationInvalid(f"trace_exporter: {destination!r} is not xray, file:<path>, an HTTP URL or none")


class XRaySpanExporter(SpanExporter):
    """Sends each batch as one OTLP datagram to the endpoint that Lambda provides beside the function."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send the spans; losing some is no failure of the function."""
        # Imported where it is used: protobuf is a third of a door's import time.
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

        message = base64.b64encode(encode_spans(spans).SerializeToString())
        try:
            self._socket.sendto(b'{"format":"json","version":1}\nT1S' + message, self._address)
        except OSError:
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the socket."""
        self._socket.close()


class FileSpanExporter(SpanExporter):
    """Appends one line of JSON for each span, in the SDK's form. Several processes may share the file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # With O_APPEND a single write lands whole behind whatever other processes wrote.
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write the spans."""
        for span in spans:
            os.write(self._file, (span.to_json(indent=None) + "\n").encode())
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the file."""
        os.close(self._file)
