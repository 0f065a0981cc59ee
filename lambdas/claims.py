"""The claims of an access token: what `add_claims` puts in, and how the HTTP doors make a `Principal` of them.

The gateway has verified signature, issuer and expiry before a door is called, and nothing else: that this is an
access token, of a client of ours, with the scope, the tenant and the roles, is checked here. Nothing but verified
claims ever makes a principal.
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from agent.errors import NotAuthenticated
from agent.identity import Principal, Role

SCOPE = "keepgate/runs"
TENANT = "tenant_id"
TENANT_ATTRIBUTE = "custom:tenant_id"
GROUPS = "cognito:groups"


def known_roles(names: object) -> frozenset[Role]:
    """Return the roles among a user's groups, whichever way the groups are written.

    A token has a list; a REST API's authorizer passes `a,b`, an HTTP API's `[a b]`. Unknown names are no roles.
    """
    if isinstance(names, str):
        names = re.split(r"[,\s]+", names.strip("[] "))
    if not isinstance(names, list):
        return frozenset()
    return frozenset(role for role in Role if role.value in names)


def require_principal(event: Mapping[str, Any], client_ids: frozenset[str]) -> Principal:
    """Return who calls, from the claims that the gateway's authorizer verified.

    Raises:
        NotAuthenticated: there are none, or they are not an access token's of ours with scope, tenant and user.
    """
    claims = ((event.get("requestContext") or {}).get("authorizer") or {}).get("claims") or {}
    if claims.get("token_use") != "access":
        raise NotAuthenticated("the token is not an access token")
    if claims.get("client_id") not in client_ids:
        raise NotAuthenticated("the token was given to another application")
    if SCOPE not in str(claims.get("scope", "")).split():
        raise NotAuthenticated(f"the token lacks the scope {SCOPE}")
    try:
        return Principal(tenant_id=claims[TENANT], user_id=claims["sub"], roles=known_roles(claims.get(GROUPS)))
    except (KeyError, ValidationError):
        raise NotAuthenticated("the token names no user of a tenant") from None
