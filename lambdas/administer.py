"""The platform operator's door, which only IAM opens: `ops` invokes it. It has no route, and no room may call it.

Takes a command and a proof of who signed it (`agent.aws.caller`), and answers with what came of it or with the refusal.
"""

import json
import os
from collections.abc import Callable
from functools import cache
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.errors import CallerMistake, InputInvalid, TryLater
from agent.operating import Desk, to_command
from lambdas import telemetry
from lambdas.early import build_early
from lambdas.settings import AdministerSettings
from lambdas.telemetry import Handler, Telemetry

Who = Callable[[str, str], str]
"""Returns the ARN of whoever made a proof for a command, as JSON."""


class Request(BaseModel):
    """What `ops` sends."""

    model_config = ConfigDict(extra="forbid", strict=True)

    command: str = Field(max_length=16_384)
    """JSON text, byte for byte as it was signed."""
    proof: str


def door(desk: Desk, who: Who, tell: Telemetry) -> Handler:
    """Return the function that carries operators' commands out."""

    @tell.door
    def administer(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
        try:
            request = _request(event)
            by = who(request.proof, request.command)
            command = to_command(_document(request.command))
            done = desk.carry_out(command, by=by)
        except (CallerMistake, TryLater) as refusal:
            tell.logger.warning("a command was refused", extra={"error": refusal.code})
            field = refusal.field if isinstance(refusal, CallerMistake) else None
            return {"refused": {"code": refusal.code, "message": str(refusal), "field": field}}
        tell.logger.info("a command was carried out", extra={"command": command.do})
        return {"done": done}

    return administer


def _request(event: dict[str, Any]) -> Request:
    try:
        return Request.model_validate(event)
    except ValidationError as wrong:
        field = ".".join(map(str, wrong.errors(include_input=False)[0]["loc"]))
        raise InputInvalid("this is no request to administer", field=field) from None


def _document(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InputInvalid("the command is not JSON", field="command") from None


@cache
def _door() -> Handler:
    from lambdas import wiring

    settings = AdministerSettings.from_environment(os.environ)
    tell = telemetry.start(settings)
    return door(wiring.operators_desk(settings), wiring.callers(settings), tell)


def handler(event: dict[str, Any], context: LambdaContext) -> Any:  # noqa: ANN401 - JSON
    """Carry out one command."""
    return _door()(event, context)


build_early(_door)
