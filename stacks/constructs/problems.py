"""What the gateway and the firewall answer on their own, as RFC 9457 problem documents with the codes of the API.

The shim writes its problems itself; these are for requests that never reach it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from aws_cdk import aws_apigateway as apigateway
from constructs import Construct

from lambdas.headers import SECURITY, Cors
from stacks.constructs.preflight import gateways_own

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Problem:
    """A problem document."""

    status: int
    code: str
    title: str
    detail: str
    field: str | None = None

    def to_json(self, **more: str) -> str:
        """Return the document."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps({"type": "about:blank", **known, **more})

    def headers(self) -> dict[str, str]:
        """Return the headers that go with it, beside its media type."""
        match self.status:
            case 401:
                more = {"WWW-Authenticate": "Bearer"}
            case 429 | 503:
                more = {"Retry-After": str(TRY_AGAIN_S)}
            case _:
                more = {}
        return {**SECURITY, **more}


NOT_SIGNED_IN = Problem(
    status=401,
    code="not_authenticated",
    title="Unauthorized",
    detail="Send `Authorization: Bearer <access token>` of this API's user pool, with the scope keepgate/runs.",
)
FORBIDDEN = Problem(403, "forbidden", "Forbidden", "This token may not do that.")
NO_ROUTE = Problem(404, "not_found", "Not Found", "There is no such route.")
BAD_REQUEST = Problem(400, "bad_request", "Bad Request", "The gateway refused this request.")
TOO_LARGE = Problem(413, "too_large", "Content Too Large", "The body has more than 65536 bytes.")
TOO_MANY = Problem(429, "too_many_requests", "Too Many Requests", "Too many requests; try again a little later.")
BROKEN = Problem(
    500,
    "internal_error",
    "Internal Server Error",
    "Something went wrong on our side. Try again; if it happens again, quote the request's id.",
)
NO_ANSWER = Problem(
    503, "try_later", "Service Unavailable", "Nobody answered in time. Try again under the same idempotency key."
)
TRY_AGAIN_S = 5

Kind = apigateway.ResponseType
PROBLEMS: Mapping[apigateway.ResponseType, Problem] = {
    Kind.UNAUTHORIZED: NOT_SIGNED_IN,
    Kind.EXPIRED_TOKEN: NOT_SIGNED_IN,
    Kind.INVALID_SIGNATURE: NOT_SIGNED_IN,
    Kind.ACCESS_DENIED: FORBIDDEN,
    Kind.INVALID_API_KEY: FORBIDDEN,
    Kind.WAF_FILTERED: Problem(403, "request_blocked", "Forbidden", "The firewall refused this request."),
    Kind.MISSING_AUTHENTICATION_TOKEN: NO_ROUTE,  # what the gateway calls a path or method it doesn't know
    Kind.RESOURCE_NOT_FOUND: NO_ROUTE,
    Kind.BAD_REQUEST_BODY: Problem(400, "invalid_input", "Bad Request", "Send a JSON object.", "body"),
    Kind.BAD_REQUEST_PARAMETERS: Problem(400, "invalid_input", "Bad Request", "A parameter is missing or malformed."),
    Kind.UNSUPPORTED_MEDIA_TYPE: Problem(415, "unsupported_media_type", "Unsupported Media Type", "Send JSON."),
    Kind.REQUEST_TOO_LARGE: TOO_LARGE,
    Kind.THROTTLED: TOO_MANY,
    Kind.QUOTA_EXCEEDED: TOO_MANY,
    Kind.INTEGRATION_FAILURE: NO_ANSWER,
    Kind.INTEGRATION_TIMEOUT: NO_ANSWER,
    Kind.AUTHORIZER_FAILURE: BROKEN,
    Kind.AUTHORIZER_CONFIGURATION_ERROR: BROKEN,
    Kind.API_CONFIGURATION_ERROR: BROKEN,
    Kind.DEFAULT_4_XX: BAD_REQUEST,
    Kind.DEFAULT_5_XX: BROKEN,
}
"""Every kind of answer that the gateway gives on its own, those of AWS's future included by the last two."""


def answer_with_problems(scope: Construct, api: apigateway.RestApi, cors: Cors) -> None:
    """Give the gateway's own answers the form and the headers of the API's problems."""
    for kind, problem in PROBLEMS.items():
        headers = {name: f"'{value}'" for name, value in {**problem.headers(), "Content-Type": MEDIA_TYPE}.items()}
        apigateway.GatewayResponse(
            scope,
            f"Problem-{kind.response_type}",
            rest_api=api,
            type=kind,
            status_code=str(problem.status),
            response_headers={**headers, **gateways_own(cors)},
            templates={"application/json": problem.to_json(request_id="$context.requestId")},
        )
