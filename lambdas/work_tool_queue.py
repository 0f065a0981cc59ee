"""Room 3: jobs from the queue. Starts the call in the log, has `run_tool` run it, appends the result, wakes the run.

A job that fails goes back to the queue. Its last delivery only tells the run that nobody will do it, and then it is a
dead letter. A job for a call that is not decided, queued and open is dropped. See `agent.queued_calls`.
"""

import json
import os
from datetime import timedelta
from functools import cache
from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from agent.errors import describe
from agent.execution import ToolJob
from agent.queued_calls import QueueWorker, give_up, work
from lambdas import telemetry
from lambdas.early import build_early
from lambdas.settings import WorkToolQueueSettings
from lambdas.telemetry import Handler, Telemetry

MARGIN_S = 5
"""Kept of the invocation's time, for the last append and the wake."""


def door(worker: QueueWorker, tell: Telemetry, *, max_receives: int) -> Handler:
    """Return the function that works on the jobs in an event; delivery number `max_receives` of one is its last."""
    # Without raising for a whole failed batch: the answer names what failed, and that is not the function's failure.
    processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)

    @tell.door
    def take(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
        until = worker.clock.now() + timedelta(milliseconds=context.get_remaining_time_in_millis(), seconds=-MARGIN_S)

        def one(record: SQSRecord) -> None:
            try:
                job = ToolJob.model_validate(json.loads(record.body))
                if int(record.attributes.approximate_receive_count) >= max_receives:
                    give_up(worker, job)
                done = work(worker, job, until=until)
            except Exception as error:
                tell.logger.error("a job goes back to the queue", extra=describe(error))  # noqa: TRY400 - no message
                raise
            tell.logger.info("a job is done with", extra={"done": done})

        return dict(process_partial_response(event, one, processor, context))

    return take


@cache
def _door() -> Handler:
    from lambdas import wiring

    settings = WorkToolQueueSettings.from_environment(os.environ)
    tell = telemetry.start(settings)
    return door(wiring.queue_worker(settings), tell, max_receives=settings.max_receives)


def handler(event: dict[str, Any], context: LambdaContext) -> Any:  # noqa: ANN401 - JSON
    """Work on the jobs the queue delivers."""
    return _door()(event, context)


build_early(_door)
