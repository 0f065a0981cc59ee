"""What both HTTP doors share: who calls is settled before anything is read, and every error is a problem document.

JSON is read strictly here, because Python's reader takes what other readers understand differently or not at all:
repeated keys, NaN, lone surrogates, control characters.
"""

import base64
import binascii
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NoReturn

from aws_lambda_powertools.event_handler import APIGatewayRestResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.openapi.exceptions import RequestValidationError
from aws_lambda_powertools.utilities.typing import LambdaContext
from opentelemetry import trace
from pydantic import Field

from agent import tracing
from agent.errors import (
    CallerMistake,
    InputInvalid,
    InputTooLarge,
    MediaTypeUnsupported,
    NotFound,
    RoleMissing,
    describe,
)
from agent.identity import Principal, Role
from lambdas import problems
from lambdas.claims import require_principal
from lambdas.headers import NOBODY, SECURITY, Cors

JSON = "application/json"
MAX_BODY_BYTES = 65_536
MAX_DEPTH = 8

_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters but newline and tab, and halves of surrogate pairs."""
_TEXT = r"[^\x00-\x08\x0b-\x1f\x7f-\x9f]"
Prose = Annotated[str, Field(json_schema_extra={"pattern": f"^{_TEXT}*$"})]
"""Text of people. The pattern tells readers of the API's description what is refused here, as far as one can say it."""
Words = Annotated[
    str, Field(pattern=problems.NOT_BLANK, json_schema_extra={"pattern": rf"^{_TEXT}*[^\s\x00-\x1f\x7f-\x9f]{_TEXT}*$"})
]
"""Text that is more than blanks."""

logger = logging.getLogger(__name__)

Handler = Callable[[dict[str, Any], LambdaContext], dict[str, Any]]
"""What Lambda calls with an event of API Gateway."""


def resolver() -> APIGatewayRestResolver:
    """Return a resolver that validates by types and answers every error as a problem document."""
    # `debug` is fixed, so that no environment variable can put stack traces into answers.
    app = APIGatewayRestResolver(enable_validation=True, debug=False, json_body_deserializer=strict_json)

    def refuse(error: Exception) -> Response[str]:
        match error:
            case RequestValidationError():
                error = problems.of_validation(error)
            case NotFoundError():
                error = NotFound("there is no such resource")
        return _refused(error, app.context.get("request_id"))

    app.exception_handler(Exception)(refuse)
    return app


def answer(
    app: APIGatewayRestResolver,
    event: Mapping[str, Any],
    context: LambdaContext,
    *,
    client_ids: frozenset[str],
    room: object,
    cors: Cors = NOBODY,
) -> dict[str, Any]:
    """Return the gateway's answer to one request. Routes find `principal` and `room` in the resolver's context."""
    origin = {name.lower(): value for name, value in (event.get("headers") or {}).items()}.get("origin")
    request_id = (event.get("requestContext") or {}).get("requestId")
    try:
        principal = require_principal(event, client_ids)
        event = {**event, **_require_json_text(event)}
    except Exception as error:  # noqa: BLE001 - this is where every error of a request becomes its answer
        answered = problems.to_proxy(_refused(error, request_id))
    else:
        app.context.update(principal=principal, room=room, request_id=request_id)
        answered = app.resolve(event, context)
    answered["multiValueHeaders"] |= {name: [value] for name, value in {**SECURITY, **cors.headers(origin)}.items()}
    trace.get_current_span().set_attribute("http.response.status_code", answered["statusCode"])
    return answered


def require_role(app: APIGatewayRestResolver, role: Role) -> Principal:
    """Return who calls, where that is somebody with this role.

    Raises:
        RoleMissing: it is a person of other roles only.
    """
    principal: Principal = app.context["principal"]
    if role not in principal.roles:
        raise RoleMissing(f"this needs the role {role}; ask your administrator for it")
    return principal


def _refused(error: Exception, request_id: str | None) -> Response[str]:
    if not isinstance(error, CallerMistake):
        tracing.fail(trace.get_current_span(), type(error).__name__)
        logger.error("the request failed", extra={"gateway_request_id": request_id, **describe(error)})
    return problems.to_response(error, request_id=request_id)


def _require_json_text(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to replace in the event, so that the resolver finds plain JSON text or no body at all."""
    body: str | None = event.get("body")
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    if event.get("httpMethod") != "POST" or not body:
        return {"body": None, "headers": headers}
    media_type = (headers.get("content-type") or "").split(";")[0].strip().lower()
    if media_type != JSON:
        raise MediaTypeUnsupported(f"the body must be {JSON}", field="header.content-type")
    if event.get("isBase64Encoded"):
        try:
            body = base64.b64decode(body, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise InputInvalid("the body is not UTF-8", field="body") from None
    if len(body.encode(errors="surrogatepass")) > MAX_BODY_BYTES:
        raise InputTooLarge(f"the body may have at most {MAX_BODY_BYTES} bytes", field="body")
    return {"body": body, "isBase64Encoded": False, "headers": {**headers, "content-type": JSON}}


def strict_json(text: str) -> dict[str, Any]:
    """Return the object that a body is, read in the one way that every reader agrees on.

    Raises:
        InputInvalid: it is no JSON object, or repeats a key, nests too deep, or holds a forbidden number or character.
    """
    try:
        value = json.loads(text, object_pairs_hook=_require_distinct_keys, parse_constant=_refuse_constant)
    except RecursionError:
        raise InputInvalid(f"the body nests deeper than {MAX_DEPTH} levels", field="body") from None
    except ValueError:
        raise InputInvalid("the body is not JSON", field="body") from None
    if not isinstance(value, dict):
        raise InputInvalid("the body must be a JSON object", field="body")
    for path, string in _strings("body", value):
        found = _FORBIDDEN.search(string)
        if found:
            raise InputInvalid(f"the character U+{ord(found[0]):04X} is not allowed", field=path)
    return value


def _require_distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, inner in pairs:
        if key in value:
            raise InputInvalid("this key stands twice in one object", field=f"body.{_printable(key)}")
        value[key] = inner
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise InputInvalid(f"{name} is no JSON number", field="body")


def _strings(path: str, value: object, depth: int = 1) -> Iterator[tuple[str, str]]:
    if depth > MAX_DEPTH + 1:
        raise InputInvalid(f"the body nests deeper than {MAX_DEPTH} levels", field="body")
    match value:
        case str():
            yield path, value
        case dict():
            for key, inner in value.items():
                here = f"{path}.{_printable(key)}"
                yield here, key
                yield from _strings(here, inner, depth + 1)
        case list():
            for index, inner in enumerate(value):
                yield from _strings(f"{path}.{index}", inner, depth + 1)


def _printable(key: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", key)[: problems.MAX_FIELD_CHARACTERS]
