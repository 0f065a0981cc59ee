"""The sweeper's door: called each minute by the schedule, and by Lambda with the record of each failed invocation."""

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, Field, ValidationError

from agent.sweep import Sweeper
from lambdas import telemetry
from lambdas.early import build_early
from lambdas.settings import SweepRunsSettings
from lambdas.wake_event import WakeEvent

Handler = Callable[[dict[str, Any], LambdaContext], None]

MAX_RUNS = 500
"""Due runs that one sweep looks after; the rest is due in the next one, a minute later."""

TIME_FOR_LINES = timedelta(seconds=20)
"""Kept of the function's time, whatever looking after runs takes: a wake that nobody answers takes ten."""

logger = logging.getLogger(__name__)


class RequestContext(BaseModel):
    """Which invocation failed, and how (`RetriesExhausted`, `EventAgeExceeded`)."""

    request_id: str = Field(alias="requestId")
    condition: str


class FailureRecord(BaseModel):
    """What Lambda sends to an on-failure destination. It has more fields than these."""

    request_context: RequestContext = Field(alias="requestContext")
    wake: WakeEvent = Field(alias="requestPayload")


def door(sweeper: Sweeper) -> Handler:
    """Return the function that answers the schedule and failure records with this sweeper."""

    def handle(event: dict[str, Any], context: LambdaContext) -> None:
        if "requestPayload" in event:
            try:
                record = FailureRecord.model_validate(event)
            except ValidationError as wrong:
                # What was invoked was no wake, so no run is lost with it.
                logger.error("a failure record names no run", extra={"fields": [e["loc"] for e in wrong.errors()]})  # noqa: TRY400 - the message quotes the payload
                return
            failed = record.request_context
            sweeper.bury(record.wake.tenant_id, record.wake.run_id, owner=failed.request_id, cause=failed.condition)
        else:
            left = timedelta(milliseconds=context.get_remaining_time_in_millis()) - TIME_FOR_LINES
            swept = sweeper.sweep(limit=MAX_RUNS, until=sweeper.clock.now() + left)
            logger.info("swept", extra=dict(swept))

    return handle


@cache
def _door() -> Handler:
    from lambdas import wiring

    settings = SweepRunsSettings.from_environment(os.environ)
    return telemetry.start(settings).door(door(wiring.sweeper(settings)))


def handler(event: dict[str, Any], context: LambdaContext) -> None:
    """Answer the schedule, or bury an invocation that failed."""
    _door()(event, context)


build_early(_door)
