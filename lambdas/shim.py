"""Room 1: the run API. Validates, admits, appends, wakes; no model, no tool, no tenant data.

Runs are created, listed, read, cancelled and judged here by the user they belong to, and calls that need a person are
shown to and decided by approvers. What happens in a run is another door's matter, `stream_events`.
"""

import os
from functools import cache
from typing import Annotated, Any, Literal, cast

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Header, Query
from aws_lambda_powertools.event_handler.openapi.types import OpenAPIResponse
from aws_lambda_powertools.utilities.typing import LambdaContext
from opentelemetry import trace
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent import approving, outside, tracing
from agent.admission import Question, Room1, admit
from agent.approving import Approval
from agent.endings import EndReason, Status
from agent.errors import RunNotOver
from agent.events import ApprovalChoice, RunEnded
from agent.identity import ApprovalId, Principal, Role, RunId, SessionId
from agent.record import RunRecord, require_own_run
from agent.run_header import RunHeader
from lambdas import http_door, operator_routes, telemetry, wiring
from lambdas.early import build_early
from lambdas.headers import NOBODY, Cors
from lambdas.http_door import Prose, Words
from lambdas.problems import documented
from lambdas.settings import ShimSettings

MAX_METADATA = 16
MAX_PAGE = 50
MAX_APPROVALS = 50

MetadataKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
MetadataValue = Annotated[Prose, StringConstraints(max_length=512)]


class Body(BaseModel):
    """What every body of a request shares: no field that is not known, no type that is not meant."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NewRunBody(Body):
    """A question for the agent."""

    input: Words = Field(description="What the user asks; at most 32,768 bytes of UTF-8.")
    session_id: SessionId | None = Field(default=None, description="Runs of one session remember each other's texts.")
    metadata: dict[MetadataKey, MetadataValue] = Field(
        default_factory=dict,
        max_length=MAX_METADATA,
        json_schema_extra={"additionalProperties": False},  # no key of another shape
        description="The application's own labels; the model sees none.",
    )


class FeedbackBody(Body):
    """A judgement of a run."""

    rating: Literal["up", "down"]
    comment: Prose = Field(default="", max_length=2000)


class DecisionBody(Body):
    """What an approver decides about a call, or has found out about one."""

    decision: ApprovalChoice = Field(
        description="An approval: `approve` or `reject`. A resolution: `happened` or `did_not_happen`."
    )
    reason: Prose = Field(
        default="", max_length=500, description="For the requester, through the agent. A resolution needs one."
    )


class Links(BaseModel):
    """Where to go on, as paths below the API's base."""

    self: str
    events: str
    result: str
    cancel: str


class RunAccepted(BaseModel):
    """The run exists and will be worked on, or has been already where the key is not new."""

    run_id: RunId
    status: Status
    links: Links


class RunPage(BaseModel):
    """Some of the caller's runs, newest first."""

    runs: list[RunRecord]
    next_cursor: RunId | None = Field(description="For `cursor`; null on the last page.")


class ApprovalPage(BaseModel):
    """Some of the calls that wait for a person of the caller's tenant, those of the oldest runs first."""

    approvals: list[Approval]
    next_cursor: RunId | None = Field(description="For `cursor`; null on the last page.")


class ApprovalOutcome(BaseModel):
    """The decision stands. An approved call runs unless something it rested on has changed by then."""

    approval_id: ApprovalId
    decision: ApprovalChoice


class RunResult(BaseModel):
    """What came of a run that is over."""

    run_id: RunId
    status: Status
    reason: EndReason
    message: str = Field(description="How it ended, as a sentence for the user.")
    answer: str | None = Field(description="Null where the run ended without one.")


app = http_door.resolver()
operator_routes.add_to(app)


def door(room: Room1, client_ids: frozenset[str], cors: Cors = NOBODY) -> http_door.Handler:
    """Return the function that answers the gateway's events with what is in `room`."""
    return lambda event, context: http_door.answer(app, event, context, client_ids=client_ids, room=room, cors=cors)


@cache
def _door() -> http_door.Handler:
    settings = ShimSettings.from_environment(os.environ)
    handle = door(wiring.shim(settings), frozenset(settings.client_ids.split(",")), Cors.of(settings.allowed_origins))
    return telemetry.start(settings).door(handle)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer one request from API Gateway."""
    return _door()(event, context)


def _room() -> Room1:
    return cast(Room1, app.context["room"])


def _principal() -> Principal:
    return http_door.require_role(app, Role.USER)


def _json(description: str, model: type[BaseModel]) -> OpenAPIResponse:
    return {"description": description, "content": {"application/json": {"model": model}}}


@app.post(
    "/runs",
    operation_id="createRun",
    summary="Ask the agent a question",
    description="Follow `links.events` to watch the run, or ask for `links.result` later.",
    status_code=202,
    responses={202: _json("Accepted.", RunAccepted), **documented(400, 409, 413, 415)},
)
def create_run(
    body: NewRunBody,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            pattern=r"^[A-Za-z0-9_.:-]{1,128}$",
            description="The same key with the same body finds the same run for 24 hours; make one up per question.",
        ),
    ] = None,
) -> RunAccepted:
    """Create a run and wake the agent."""
    question = Question(input=body.input, session_id=body.session_id, metadata=body.metadata)
    return _accepted(admit(_room(), _principal(), question, idempotency_key=idempotency_key))


@app.get(
    "/runs",
    operation_id="listRuns",
    summary="List one's own runs, newest first",
    description="A new run may take a second to appear.",
    responses={200: _json("A page of runs.", RunPage), **documented(400)},
)
def list_runs(
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    cursor: Annotated[RunId | None, Query(description="`next_cursor` of the page before.")] = None,
) -> RunPage:
    """Return a page of the caller's runs."""
    principal = _principal()
    headers, before = _room().log.runs_of_user(principal.tenant_id, principal.user_id, limit=limit, before=cursor)
    return RunPage(runs=[RunRecord.from_header(header) for header in headers], next_cursor=before)


