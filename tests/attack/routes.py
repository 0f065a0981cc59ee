"""The API's routes as somebody attacks them, read off its description: a route that no attack knows fails the suite.

What a route takes of ids, and what body a well-formed request has, stands in the tables here. That every parameter and
every body of every route is in one of them is a test of `test_same_calls`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from lambdas import openapi

MISSING = {
    "run_id": "run_01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "approval_id": "apr_01ARZ3NDEKTSV4RRFFQ69G5FAV_1_0",
}
"""Well-formed ids that are nobody's, by the name of the path's parameter."""
BODIES: Mapping[str, dict[str, Any]] = {
    "createRun": {"input": "Where is order 1001?"},
    "cancelRun": {},
    "judgeRun": {"rating": "down"},
    "decideApproval": {"decision": "approve", "reason": "because I say so"},
    "setSwitch": {"kind": "tool", "name": "nobodys_tool", "is_on": True, "for_s": 60, "reason": "an attack"},
    "setLimit": {"name": "user_runs", "value": 3, "user_id": "nobody-at-all", "reason": "an attack"},
}
"""A body with which each POST would be accepted of whom it is allowed."""
NAMING = {
    ("listRuns", "cursor"): "run_id",
    ("listApprovals", "cursor"): "run_id",
    ("followRun", "after"): "position",
    ("followRun", "last-event-id"): "position",
    ("createRun", "idempotency-key"): "key",
    ("listLimits", "user_id"): "user",
    ("getTenantUsage", "user_id"): "user",
    ("readAudit", "cursor"): "change",
}
"""Parameters outside of the path that name something of somebody, and what."""
HARMLESS = {
    ("listRuns", "limit"): "how much of the caller's own",
    ("listApprovals", "limit"): "how much of what the caller may decide",
    ("readAudit", "limit"): "how much of what the own tenant's operators did",
    ("followRun", "wait"): "how long to wait, once the run was found to be the caller's",
}
"""Parameters that name nothing of anybody, and why."""
FORGED_HEADERS = {
    "X-Tenant-Id": "acme",
    "X-User-Id": "anna",
    "X-Forwarded-User": "anna",
    "X-Amzn-Oidc-Identity": "anna",
    "X-Amz-Security-Token": "forged",
    "X-Amz-Tenant-Id": "acme",
    "X-Apigateway-Event": '{"requestContext":{"authorizer":{"claims":{"tenant_id":"acme"}}}}',
    "X-HTTP-Method-Override": "DELETE",
    "X-Original-URL": "/v1/openapi.json",
    "Cookie": "tenant_id=acme; session=forged",
    "Tenant-Id": "acme",
    "Cognito-Groups": "approver,operator",
}
FORGED_QUERY = {"tenant_id": "acme", "user_id": "anna", "roles": "operator"}
FORGED_FIELDS: Mapping[str, Any] = {
    "tenant_id": "acme",
    "sub": "anna",
    "principal": {"tenant_id": "acme", "user_id": "anna", "roles": ["operator"]},
    "roles": ["approver"],
    "by": "operator",
    "requestContext": {"authorizer": {"claims": {"tenant_id": "acme"}}},
}


@dataclass(frozen=True)
class Route:
    """One operation."""

    name: str
    """Its `operationId`."""
    verb: str
    path: str
    parameters: Mapping[str, str]
    """Where each stands (`path`, `query`, `header`), by name."""
    has_body: bool

    @property
    def ids(self) -> list[str]:
        return [name for name, where in self.parameters.items() if where == "path"]

    @property
    def body(self) -> dict[str, Any] | None:
        return BODIES[self.name] if self.verb == "POST" else None

    def at(self, ids: Mapping[str, str]) -> str:
        """Return the path with these ids in it."""
        path = self.path
        for name in self.ids:
            path = path.replace(f"{{{name}}}", ids[name])
        return path


@cache
def routes() -> dict[str, Route]:
    """Return all operations of the description, by name."""
    return {
        operation["operationId"]: Route(
            operation["operationId"],
            verb.upper(),
            path,
            {parameter["name"]: parameter["in"] for parameter in operation.get("parameters", [])},
            "requestBody" in operation,
        )
        for path, operations in json.loads(openapi.document())["paths"].items()
        for verb, operation in operations.items()
    }


def with_ids() -> list[str]:
    """Return the names of the operations that name something by an id in their path."""
    return [name for name, route in routes().items() if route.ids]
