"""Room 3: one decided tool call for one tenant, with that tenant's session. No model, no ledger.

Takes ids and answers with the call's result, or with the refusal of a call that the log does not show as decided. A
tool whose end is not known takes the process with it: its thread can't be killed, and the caller sees the function die.
"""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from opentelemetry import trace
from pydantic import ValidationError

from agent import tracing
from agent.errors import CallNotDecided, ToolLost
from agent.execution import ToolJob, ToolRoom, execute
from lambdas import telemetry
from lambdas.settings import RunToolSettings
from lambdas.telemetry import Handler, Telemetry


def door(room: ToolRoom, tell: Telemetry, end_process: Callable[[int], object] = os._exit) -> Handler:
    """Return the function that runs the call whose ids are in an event."""

    @tell.door
    def run(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
        try:
            job = ToolJob.model_validate(event)
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


@cache
def _door() -> Handler:
    from lambdas import wiring

    settings = RunToolSettings.from_environment(os.environ)
    tell = telemetry.start(settings)
    return door(wiring.tool_room(settings), tell)


def handler(event: dict[str, Any], context: LambdaContext) -> Any:  # noqa: ANN401 - JSON
    """Run one tool call."""
    return _door()(event, context)
