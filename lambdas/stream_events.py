"""Room 1: one run's events, as server-sent events or as JSON pages. Read only.

The gateway in front buffers whole answers, so an answer holds what happened since the reader's position, waiting a
little for something new, and closes; the reader comes back with `Last-Event-ID`. After the end has been delivered the
answer is 204, which ends the reconnecting of every reader that follows the standard.
"""

import os
from functools import cache
from typing import Annotated, Any, cast

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Header, Query
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, Field

from agent.cursor import BEGINNING, SHAPE, Cursor
from agent.identity import Role
from agent.watching import MAX_WAIT_S, Page, Room1Reader, read_page
from lambdas import http_door, telemetry, wiring
from lambdas.early import build_early
from lambdas.headers import NOBODY, Cors
from lambdas.problems import documented
from lambdas.settings import StreamEventsSettings

RETRY_MS = 250
"""How long a reader waits before it comes back: what is streamed meanwhile makes one answer, not many."""
TIME_TO_ANSWER_MS = 2_000
"""Kept of the function's time to send what was read."""


class EventEntry(BaseModel):
    """One event and its position."""

    id: str = Field(description="The position of a reader who has had it; for `after` and `Last-Event-ID`.")
    event: dict[str, Any] = Field(description="An AG-UI event.")


class EventPage(BaseModel):
    """What happened after a position."""

    events: list[EventEntry]
    next: str = Field(description="For `after`.")
    over: bool = Field(description="Whether the end is among the events or before them; nothing will follow.")


app = http_door.resolver()


def door(room: Room1Reader, client_ids: frozenset[str], cors: Cors = NOBODY) -> http_door.Handler:
    """Return the function that answers the gateway's events with what is in `room`."""
    return lambda event, context: http_door.answer(app, event, context, client_ids=client_ids, room=room, cors=cors)


@cache
def _door() -> http_door.Handler:
    settings = StreamEventsSettings.from_environment(os.environ)
    handle = door(
        wiring.stream_events(settings), frozenset(settings.client_ids.split(",")), Cors.of(settings.allowed_origins)
    )
    return telemetry.start(settings).door(handle)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer one request from API Gateway."""
    return _door()(event, context)


_POSITION = {"pattern": f"^({SHAPE})?$"}
_ANSWERS: dict[int, Any] = {
    200: {
        "description": "AG-UI events after the position, or none where nothing happened in time.",
        # Without a schema: OpenAPI 3.1 has none for a stream of events.
        "content": {"text/event-stream": {}, "application/json": {"model": EventPage}},
    },
    204: {"description": "The end was delivered before; there is nothing to come back for."},
    **documented(400, 404),
}


@app.get(
    "/runs/<run_id>/events",
    operation_id="followRun",
    summary="Watch a run",
    description="An answer holds what happened since a position, and closes; come back with the last `id` until 204.",
    responses=_ANSWERS,
)
def follow_run(
    run_id: str,
    after: Annotated[
        str | None,
        Query(description="The id of the last event had; the beginning if absent.", json_schema_extra=_POSITION),
    ] = None,
    wait: Annotated[
        float | None,
        Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for something new: 20 for a stream, 0 for a page."),
    ] = None,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            description="As `after`, and before it: what a reconnect sends.",
            json_schema_extra=_POSITION,
        ),
    ] = None,
) -> Response[str]:
    """Return what happened in a run after a position."""
    accept = app.current_event.headers.get("accept", "")
    wants_page = "application/json" in accept and "text/event-stream" not in accept
    field, position = ("header.last-event-id", last_event_id) if last_event_id else ("query.after", after)
    page = read_page(
        cast(Room1Reader, app.context["room"]),
        http_door.require_role(app, Role.USER),
        run_id,
        after=Cursor.parse(position, field=field) if position else BEGINNING,
        wait_s=min(wait if wait is not None else (0 if wants_page else MAX_WAIT_S), _time_left_s()),
        field=field,
    )
    if wants_page:
        return Response(status_code=200, content_type="application/json", body=_as_json(page))
    if page.is_over and not page.events:
        return Response(status_code=204, body="")
    return Response(status_code=200, content_type="text/event-stream; charset=utf-8", body=_as_stream(page))


def _time_left_s() -> float:
    left_ms = app.lambda_context.get_remaining_time_in_millis()
    return max(0.0, (left_ms - TIME_TO_ANSWER_MS) / 1000)


def _as_json(page: Page) -> str:
    entries = ",".join(f'{{"id":"{said.cursor}","event":{said.json}}}' for said in page.events)
    return f'{{"events":[{entries}],"next":"{page.cursor}","over":{"true" if page.is_over else "false"}}}'


def _as_stream(page: Page) -> str:
    frames = [f"id: {said.cursor}\ndata: {said.json}\n\n" for said in page.events]
    # A comment is a heartbeat: a reader, and whatever stands between, sees that the run is still watched.
    return "".join([f"retry: {RETRY_MS}\n\n", *(frames or [": nothing new\n\n"])])


build_early(_door)
