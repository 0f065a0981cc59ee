"""What the pre-token trigger puts into access tokens, and that the doors make the right person of it."""

from typing import Any

import pytest

from agent.errors import NotAuthenticated
from agent.identity import Role
from lambdas.add_claims import handler
from lambdas.claims import known_roles, require_principal
from tests.unit.gateway import CLIENT, Context, request


def trigger(tenant: object, groups: list[str] | None, scopes: list[str] | None = None) -> dict[str, Any]:
    """Return Cognito's version 2 event."""
    attributes = {"sub": "11111111-1111-4111-8111-111111111111", "email": "anna@acme.example"}
    event = {
        "version": "2",
        "triggerSource": "TokenGeneration_Authentication",
        "region": "eu-central-1",
        "userPoolId": "eu-central-1_AAAAAAAAA",
        "userName": "anna@acme.example",
        "callerContext": {"awsSdkVersion": "aws-sdk-unknown-unknown", "clientId": CLIENT},
        "request": {
            "userAttributes": {**attributes, **({} if tenant is None else {"custom:tenant_id": tenant})},
            "groupConfiguration": {"groupsToOverride": groups, "iamRolesToOverride": [], "preferredRole": None},
            "scopes": scopes or ["aws.cognito.signin.user.admin"],
        },
        "response": {"claimsAndScopeOverrideDetails": None},
    }
    change: dict[str, Any] = handler(event, Context())["response"]["claimsAndScopeOverrideDetails"]
    return change


def test_the_access_token_gets_the_tenant_and_the_scope_and_known_roles_only() -> None:
    assert trigger("acme", ["approver", "user", "eu-central-1_SAML", "admin"]) == {
        "accessTokenGeneration": {"claimsToAddOrOverride": {"tenant_id": "acme"}, "scopesToAdd": ["keepgate/runs"]},
        "groupOverrideDetails": {"groupsToOverride": ["approver", "user"]},
    }


@pytest.mark.parametrize("tenant", [None, "", "ACME", "a b", "acme\n", "a" * 41, "acme#R#1"])
def test_a_user_without_a_valid_tenant_gets_neither_tenant_nor_scope(tenant: str | None) -> None:
    change = trigger(tenant, ["user"], ["keepgate/runs"])["accessTokenGeneration"]
    assert change == {"claimsToSuppress": ["tenant_id"], "scopesToSuppress": ["keepgate/runs"]}


def test_a_user_in_no_group_has_no_role() -> None:
    assert trigger("acme", None)["groupOverrideDetails"] == {"groupsToOverride": []}


@pytest.mark.parametrize(
    "groups",
    ["user,approver", "user, approver", "[user approver]", "[user, approver]", ["user", "approver"], "x,user,approver"],
)
def test_groups_are_understood_however_the_gateway_writes_them(groups: object) -> None:
    assert known_roles(groups) == {Role.USER, Role.APPROVER}


@pytest.mark.parametrize("groups", [None, "", "[]", [], "users", {"user": 1}, 7, [["user"]]])
def test_what_names_no_role_gives_none(groups: object) -> None:
    assert known_roles(groups) == frozenset()


def test_the_door_makes_a_principal_of_what_the_trigger_put_in() -> None:
    added = trigger("acme", ["operator", "user"])
    claims = {
        **added["accessTokenGeneration"]["claimsToAddOrOverride"],
        "scope": " ".join(added["accessTokenGeneration"]["scopesToAdd"]),
        "cognito:groups": ",".join(added["groupOverrideDetails"]["groupsToOverride"]),
    }
    principal = require_principal(request("GET", "/runs", claims=claims), frozenset({CLIENT}))
    assert (principal.tenant_id, principal.roles) == ("acme", frozenset({Role.OPERATOR, Role.USER}))


def test_no_client_is_trusted_where_none_is_configured() -> None:
    with pytest.raises(NotAuthenticated):
        require_principal(request("GET", "/runs", claims={"client_id": ""}), frozenset({CLIENT}))
