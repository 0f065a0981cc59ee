"""Room 2's door: a wake names a run; hold it until it is over, parked, or this invocation's time nears its end.

What it returns nobody reads: the log says what happened. What it raises reaches the sweeper as the on-failure record.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from agent.loop import hold
from agent.run_header import RunHeader
from agent.runtime import Runtime
from lambdas import telemetry
from lambdas.early import build_early
from lambdas.settings import RunAgentSettings
from lambdas.wake_event import WakeEvent

Handler = Callable[[dict[str, Any], LambdaContext], None]


def door(runtime: Runtime, count_run: Callable[[RunHeader], None]) -> Handler:
    """Return the function that answers wakes with this runtime."""

    def handle(event: dict[str, Any], context: LambdaContext) -> None:
        wake = WakeEvent.model_validate(event)
        lease_until = runtime.clock.now() + timedelta(milliseconds=context.get_remaining_time_in_millis())
        header = hold(runtime, wake.tenant_id, wake.run_id, owner=context.aws_request_id, lease_until=lease_until)
        if header is not None and header.is_over:
            count_run(header)

    return handle


@cache
def _door() -> Handler:
    from lambdas import wiring

    settings = RunAgentSettings.from_environment(os.environ)
    tell = telemetry.start(settings)
    return tell.door(door(wiring.agent_runtime(settings), tell.count_run))


def handler(event: dict[str, Any], context: LambdaContext) -> None:
    """Answer a wake."""
    _door()(event, context)


build_early(_door)
