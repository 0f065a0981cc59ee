"""Spans have the field's names, one trace spans the functions, and contents stay out."""

import hashlib

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as semconv
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.trace import SpanKind, StatusCode

from agent import tracing
from agent.events import Usage
from tests.spans import Spans, spans

__all__ = ["spans"]


@pytest.mark.filterwarnings("ignore:The attribute.*deprecated:DeprecationWarning")
def test_names_are_those_of_the_conventions() -> None:
    ours = {value for name, value in vars(tracing).items() if name.isupper() and str(value).startswith("gen_ai.")}
    theirs = {value for name, value in vars(semconv).items() if name.isupper()}
    assert len(ours) == 15
    assert ours <= theirs
    assert tracing.ERROR_TYPE == error_attributes.ERROR_TYPE
    operations = {operation.value for operation in semconv.GenAiOperationNameValues}
    assert operations >= {"invoke_agent", "chat", "execute_tool"}
    assert semconv.GenAiProviderNameValues.AWS_BEDROCK.value == "aws.bedrock"


def test_a_run_is_one_tree_of_agent_model_and_tool(spans: Spans) -> None:
    with tracing.invoke_agent("support-desk-1", "acme", "run_1", session_id="s1"):
        with tracing.chat("model-1", turn=1, attempt=2, max_tokens=500, reserved_micros=900) as call:
            usage = Usage(input_tokens=10, output_tokens=5, cache_read_tokens=3, cache_write_tokens=2)
            tracing.settle(call, usage=usage, cost_micros=77, stop_reason="tool_use")
        with tracing.execute_tool("lookup_order", "call_1_0", tenant_id="acme", run_id="run_1") as tool:
            tool.set_attribute(tracing.OUTCOME, "ok")
    agent, chat, tool_span = (
        spans.named(name) for name in ("invoke_agent keepgate", "chat model-1", "execute_tool lookup_order")
    )
    assert agent.attributes == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "keepgate",
        "gen_ai.agent.version": "support-desk-1",
        "gen_ai.conversation.id": hashlib.sha256(b"acme/s1").hexdigest()[:16],
        "keepgate.tenant_id": "acme",
        "keepgate.run_id": "run_1",
    }
    assert chat.kind is SpanKind.CLIENT
    assert chat.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "aws.bedrock",
        "gen_ai.request.model": "model-1",
        "gen_ai.request.max_tokens": 500,
        "gen_ai.response.finish_reasons": ("tool_use",),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.cache_creation.input_tokens": 2,
        "keepgate.turn": 1,
        "keepgate.attempt": 2,
        "keepgate.reserved_micros": 900,
        "keepgate.cost_micros": 77,
    }
    for child in (chat, tool_span):
        assert child.parent is not None
        assert agent.context is not None
        assert child.parent.span_id == agent.context.span_id
        assert child.end_time is not None
        assert child.start_time is not None
        assert child.end_time > child.start_time


def test_a_call_without_usage_tells_its_assumed_cost_alone(spans: Spans) -> None:
    with tracing.chat("m", turn=1, attempt=1, max_tokens=5, reserved_micros=9) as call:
        tracing.settle(call, usage=None, cost_micros=9)
    attributes = spans.named("chat m").attributes or {}
    assert attributes["keepgate.cost_micros"] == 9
    assert not [name for name in attributes if "usage" in name]


def test_a_failure_is_marked_by_its_class_and_its_message_stays_out(spans: Spans) -> None:
    with pytest.raises(ValueError, match="secret"), tracing.span("work", SpanKind.INTERNAL, {}):
        raise ValueError("the customer's secret")
    failed = spans.named("work")
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes == {"error.type": "ValueError"}
    assert "secret" not in failed.to_json()
    assert failed.events == ()


def test_what_is_no_exception_is_no_failure(spans: Spans) -> None:
    with pytest.raises(KeyboardInterrupt), tracing.span("work", SpanKind.INTERNAL, {}):
        raise KeyboardInterrupt
    assert spans.named("work").status.is_unset


def test_a_trace_goes_on_in_another_function(spans: Spans) -> None:
    assert tracing.traceparent() is None
    with tracing.span("here", SpanKind.INTERNAL, {}):
        carried = tracing.traceparent()
    with tracing.continued(carried), tracing.span("there", SpanKind.SERVER, {}):
        pass
    here, there = spans.named("here").context, spans.named("there")
    assert here is not None
    assert there.parent is not None
    assert (there.parent.trace_id, there.parent.span_id) == (here.trace_id, here.span_id)
    assert there.parent.is_remote


@pytest.mark.parametrize("wrong", [None, "", "garbage", "00-0-0-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_what_is_no_traceparent_begins_a_new_trace(spans: Spans, wrong: str | None) -> None:
    with tracing.continued(wrong), tracing.span("new", SpanKind.SERVER, {}):
        pass
    assert spans.named("new").parent is None


def test_an_unsampled_parent_makes_no_spans(spans: Spans) -> None:
    unsampled = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-00"
    with tracing.continued(unsampled), tracing.span("quiet", SpanKind.SERVER, {}):
        assert tracing.traceparent() is not None
        assert str(tracing.traceparent()).endswith("-00")
    assert spans.finished() == []
