"""The last thing before something is told outside: log lines and spans pass here, whoever made them.

Contents never get this far by design (see `agent.tracing`, `lambdas.telemetry`); what a library puts into a warning, or
an error into its message, does. An exception is told by classes and places alone, as `errors.describe` tells it.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Status

from agent.redaction import WITHHELD, redact, redacted


class RedactingFormatter(LambdaPowertoolsFormatter):
    """Writes a line of the log as JSON, with every text in it redacted, keys included."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. A record that can't be written is told as that, and never as its arguments."""
        if record.exc_info:
            raised = record.exc_info[1]
            record = logging.makeLogRecord({**vars(record), "exc_info": None, "exc_text": None})
            record.error_class = type(raised).__name__
        try:
            line: str = super().format(record)
        except Exception as error:  # noqa: BLE001 - whatever a library logs, its content must not come out this way
            return json.dumps({"level": record.levelname, "message": WITHHELD, "error": type(error).__name__})
        return line

    def serialize(self, log: Mapping[str, Any]) -> str:
        """Return a line's fields as JSON."""
        line: str = super().serialize(redacted(log))
        return line


class RedactingSpanExporter(SpanExporter):
    """Hands spans on with every text in them redacted: names, attributes, events, links, status."""

    def __init__(self, to: SpanExporter) -> None:
        self._to = to

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Redact and hand on."""
        return self._to.export([_redacted(span) for span in spans])

    def shutdown(self) -> None:
        """Shut the other exporter down."""
        self._to.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the other exporter."""
        return self._to.force_flush(timeout_millis)


def _redacted(span: ReadableSpan) -> ReadableSpan:
    description = span.status.description
    return ReadableSpan(
        name=redact(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=redacted(span.attributes or {}),
        events=[Event(redact(e.name), redacted(e.attributes or {}), e.timestamp) for e in span.events],
        links=[Link(link.context, redacted(link.attributes or {})) for link in span.links],
        kind=span.kind,
        status=Status(span.status.status_code, description and redact(description)),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )
