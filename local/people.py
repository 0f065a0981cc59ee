"""The people of the two tenants in the emulated user pool: who they are, and fresh tokens for them."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from support_desk.seed import TENANTS

PEOPLE: Mapping[str, tuple[str, ...]] = {
    "user": ("user",),
    "colleague": ("user",),
    "approver": ("user", "approver"),
    "operator": ("user", "operator"),
}
"""What each tenant's people may be, as groups of the user pool. The colleague is a second ordinary user."""


@dataclass(frozen=True)
class Person:
    """Somebody who can sign in. The password is made at each start and kept in memory."""

    name: str
    tenant: str
    groups: tuple[str, ...]
    password: str


def everyone() -> list[Person]:
    """Return the people of all tenants, `acme-user` first."""
    return [
        Person(f"{tenant}-{name}", tenant, groups, f"Aa1!{secrets.token_urlsafe(24)}")
        for tenant in TENANTS
        for name, groups in PEOPLE.items()
    ]


def sign_up(cognito: Any, pool_id: str, person: Person) -> None:  # noqa: ANN401 - an SDK client
    """Make a person known to the user pool, with tenant and groups."""
    cognito.admin_create_user(
        UserPoolId=pool_id,
        Username=person.name,
        MessageAction="SUPPRESS",
        UserAttributes=[
            {"Name": "email", "Value": f"{person.name}@{person.tenant}.example"},
            {"Name": "email_verified", "Value": "true"},
            {"Name": "custom:tenant_id", "Value": person.tenant},
        ],
    )
    cognito.admin_set_user_password(UserPoolId=pool_id, Username=person.name, Password=person.password, Permanent=True)
    for group in person.groups:
        cognito.admin_add_user_to_group(UserPoolId=pool_id, Username=person.name, GroupName=group)


def sign_in(cognito: Any, client_id: str, person: Person) -> str:  # noqa: ANN401 - an SDK client
    """Return a fresh access token."""
    answer = cognito.initiate_auth(
        ClientId=client_id,
        AuthFlow="USER_PASSWORD_AUTH",
        AuthParameters={"USERNAME": person.name, "PASSWORD": person.password},
    )
    token: str = answer["AuthenticationResult"]["AccessToken"]
    return token
