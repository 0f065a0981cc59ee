"""Routes of tenants' operators, and of everybody's own usage: part of room 1's API, added to its door by `add_to`.

An operator sees and changes what is kept about the own tenant, whose id comes from the token and nowhere else. What
they set can only make things stricter: their switches hang on a board of their own, which the platform's are not on,
and their limits lower the platform's. Neither shows a run, and nothing here approves a call.
"""

from datetime import timedelta
from typing import Annotated, Any, cast

from aws_lambda_powertools.event_handler import APIGatewayRestResolver
from aws_lambda_powertools.event_handler.openapi.params import Query
from aws_lambda_powertools.event_handler.openapi.types import OpenAPIResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from agent.admission import Room1
from agent.audit import MAX_PAGE, MAX_REASON, Action, Side
from agent.controls import MAX_DURATION, Kind, Target, boards
from agent.errors import InputInvalid, StoreUnavailable
from agent.identity import Principal, Role, UserId
from agent.limits import LimitScope
from agent.operating import Desk, limits_of
from agent.ports.money import Balance
from lambdas import http_door
from lambdas.http_door import Prose, Words
from lambdas.problems import documented

Reason = Annotated[Words, StringConstraints(min_length=1, max_length=MAX_REASON)]


class Body(BaseModel):
    """What every body of a request shares: no field that is not known, no type that is not meant."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SwitchBody(Body):
    """A switch to put on, or to take off."""

    kind: Kind = Field(description="`force_review` and `read_only` are modes; the others stop what they name.")
    name: Prose = Field(
        default="", description="Of the user, agent, release, tool or model; empty for the other kinds."
    )
    is_on: bool
    reason: Reason
    for_s: int | None = Field(
        default=None, gt=0, le=int(MAX_DURATION.total_seconds()), description="How long it holds; to put it on."
    )


class LimitBody(Body):
    """A limit to lower, or with null to leave to the platform again."""

    name: Prose = Field(max_length=100)
    value: int | None
    user_id: UserId | None = Field(default=None, description="For this user; otherwise for the whole tenant.")
    reason: Reason


class SwitchShown(BaseModel):
    """A switch that holds for the tenant's runs."""

    kind: Kind
    name: str
    side: Side = Field(description="Who put it on: the tenant's operators, or the platform's, who alone take it off.")
    is_for_everybody: bool = Field(description="Whether it holds for other tenants, too.")
    reason: str
    by: str | None = Field(description="The operator's user id; null for the platform's.")
    created_at: AwareDatetime
    expires_at: AwareDatetime


class SwitchList(BaseModel):
    """All switches that hold for the tenant's runs."""

    switches: list[SwitchShown]


class LimitShown(BaseModel):
    """A limit of the tenant, or of one user."""

    name: str
    holds: int = Field(description="What counts: the lower of what the platform allows and what is set here.")
    set_here: int | None


class LimitList(BaseModel):
    """The limits of the tenant, or of one user."""

    user_id: UserId | None
    limits: list[LimitShown]


class Account(BaseModel):
    """Money of a period: a UTC day for a user, a UTC month for a tenant."""

    limit_usd: float
    spent_usd: float
    remaining_usd: float


class Usage(BaseModel):
    """What is used in the current period."""

    user: Account | None = Field(description="Null where no user is asked about.")
    tenant: Account | None = Field(description="For operators.")


class ChangeShown(BaseModel):
    """A change of a switch or a limit."""

    id: str
    at: AwareDatetime
    by: str | None = Field(description="The operator's user id; null for the platform's.")
    side: Side
    action: Action
    subject: str
    reason: str
    before: str | None = Field(description="As JSON; null where there was nothing.")
    after: str | None
    version: int = Field(description="Of what was changed, after it.")


class ChangePage(BaseModel):
    """Some changes, the newest first."""

    changes: list[ChangeShown]
    next_cursor: str | None = Field(description="For `cursor`; null on the last page.")


def add_to(app: APIGatewayRestResolver) -> None:
    """Add the routes to room 1's door."""
    _add_usage(app)
    _add_switches(app)
    _add_limits_and_audit(app)


def _operator(app: APIGatewayRestResolver) -> Principal:
    return http_door.require_role(app, Role.OPERATOR)


def _room(app: APIGatewayRestResolver) -> Room1:
    return cast(Room1, app.context["room"])


def _add_usage(app: APIGatewayRestResolver) -> None:
    @app.get(
        "/usage",
        operation_id="getUsage",
        summary="Say what one has spent today, and what is left",
        responses={200: _json("The caller's own usage.", Usage), **documented()},
    )
    def get_usage() -> Usage:
        principal = http_door.require_role(app, Role.USER)
        return Usage(user=_balances(_room(app), principal.tenant_id, principal.user_id)["user"], tenant=None)

    @app.get(
        "/admin/usage",
        operation_id="getTenantUsage",
        summary="Say what the tenant has spent this month, and a user of it today",
        responses={200: _json("The tenant's usage.", Usage), **documented(400)},
    )
    def get_tenant_usage(user_id: Annotated[UserId | None, Query()] = None) -> Usage:
        found = _balances(_room(app), _operator(app).tenant_id, user_id or "")
        return Usage(user=found.get("user"), tenant=found["tenant"])


def _add_switches(app: APIGatewayRestResolver) -> None:
    @app.get(
        "/admin/switches",
        operation_id="listSwitches",
        summary="List the switches that hold for the tenant's runs",
        responses={200: _json("The switches.", SwitchList), **documented()},
    )
    def list_switches() -> SwitchList:
        return _shown_switches(_room(app), _operator(app))

    @app.post(
        "/admin/switches",
        operation_id="setSwitch",
        summary="Put a switch of one's own tenant on, or take one off that the tenant's operators put on",
        description="It holds within seconds. Putting it on again replaces it. Taking off what is not on, or is the"
        " platform's, is 404.",
        responses={200: _json("The switches that hold now.", SwitchList), **documented(400, 404, 413, 415)},
    )
    def set_switch(body: SwitchBody) -> SwitchList:
        principal, here = _operator(app), _room(app)
        target, board = _target(body), boards(principal.tenant_id)[-1]
        if body.is_on != (body.for_s is not None):
            wrong = "putting a switch on needs to say how long" if body.is_on else "taking a switch off takes no time"
            raise InputInvalid(wrong, field="body.for_s")
        if body.for_s is None:
            here.controls.switch_off(board, target, by=principal.user_id, reason=body.reason)
        else:
            until = here.clock.now() + timedelta(seconds=body.for_s)
            _desk(here).switch_on(board, target, until=until, by=principal.user_id, reason=body.reason)
        return _shown_switches(here, principal)


def _add_limits_and_audit(app: APIGatewayRestResolver) -> None:
    @app.get(
        "/admin/limits",
        operation_id="listLimits",
        summary="List the limits of the tenant, or of a user of it",
        responses={200: _json("The limits.", LimitList), **documented(400)},
    )
    def list_limits(user_id: Annotated[UserId | None, Query()] = None) -> LimitList:
        return _shown_limits(_room(app), _operator(app), user_id)

    @app.post(
        "/admin/limits",
        operation_id="setLimit",
        summary="Lower a limit of the tenant, or of a user of it",
        description="It holds within seconds. Above the platform's limit is 400; null leaves it to the platform.",
        responses={200: _json("The limits, this one changed.", LimitList), **documented(400, 413, 415)},
    )
    def set_limit(body: LimitBody) -> LimitList:
        principal, here = _operator(app), _room(app)
        scope = LimitScope(principal.tenant_id, body.user_id or "", by_tenant=True)
        try:
            here.limits.change(scope, body.name, body.value, by=principal.user_id, reason=body.reason)
        except InputInvalid as wrong:
            raise InputInvalid(str(wrong), field=f"body.{wrong.field}") from None
        return _shown_limits(here, principal, body.user_id)

    @app.get(
        "/admin/audit",
        operation_id="readAudit",
        summary="Read who changed which switch or limit of the tenant, when and why",
        description="What happened in runs stands in the runs.",
        responses={200: _json("A page of changes.", ChangePage), **documented(400)},
    )
    def read_audit(
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
        cursor: Annotated[
            str | None,
            Query(pattern=r"^[0-9TZ:.-]{24}_[0-9A-Z]{26}$", description="`next_cursor` of the page before."),
        ] = None,
    ) -> ChangePage:
        changes, before = _room(app).controls.audit.changes(_operator(app).tenant_id, limit=limit, before=cursor)
        shown = [
            ChangeShown(by=_named(change.by, change.side), **change.model_dump(exclude={"by", "tenant_id"}))
            for change in changes
        ]
        for change in shown:
            _leave_out_names(change)
        return ChangePage(changes=shown, next_cursor=before)


def _target(body: SwitchBody) -> Target:
    try:
        return Target(kind=body.kind, name=body.name)
    except ValidationError as wrong:
        [error] = wrong.errors(include_url=False, include_input=False)
        said = error["ctx"].get("error", f"this must match {error['ctx'].get('pattern')}")
        raise InputInvalid(str(said), field="body.name") from None


def _desk(room: Room1) -> Desk:
    return Desk(room.controls, room.limits, room.controls.audit, room.clock)


def _shown_switches(room: Room1, principal: Principal) -> SwitchList:
    shown: list[SwitchShown] = []
    for board in boards(principal.tenant_id):
        side: Side = "tenant" if board.by_tenant else "platform"
        shown += [
            SwitchShown(
                kind=switch.target.kind,
                name=switch.target.name,
                side=side,
                is_for_everybody=not board.tenant_id,
                reason=switch.reason if board.tenant_id else "",
                by=_named(switch.by, side),
                created_at=switch.created_at,
                expires_at=switch.expires_at,
            )
            for switch in room.controls.switches(board)
        ]
    return SwitchList(switches=shown)


def _shown_limits(room: Room1, principal: Principal, user_id: str | None) -> LimitList:
    scope = LimitScope(principal.tenant_id, user_id or "", by_tenant=True)
    shown = [
        LimitShown(name=name, holds=limit["holds"] or 0, set_here=limit["set_here"])
        for name, limit in limits_of(room.limits, scope).items()
    ]
    return LimitList(user_id=user_id, limits=shown)


def _balances(room: Room1, tenant_id: str, user_id: str) -> dict[str, Account]:
    if room.accounts is None:
        raise StoreUnavailable("usage is not told here")
    found = room.accounts.own_balances(tenant_id, user_id, at=room.clock.now())
    return {pool: _account(balance) for pool, balance in found.items()}


def _account(balance: Balance) -> Account:
    spent = balance.limit_micros - balance.remaining_micros
    dollars = [micros / 1_000_000 for micros in (balance.limit_micros, max(0, spent), balance.remaining_micros)]
    return Account(limit_usd=dollars[0], spent_usd=dollars[1], remaining_usd=dollars[2])


def _named(by: str, side: Side) -> str | None:
    """Return a tenant's operator by name. Who operates the platform is the platform's to know."""
    return by if side == "tenant" else None


def _leave_out_names(change: ChangeShown) -> None:
    """Take the platform's operators out of what a switch was before and after."""
    if change.side == "platform" and change.action in {"switch_on", "switch_off"}:
        change.before = change.after = None


def _json(description: str, model: type[BaseModel]) -> OpenAPIResponse:
    schema: Any = {"description": description, "content": {"application/json": {"model": model}}}
    return cast(OpenAPIResponse, schema)
