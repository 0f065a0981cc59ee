"""Logs, metrics and traces of a function, set up once per process and given to its handler by one decorator.

    tell = telemetry.start(settings)

    @tell.door
    def handler(event, context): ...

The door's span continues the trace that came with the ids (`traceparent`), or else Lambda's own. Everything is flushed
before the answer leaves, because Lambda freezes the process then. Contents never go out: an error is logged as its
class, its stable code and its places in the code, and what Lambda itself prints of it is only the class. What libraries
log goes through the same formatter, which redacts every line.
"""

import functools
import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from logging import WARNING, getLogger
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit
from opentelemetry import trace
from opentelemetry.propagators.aws import AwsXRayPropagator
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind

from agent import tracing
from agent.contracts import Contract
from agent.errors import describe
from agent.redaction import redact
from agent.run_header import RunHeader
from lambdas.redacting import RedactingFormatter
from lambdas.settings import Settings
from lambdas.span_exporters import processor

NAMESPACE = "Keepgate"
"""Of all metrics."""
FLUSH_TIMEOUT_MS = 2000
LIBRARIES = ("agent", "lambdas", "support_desk")
"""Whose own loggers speak through the function's, at its level. All others do, from warnings on."""

_IDS = {
    "tenant_id": re.compile(r"[a-z0-9-]{1,40}"),
    "run_id": re.compile(r"run_[0-9A-Z]{1,26}"),
    "call_id": re.compile(r"call_[0-9]{1,4}_[0-9]{1,3}"),
}
"""What of an event stands in each line: an id that is one. The event is not validated yet, and may hold anything."""

Handler = Callable[[dict[str, Any], Any], Any]


class InvocationFailed(Exception):
    """An invocation failed; the message is the error's class alone, for Lambda prints and passes it on."""


@dataclass(frozen=True)
class Telemetry:
    """What a door tells the outside about itself."""

    settings: Settings
    logger: Logger

    def door(self, handler: Handler) -> Handler:
        """Wrap a handler: its span, the ids in each line it logs, its failure, and the flush at the end."""

        @functools.wraps(handler)
        def enter(event: dict[str, Any], context: Any) -> Any:  # noqa: ANN401 - Lambda's, JSON in and out
            message = _message(event)
            ids = {name: message[name] for name, form in _IDS.items() if form.fullmatch(str(message.get(name, "")))}
            attributes = {"faas.invocation_id": context.aws_request_id} | {f"keepgate.{n}": ids[n] for n in ids}
            try:
                with (
                    self.logger.append_context_keys(request_id=context.aws_request_id, **ids),
                    tracing.continued(message.get("traceparent") or _lambdas_own()),
                    tracing.span(self.settings.service, SpanKind.SERVER, attributes),
                ):
                    try:
                        return handler(event, context)
                    except Exception as error:
                        # Not `exception`: it would log the message.
                        self.logger.error("the invocation failed", extra=describe(error))  # noqa: TRY400
                        raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it leaves without its message
                raise InvocationFailed(type(error).__name__) from None
            finally:
                self.flush()

        return enter

    def flush(self) -> None:
        """Send what was told so far. The door does it; whoever ends the process by itself must, too."""
        provider = trace.get_tracer_provider()
        if isinstance(provider, TracerProvider):
            provider.force_flush(FLUSH_TIMEOUT_MS)

    def count_stopped_tool(self, _: Contract) -> None:
        """Count a call of a server's tool that was refused because the tool has changed; the log line names it."""
        metrics = EphemeralMetrics(namespace=NAMESPACE, service=self.settings.service)
        metrics.add_dimension("stage", redact(self.settings.stage))
        metrics.add_metric("ToolsChanged", MetricUnit.Count, 1)
        metrics.flush_metrics()

    def count_run(self, header: RunHeader) -> None:
        """Count a run that this door has brought to its end."""
        metrics = EphemeralMetrics(namespace=NAMESPACE, service=self.settings.service)
        for name, value in (("stage", self.settings.stage), ("reason", str(header.reason))):
            metrics.add_dimension(name, redact(value))
        duration = (header.ended_at or header.updated_at) - header.created_at
        metrics.add_metric("RunsEnded", MetricUnit.Count, 1)
        metrics.add_metric("RunDuration", MetricUnit.Milliseconds, duration.total_seconds() * 1000)
        metrics.add_metric("CostMicros", MetricUnit.Count, header.spent_micros)
        metrics.add_metric("InputTokens", MetricUnit.Count, header.input_tokens)
        metrics.add_metric("OutputTokens", MetricUnit.Count, header.output_tokens)
        metrics.add_metric("Turns", MetricUnit.Count, header.turns)
        metrics.add_metric("ToolCalls", MetricUnit.Count, header.tool_calls)
        metrics.flush_metrics()


def start(settings: Settings) -> Telemetry:
    """Set up logs, metrics and traces of this process. A tracer provider that is already there is left alone."""
    level = os.environ.get("POWERTOOLS_LOG_LEVEL", "INFO")
    logger = Logger(service=settings.service, level=level, logger_formatter=RedactingFormatter(utc=True))
    logger.append_keys(stage=settings.stage)
    # Lambda puts a handler of its own there, which prints messages as they come.
    getLogger(settings.service).propagate = False  # or each line would be told twice
    root = getLogger()
    root.handlers = [logger.registered_handler]
    root.setLevel(WARNING)
    threading.excepthook = _tell_of_thread
    for name in LIBRARIES:
        library = getLogger(name)
        library.handlers = [logger.registered_handler]
        library.setLevel(logger.log_level)
        library.propagate = False
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(provider(settings))
    return Telemetry(settings, logger)


def provider(settings: Settings) -> TracerProvider:
    """Return where spans of this function are made: sampled as their parent is, and always without one."""
    # Not Resource.create: it runs the detectors of every package installed.
    resource = Resource({"service.name": settings.service, "deployment.environment.name": settings.stage})
    made = TracerProvider(sampler=ParentBased(ALWAYS_ON), resource=resource)
    if (to := processor(settings.trace_exporter)) is not None:
        made.add_span_processor(to)
    return made


def _tell_of_thread(died: threading.ExceptHookArgs) -> None:
    """Log what ended a thread; Python would print its message."""
    if died.exc_value is not None:
        getLogger("lambdas.telemetry").error("a thread died", extra=describe(died.exc_value))


def _message(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the ids in an event: its own, those of the queue's one message, or those of a failed invocation."""
    match event:
        case {"Records": [{"body": str(body)}]}:
            with suppress(ValueError):  # a poison message is the worker's to judge
                message = json.loads(body)
                return message if isinstance(message, dict) else {}
            return {}
        case {"requestPayload": dict(payload)}:
            return payload
        case _:
            return event


def _lambdas_own() -> str | None:
    """Return the trace that Lambda, or the gateway before it, began for this invocation and has sampled or not."""
    header = os.environ.get("_X_AMZN_TRACE_ID")
    if header is None:
        return None
    own = AwsXRayPropagator().extract({"X-Amzn-Trace-Id": header})
    return tracing.traceparent(own)
