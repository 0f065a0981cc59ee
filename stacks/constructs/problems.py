"""What the gateway and the firewall answer on their own, as RFC 9457 problem documents with the codes of the API.

The shim writes its problems itself; these are for requests that never reach it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from aws_cdk import aws_apigateway as apigateway
from constructs import Construct

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


NOT_SIGNED_IN = Problem(
    status=401,
    code="not_authenticated",
    title="Unauthorized",
    detail="Send `Authorization: Bearer <access token>` of this API's user pool, with the scope keepgate/runs.",
)
NO_ROUTE = Problem(404, "not_found", "Not Found", "There is no such route.")
TOO_LARGE = Problem(413, "too_large", "Content Too Large", "The body has more than 65536 bytes.")
TOO_MANY = Problem(429, "too_many_requests", "Too Many Requests", "Too many requests; try again a little later.")

Kind = apigateway.ResponseType
PROBLEMS: Mapping[apigateway.ResponseType, Problem] = {
    Kind.UNAUTHORIZED: NOT_SIGNED_IN,
    Kind.EXPIRED_TOKEN: NOT_SIGNED_IN,
    Kind.ACCESS_DENIED: Problem(403, "forbidden", "Forbidden", "This token may not do that."),
    Kind.WAF_FILTERED: Problem(403, "request_blocked", "Forbidden", "The firewall refused this request."),
    Kind.MISSING_AUTHENTICATION_TOKEN: NO_ROUTE,  # what the gateway calls a path or method it doesn't know
    Kind.RESOURCE_NOT_FOUND: NO_ROUTE,
    Kind.BAD_REQUEST_BODY: Problem(400, "invalid_input", "Bad Request", "Send a JSON object.", "body"),
    Kind.BAD_REQUEST_PARAMETERS: Problem(400, "invalid_input", "Bad Request", "A parameter is missing or malformed."),
    Kind.UNSUPPORTED_MEDIA_TYPE: Problem(415, "unsupported_media_type", "Unsupported Media Type", "Send JSON."),
    Kind.REQUEST_TOO_LARGE: TOO_LARGE,
    Kind.THROTTLED: TOO_MANY,
    Kind.QUOTA_EXCEEDED: TOO_MANY,
}
DEFAULTS: Mapping[apigateway.ResponseType, Problem] = {
    Kind.DEFAULT_4_XX: Problem(400, "bad_request", "Bad Request", "The gateway refused this request."),
    Kind.DEFAULT_5_XX: Problem(500, "internal_error", "Internal Server Error", "Nothing is wrong with the request."),
}
"""Their HTTP status stays whatever the gateway chose."""


def answer_with_problems(scope: Construct, api: apigateway.RestApi) -> None:
    """Give the gateway's own answers the form of the API's problems."""
    for kind, problem in {**PROBLEMS, **DEFAULTS}.items():
        headers = {"Content-Type": f"'{MEDIA_TYPE}'"}
        if problem is NOT_SIGNED_IN:
            headers["WWW-Authenticate"] = "'Bearer'"
        if problem is TOO_MANY:
            headers["Retry-After"] = "'5'"
        apigateway.GatewayResponse(
            scope,
            f"Problem-{kind.response_type}",
            rest_api=api,
            type=kind,
            status_code=str(problem.status) if kind in PROBLEMS else None,
            response_headers=headers,
            templates={"application/json": problem.to_json(request_id="$context.requestId")},
        )