@app.get(
    "/runs/<run_id>",
    operation_id="getRun",
    summary="Say where a run stands and what it has used",
    responses={200: _json("The run's operational record.", RunRecord), **documented(404)},
)
def get_run(run_id: str) -> RunRecord:
    """Return the operational record of one of the caller's runs."""
    return RunRecord.from_header(require_own_run(_room().log, _principal(), run_id))


@app.get(
    "/runs/<run_id>/result",
    operation_id="getResult",
    summary="Return what came of a run",
    description="While the run is not over, that is 409 `run_not_over`.",
    responses={200: _json("The run is over.", RunResult), **documented(404, 409)},
)
def get_result(run_id: str) -> RunResult:
    """Return the answer of a run that is over."""
    log = _room().log
    header = require_own_run(log, _principal(), run_id)
    if header.end_seq is None:
        raise RunNotOver("the run is not over yet; follow its events, or ask again")
    [event] = log.events(header.tenant_id, run_id, after=header.end_seq - 1, limit=1)
    ended = cast(RunEnded, event.data)
    return RunResult(
        run_id=run_id, status=ended.status, reason=ended.reason, message=ended.message, answer=ended.answer
    )


@app.post(
    "/runs/<run_id>/cancel",
    operation_id="cancelRun",
    summary="Ask for a run to end",
    description="Asking twice is harmless; asking after the end is 409 `run_over`.",
    status_code=202,
    responses={202: _json("It will end within seconds.", RunAccepted), **documented(400, 404, 409, 413, 415)},
)
def cancel_run(run_id: str) -> RunAccepted:
    """Record the wish that a run ends."""
    return _accepted(outside.cancel(_room(), _principal(), run_id))


@app.post(
    "/runs/<run_id>/feedback",
    operation_id="judgeRun",
    summary="Judge a run, once",
    description="Before or after its end; a second judgement is 409 `feedback_stands`.",
    status_code=201,
    responses={201: _json("Recorded.", RunRecord), **documented(400, 404, 409, 413, 415)},
)
def judge_run(run_id: str, body: FeedbackBody) -> RunRecord:
    """Record the user's judgement of a run."""
    judged = outside.give_feedback(_room(), _principal(), run_id, rating=body.rating, comment=body.comment)
    return RunRecord.from_header(judged)


@app.get(
    "/approvals",
    operation_id="listApprovals",
    summary="List the calls that wait for a person",
    description="For approvers, of their own tenant, without what they asked for themselves: calls that run only if"
    " somebody approves, and calls that were started, whose end nobody saw, and that somebody has to look into."
    " A new one may take a second to appear.",
    responses={200: _json("A page of approvals.", ApprovalPage), **documented(400)},
)
def list_approvals(
    limit: Annotated[int, Query(ge=1, le=MAX_APPROVALS, description="Of runs; one may have several approvals.")] = 20,
    cursor: Annotated[RunId | None, Query(description="`next_cursor` of the page before.")] = None,
) -> ApprovalPage:
    """Return a page of what the caller may decide."""
    approver = http_door.require_role(app, Role.APPROVER)
    shown, after = approving.pending(_room(), approver, limit=limit, after=cursor)
    return ApprovalPage(approvals=shown, next_cursor=after)


@app.post(
    "/approvals/<approval_id>",
    operation_id="decideApproval",
    summary="Approve or reject a call, or say what became of one; once",
    description="A second decision is 409 `already_decided`, one too late 409 `approval_expired` or `run_over`;"
    " what one asked for oneself is 403 `own_run`.",
    responses={200: _json("Decided.", ApprovalOutcome), **documented(400, 404, 409, 413, 415)},
)
def decide_approval(approval_id: str, body: DecisionBody) -> ApprovalOutcome:
    """Record an approver's decision and wake the agent."""
    approver = http_door.require_role(app, Role.APPROVER)
    decided = approving.decide(_room(), approver, approval_id, decision=body.decision, reason=body.reason)
    return ApprovalOutcome(approval_id=decided.approval_id, decision=decided.decision)


@app.get(
    "/openapi.json",
    operation_id="getOpenApi",
    summary="Describe this API",
    responses={200: {"description": "An OpenAPI 3.1 document.", "content": {"application/json": {}}}, **documented()},
)
def describe_api() -> Response[str]:
    """Return this description, made from the code that answers."""
    from lambdas import openapi  # reads both doors, which no other route has a use for

    return Response(status_code=200, content_type="application/json", body=openapi.document())


def _accepted(header: RunHeader) -> RunAccepted:
    trace.get_current_span().set_attribute(tracing.RUN_ID, header.run_id)
    own = f"/runs/{header.run_id}"
    links = Links(self=own, events=f"{own}/events", result=f"{own}/result", cancel=f"{own}/cancel")
    return RunAccepted(run_id=header.run_id, status=header.status, links=links)


build_early(_door)
