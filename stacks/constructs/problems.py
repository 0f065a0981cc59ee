"""What the gateway and the firewall answer on their own, as RFC 9457 problem documents with the codes of the API.

The shim writes its problems itself; these are for requests that never reach it.
"""

import json
from collections.abc import Mapping

from aws_cdk import aws_apigateway as apigateway
from constructs import Construct

MEDIA_TYPE = "application/problem+json"


def problem(status: int, code: str, title: str, detail: str) -> dict[str, object]:
    """Return a problem document."""
    return {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail}


SIGN_IN = "Send `Authorization: Bearer <access token>` of this API's user pool, with the scope keepgate/runs."
TOO_LARGE = problem(413, "too_large", "Content Too Large", "The body has more than 65536 bytes.")
TOO_MANY = problem(429, "too_many_requests", "Too Many Requests", "Too many requests; try again a little later.")

Kind = apigateway.ResponseType
PROBLEMS: Mapping[apigateway.ResponseType, dict[str, object]] = {
    Kind.UNAUTHORIZED: problem(401, "not_authenticated", "Unauthorized", SIGN_IN),
    Kind.ACCESS_DENIED: problem(403, "forbidden", "Forbidden", "This token may not do that."),
    Kind.EXPIRED_TOKEN: problem(401, "not_authenticated", "Unauthorized", SIGN_IN),
    Kind.WAF_FILTERED: problem(403, "request_blocked", "Forbidden", "The firewall refused this request."),
    Kind.MISSING_AUTHENTICATION_TOKEN: problem(404, "not_found", "Not Found", "There is no such route."),
    Kind.RESOURCE_NOT_FOUND: problem(404, "not_found", "Not Found", "There is no such route."),
    Kind.BAD_REQUEST_BODY: problem(400, "invalid_input", "Bad Request", "body: it must be a JSON object."),
    Kind.BAD_REQUEST_PARAMETERS: problem(400, "invalid_input", "Bad Request", "A path or query parameter is missing."),
    Kind.UNSUPPORTED_MEDIA_TYPE: problem(415, "unsupported_media_type", "Unsupported Media Type", "Send JSON."),
    Kind.REQUEST_TOO_LARGE: TOO_LARGE,
    Kind.THROTTLED: TOO_MANY,
    Kind.QUOTA_EXCEEDED: TOO_MANY,
    Kind.DEFAULT_4_XX: problem(400, "bad_request", "Bad Request", "The gateway refused this request."),
    Kind.DEFAULT_5_XX: problem(
        500, "internal_error", "Internal Server Error", "Nothing is wrong with the request; try again."
    ),
}


def answer_with_problems(scope: Construct, api: apigateway.RestApi) -> None:
    """Give the API's own answers the form of its problems."""
    for kind, document in PROBLEMS.items():
        name = kind.response_type
        headers = {"Content-Type": f"'{MEDIA_TYPE}'"}
        if document["status"] == 429:
            headers["Retry-After"] = "'5'"
        default = kind in (Kind.DEFAULT_4_XX, Kind.DEFAULT_5_XX)
        apigateway.GatewayResponse(
            scope,
            f"Problem-{name}",
            rest_api=api,
            type=kind,
            status_code=None if default else str(document["status"]),
            response_headers=headers,
            templates={"application/json": json.dumps(document)},
        )
