"""The API's description, made from the two doors that answer it. Read when it is asked for, and by tests."""

import json
from functools import cache
from typing import Any

from aws_lambda_powertools.event_handler import APIGatewayRestResolver
from aws_lambda_powertools.event_handler.openapi.models import HTTPBearer, Server

from lambdas import shim, stream_events
from lambdas.claims import SCOPE

_SECURITY = "accessToken"
_NEVER_SENT = {"422", "HTTPValidationError", "ResponseValidationError", "ValidationError"}
"""The resolver's own idea of a refusal, which `problems` replaces."""


@cache
def document() -> str:
    """Return the OpenAPI 3.1 document, as JSON."""
    whole, events = _describe(shim.app), _describe(stream_events.app)
    whole["paths"] |= events["paths"]
    whole["components"]["schemas"] |= events["components"]["schemas"]
    for name in _NEVER_SENT:
        whole["components"]["schemas"].pop(name, None)
    for operations in whole["paths"].values():
        for operation in operations.values():
            for status in _NEVER_SENT:
                operation["responses"].pop(status, None)
            operation["responses"].get("204", {}).pop("content", None)
            for parameter in operation.get("parameters", []):
                parameter["schema"] = _sent_or_absent(parameter["schema"])
    return json.dumps(whole, separators=(",", ":"), sort_keys=True)


def _sent_or_absent(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter's schema without null: whoever has none leaves the parameter out."""
    one_of = schema.get("anyOf", [])
    if {"type": "null"} not in one_of:
        return schema
    [other] = [kind for kind in one_of if kind != {"type": "null"}]
    return {**{name: value for name, value in schema.items() if name != "anyOf"}, **other}


def _describe(app: APIGatewayRestResolver) -> dict[str, Any]:
    description: dict[str, Any] = json.loads(
        app.get_openapi_json_schema(
            title="Keepgate",
            version="1",
            description="Ask an agent, watch it work, get its answer. Refusals are problem documents (RFC 9457).",
            servers=[Server(url="/v1")],
            security_schemes={
                _SECURITY: HTTPBearer(
                    bearerFormat="JWT", description=f"An access token of the user pool with the scope {SCOPE}."
                )
            },
            security=[{_SECURITY: []}],
        )
    )
    return description
