"""Requests as API Gateway's REST proxy integration hands them to a function, and its answers read back."""

import copy
import json
from dataclasses import dataclass
from typing import Any, cast

from aws_lambda_powertools.utilities.typing import LambdaContext

CLIENT = "4client0of0the0pool0000000"
STAGE = "v1"

_EVENT: dict[str, Any] = {
    "resource": "/{proxy+}",
    "path": "/runs",
    "httpMethod": "POST",
    "headers": {"Accept": "*/*", "Host": "api.example.com", "X-Forwarded-For": "192.0.2.1"},
    "multiValueHeaders": {},
    "queryStringParameters": None,
    "multiValueQueryStringParameters": None,
    "pathParameters": None,
    "stageVariables": None,
    "requestContext": {
        "resourceId": "abc123",
        "authorizer": {
            "claims": {
                "sub": "11111111-1111-4111-8111-111111111111",
                "cognito:groups": "user",
                "iss": "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AAAAAAAAA",
                "version": "2",
                "client_id": CLIENT,
                "event_id": "5f3b0000-0000-4000-8000-000000000000",
                "token_use": "access",
                "scope": "aws.cognito.signin.user.admin keepgate/runs",
                "auth_time": "1767268800",
                "exp": "Thu Jan 01 13:00:00 UTC 2026",
                "iat": "Thu Jan 01 12:00:00 UTC 2026",
                "jti": "9c4f0000-0000-4000-8000-000000000000",
                "username": "anna@acme.example",
                "tenant_id": "acme",
            }
        },
        "resourcePath": "/runs",
        "httpMethod": "POST",
        "path": "/v1/runs",
        "accountId": "000000000000",
        "protocol": "HTTP/1.1",
        "stage": STAGE,
        "requestTimeEpoch": 1767268800000,
        "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
        "identity": {"sourceIp": "192.0.2.1", "userAgent": "curl/8"},
        "domainName": "api.example.com",
        "apiId": "wt6mne2s9k",
    },
    "body": None,
    "isBase64Encoded": False,
}

ANNA = "11111111-1111-4111-8111-111111111111"
BEN = "22222222-2222-4222-8222-222222222222"


class Context(LambdaContext):
    """What Lambda tells a function about its invocation."""

    _aws_request_id = "00000000-0000-4000-8000-000000000001"

    def __init__(self, left_ms: int = 29_000) -> None:
        self._left_ms = left_ms

    def get_remaining_time_in_millis(self) -> int:  # type: ignore[override]  # a static method there
        return self._left_ms


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str | None

    @property
    def body(self) -> dict[str, Any]:
        return cast(dict[str, Any], json.loads(self.text or ""))

    @classmethod
    def read(cls, answered: dict[str, Any]) -> "Answer":
        json.dumps(answered)  # the gateway takes nothing that isn't JSON
        headers = {name: ",".join(values) for name, values in answered["multiValueHeaders"].items()}
        return cls(answered["statusCode"], headers, answered["body"])


def request(
    method: str,
    path: str,
    body: object = None,
    *,
    raw: str | None = None,
    headers: dict[str, str] | None = None,
    query: dict[str, str] | None = None,
    claims: dict[str, Any] | None = None,
    ascii_only: bool = True,
) -> dict[str, Any]:
    """Return the event of a request by Anna of acme, or by whoever `claims` says; a claim of None is left out."""
    event = copy.deepcopy(_EVENT)
    sent = {**event["headers"], **({"Content-Type": "application/json"} if body is not None or raw else {})}
    sent |= headers or {}
    event |= {
        "path": path,
        "httpMethod": method,
        "headers": sent,
        "multiValueHeaders": {name: [value] for name, value in sent.items()},
        "queryStringParameters": query,
        "multiValueQueryStringParameters": {name: [value] for name, value in query.items()} if query else None,
        "body": json.dumps(body, ensure_ascii=ascii_only) if body is not None else raw,
    }
    event["requestContext"] |= {"httpMethod": method, "path": f"/{STAGE}{path}"}
    merged: dict[str, Any] = {**event["requestContext"]["authorizer"]["claims"], **(claims or {})}
    event["requestContext"]["authorizer"]["claims"] = {k: v for k, v in merged.items() if v is not None}
    return event
