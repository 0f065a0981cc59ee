"""Room 3: one decided tool call for one tenant, with that tenant's session. No model, no ledger.

Takes ids and answers with the call's result, or with the refusal of a call that the log does not show as decided. With
the ids of a resource in place of a call's, it answers what that resource is, for the policy that is to decide.

A tool whose end is not known takes the process with it: its thread can't be killed, and the caller sees the function
die.
"""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from opentelemetry import trace
from pydantic import ValidationError

from agent import tracing
from agent.decided_call import ToolRoom
from agent.errors import CallNotDecided, FactsUnavailable, ToolLost
from agent.execution import ToolJob, execute
from agent.fact_finding import FactsQuery, find_facts
from lambdas import telemetry
from lambdas.early import build_early
from lambdas.settings import RunToolSettings
from lambdas.telemetry import Handler, Telemetry


def door(room: ToolRoom, tell: Telemetry, end_process: Callable[[int], object] = os._exit) -> Handler:
    """Return the function that runs the call whose ids are in an event."""

    @tell.door
    def run(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
        if "resource" in event:
            return _facts(room, tell, event, context)
        try:
            job = ToolJob.model_validate(event)
            _require_environment_of(job.tenant_id, context)
            reply = execute(room, job.tenant_id, job.run_id, job.call_id)
        except ValidationError:
            return {"refused": CallNotDecided.code, "message": "these are not the ids of a call"}
        except CallNotDecided as refusal:
            tell.logger.warning("a call was refused", extra={"why": str(refusal)})
            return {"refused": refusal.code, "message": str(refusal)}
        except ToolLost as lost:
            tell.logger.error("a tool was lost, its process ends", extra={"why": str(lost)})  # noqa: TRY400 - no trace
            span = trace.get_current_span()
            tracing.fail(span, lost.code)
            span.end()
            tell.flush()
            end_process(1)
            raise
        return {
            "outcome": reply.outcome,
            "content": reply.content,
            "object_key": reply.object_key,
            "duration_ms": reply.duration_ms,
        }

    return run


def _facts(room: ToolRoom, tell: Telemetry, event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    try:
        query = FactsQuery.model_validate(event)
        _require_environment_of(query.tenant_id, context)
        found = find_facts(room, query)
    except ValidationError:
        return {"refused": FactsUnavailable.code, "message": "these are not the ids of a resource"}
    except (FactsUnavailable, CallNotDecided) as refusal:
        tell.logger.warning("facts were not told", extra={"why": str(refusal)})
        return {"refused": FactsUnavailable.code, "message": str(refusal)}
    return {"facts": found.model_dump(mode="json") if found else None}


def _require_environment_of(tenant_id: str, context: LambdaContext) -> None:
    """Refuse a job of another tenant than this environment is for, where Lambda keeps them apart.

    Raises:
        CallNotDecided: it was invoked in one tenant's name with another's job.
    """
    owner = getattr(context, "tenant_id", None)  # none where the function was not made so
    if owner is not None and owner != tenant_id:
        raise CallNotDecided("this environment is another tenant's")


@cache
def _door() -> Handler:
    from lambdas import wiring

    settings = RunToolSettings.from_environment(os.environ)
    tell = telemetry.start(settings)
    return door(wiring.tool_room(settings, tell.count_stopped_tool), tell)


def handler(event: dict[str, Any], context: LambdaContext) -> Any:  # noqa: ANN401 - JSON
    """Run one tool call."""
    return _door()(event, context)


build_early(_door)
