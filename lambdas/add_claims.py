"""The user pool's pre-token trigger (version 2): puts tenant, roles and scope into access tokens.

Fails closed: a user without a valid tenant gets neither tenant nor scope, even where a client asked for the scope, so
the gateway lets nothing of theirs in. `custom:tenant_id` is written by administrators only; no client may.
"""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from agent.identity import TenantId
from lambdas.claims import SCOPE, TENANT, TENANT_ATTRIBUTE, known_roles

_TENANT: TypeAdapter[str] = TypeAdapter(TenantId)


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Answer Cognito's pre-token-generation event with the changes to the tokens."""
    request = event["request"]
    groups = (request.get("groupConfiguration") or {}).get("groupsToOverride") or []
    try:
        tenant = _TENANT.validate_python(request["userAttributes"].get(TENANT_ATTRIBUTE))
    except ValidationError:
        change: dict[str, Any] = {"claimsToSuppress": [TENANT], "scopesToSuppress": [SCOPE]}
    else:
        change = {"claimsToAddOrOverride": {TENANT: tenant}, "scopesToAdd": [SCOPE]}
    event["response"] = {
        "claimsAndScopeOverrideDetails": {
            "accessTokenGeneration": change,
            "groupOverrideDetails": {"groupsToOverride": sorted(known_roles(groups))},
        }
    }
    return event
