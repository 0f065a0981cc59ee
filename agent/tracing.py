"""The spans of a run: their names and attributes, once, by OpenTelemetry's conventions for generative AI.

Contents never enter a span: no prompt, answer, argument, result, user id or exception message. Tokens, money,
durations, ids of Keepgate's own and the class of an error do. Where spans go is `lambdas.telemetry`'s matter; without
it they go nowhere and cost next to nothing.

Conventions: github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai (status: development). A test compares
the names with the `opentelemetry-semantic-conventions` package.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agent.events import Usage

Attribute = str | int | float | bool | tuple[str, ...]

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
AGENT_NAME = "gen_ai.agent.name"
AGENT_VERSION = "gen_ai.agent.version"
CONVERSATION = "gen_ai.conversation.id"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
TOOL_NAME = "gen_ai.tool.name"
TOOL_TYPE = "gen_ai.tool.type"
TOOL_CALL_ID = "gen_ai.tool.call.id"
ERROR_TYPE = "error.type"

RUN_ID = "keepgate.run_id"
TENANT_ID = "keepgate.tenant_id"
TURN = "keepgate.turn"
ATTEMPT = "keepgate.attempt"
RESERVED_MICROS = "keepgate.reserved_micros"
COST_MICROS = "keepgate.cost_micros"
OUTCOME = "keepgate.outcome"

_tracer = trace.get_tracer("keepgate")
_w3c = TraceContextTextMapPropagator()


@contextmanager
def span(name: str, kind: SpanKind, attributes: Mapping[str, Attribute]) -> Iterator[Span]:
    """Open a span under the current one. An exception marks it failed with its class alone, and goes on."""
    # Exceptions are not recorded by the SDK: their messages and stack traces can hold contents.
    with _tracer.start_as_current_span(
        name, kind=kind, attributes=dict(attributes), record_exception=False, set_status_on_exception=False
    ) as opened:
        try:
            yield opened
        except Exception as error:
            fail(opened, type(error).__name__)
            raise


def fail(opened: Span, error_type: str) -> None:
    """Mark a span as failed, by the class or stable code of the error."""
    opened.set_attribute(ERROR_TYPE, error_type)
    opened.set_status(Status(StatusCode.ERROR))


@contextmanager
def invoke_agent(release: str, tenant_id: str, run_id: str, *, session_id: str | None = None) -> Iterator[Span]:
    """One holder's work on a run."""
    attributes: dict[str, Attribute] = {
        OPERATION: "invoke_agent",
        AGENT_NAME: "keepgate",
        AGENT_VERSION: release,
        TENANT_ID: tenant_id,
        RUN_ID: run_id,
    }
    if session_id is not None:
        # The caller chose it, so it may say anything: its hash still tells which runs belong together.
        attributes[CONVERSATION] = hashlib.sha256(f"{tenant_id}/{session_id}".encode()).hexdigest()[:16]
    with span("invoke_agent keepgate", SpanKind.INTERNAL, attributes) as opened:
        yield opened


@contextmanager
def chat(model_id: str, *, turn: int, attempt: int, max_tokens: int, reserved_micros: int) -> Iterator[Span]:
    """One attempt of a model call. Tell what it came to with `settle`."""
    attributes: dict[str, Attribute] = {
        OPERATION: "chat",
        PROVIDER: "aws.bedrock",
        REQUEST_MODEL: model_id,
        REQUEST_MAX_TOKENS: max_tokens,
        TURN: turn,
        ATTEMPT: attempt,
        RESERVED_MICROS: reserved_micros,
    }
    with span(f"chat {model_id}", SpanKind.CLIENT, attributes) as opened:
        yield opened


def settle(opened: Span, *, usage: Usage | None, cost_micros: int, stop_reason: str | None = None) -> None:
    """Put what a model call used and cost on its span."""
    opened.set_attribute(COST_MICROS, cost_micros)
    if stop_reason is not None:
        opened.set_attribute(FINISH_REASONS, (stop_reason,))
    if usage is not None:
        opened.set_attribute(INPUT_TOKENS, usage.input_tokens)
        opened.set_attribute(OUTPUT_TOKENS, usage.output_tokens)
        opened.set_attribute(CACHE_READ_TOKENS, usage.cache_read_tokens)
        opened.set_attribute(CACHE_WRITE_TOKENS, usage.cache_write_tokens)


@contextmanager
def execute_tool(tool: str, call_id: str, *, tenant_id: str, run_id: str) -> Iterator[Span]:
    """One tool call, on either side of the border between the rooms. Tell its `OUTCOME`."""
    attributes: dict[str, Attribute] = {
        OPERATION: "execute_tool",
        TOOL_NAME: tool,
        TOOL_TYPE: "function",
        TOOL_CALL_ID: call_id,
        TENANT_ID: tenant_id,
        RUN_ID: run_id,
    }
    with span(f"execute_tool {tool}", SpanKind.INTERNAL, attributes) as opened:
        yield opened


def traceparent(of: Context | None = None) -> str | None:
    """Return the current span in W3C form, to travel with an id to another function; None outside of any."""
    carrier: dict[str, str] = {}
    _w3c.inject(carrier, of)
    return carrier.get("traceparent")


@contextmanager
def continued(remote: str | None) -> Iterator[None]:
    """Let spans opened inside be children of a span elsewhere; anything that isn't a traceparent begins a new trace."""
    if remote is None:
        yield
        return
    token = context.attach(_w3c.extract({"traceparent": remote}))
    try:
        yield
    finally:
        context.detach(token)
