"""Every refusal as a problem document (RFC 9457): the one place where errors become HTTP.

A document has a stable `code` and, where there is one, the offending `field`. It never has a stack trace, a class
name, a key, or anything of what the caller sent but the name of a field.
"""

from http import HTTPStatus
from typing import Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.exceptions import RequestValidationError
from aws_lambda_powertools.event_handler.openapi.types import OpenAPIResponse
from pydantic import BaseModel, Field

from agent.errors import CallerMistake, InputInvalid, KeepgateError, TryLater
from agent.redaction import redact

MEDIA_TYPE = "application/problem+json"
MAX_FIELD_CHARACTERS = 200
NOT_BLANK = r"\S"
"""The pattern of texts that must say something."""

_MEANING = {
    400: "The request is not what the API takes; `field` names where.",
    401: "No access token, or not one for this API.",
    403: "The caller lacks the role, or the firewall let the request no further.",
    404: "There is no such thing for the caller; missing and foreign are one answer.",
    409: "Not in the state this needs, decided before, or the `Idempotency-Key` came with another body.",
    413: "The body, or a field of it, has too many bytes.",
    415: "The body is not `application/json`.",
    429: "Too many requests; `Retry-After` says when to try again.",
    500: "Something went wrong on our side.",
    503: "Not possible at the moment; `Retry-After` says when to try again.",
}


class Problem(BaseModel):
    """A refusal, by RFC 9457."""

    type: str = Field(default="about:blank", description="`code` says what kind of problem it is.")
    title: str = Field(description="The meaning of the status.")
    status: int
    detail: str = Field(description="What happened and what to do, for a person.")
    code: str = Field(description="Stable; for programs.")
    field: str | None = Field(default=None, description="Where the mistake is, such as `body.metadata.order`.")
    request_id: str | None = Field(default=None, description="To quote when asking for help.")


def to_response(error: Exception, *, request_id: str | None) -> Response[str]:
    """Return the answer to a request that an error ended."""
    headers: dict[str, str | list[str]] = {}
    match error:
        case CallerMistake():
            status, code, detail, field = error.status, error.code, str(error), error.field
            if status == HTTPStatus.UNAUTHORIZED:
                headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
        case TryLater():
            status, code, detail, field = error.status, error.code, str(error), None
            headers["Retry-After"] = str(error.retry_after_s)
        case _:
            status, code, field = HTTPStatus.INTERNAL_SERVER_ERROR, KeepgateError.code, None
            detail = "Something went wrong on our side. Try again; if it happens again, quote the request's id."
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=redact(detail),
        code=code,
        field=field and redact(field)[:MAX_FIELD_CHARACTERS],
        request_id=request_id,
    )
    body = problem.model_dump_json(exclude_none=True)
    return Response(status_code=status, content_type=MEDIA_TYPE, body=body, headers=headers)


def of_validation(error: RequestValidationError) -> InputInvalid:
    """Return the caller's mistake that the first failed validation is, with the field named."""
    first: dict[str, Any] = next(iter(error.errors()))
    field = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            return InputInvalid("there is no such field", field=field)
        case "missing":
            return InputInvalid("this field is required", field=field)
        case "string_pattern_mismatch":
            pattern = first["ctx"]["pattern"]
            words = "this must be more than blanks" if pattern == NOT_BLANK else f"this must match {pattern}"
            return InputInvalid(words, field=field)
        case _:
            return InputInvalid(str(first["msg"]), field=field)


def documented(*statuses: int) -> dict[int, OpenAPIResponse]:
    """Return the OpenAPI descriptions of the problem documents a route may answer with, beside what all routes may."""
    return {
        status: {"description": _MEANING[status], "content": {MEDIA_TYPE: {"model": Problem}}}
        for status in sorted({*statuses, 401, 403, 429, 500, 503})
    }


def to_proxy(response: Response[str]) -> dict[str, Any]:
    """Return an answer in the gateway's form, for a request that never reached a route."""
    return {
        "statusCode": response.status_code,
        "body": response.body,
        "isBase64Encoded": False,
        "multiValueHeaders": {name: [str(value)] for name, value in response.headers.items()},
    }
