"""The people of tenants on a Cognito user pool, asked one by one and never from a cache: a role taken away counts now.

AWS calls: two for a person. Cognito takes a local user's `sub` for a user name. People who sign in through an identity
provider have another user name, which ListUsers finds: eventually consistent, which is harmless for what never changes.
"""

from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from agent.errors import ConfigurationInvalid, StoreUnavailable
from agent.identity import Principal, Role

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp import CognitoIdentityProviderClient
    from mypy_boto3_cognito_idp.type_defs import AdminGetUserResponseTypeDef

TENANT_ATTRIBUTE = "custom:tenant_id"
MAX_GROUPS = 60
"""Cognito's largest page. Whoever is in more groups has the roles among the first of them, by precedence."""
PASSING = frozenset({"InternalErrorException", "TooManyRequestsException"})


class CognitoDirectory:
    """`ports.Directory` on one user pool."""

    def __init__(self, client: "CognitoIdentityProviderClient", user_pool_id: str) -> None:
        self._client = client
        self._pool = user_pool_id

    def principal(self, tenant_id: str, user_id: str) -> Principal | None:
        """See `ports.Directory`."""
        try:
            user = self._user(user_id) or self._federated(user_id)
            if user is None or not user["Enabled"] or _attribute(user, TENANT_ATTRIBUTE) != tenant_id:
                return None
            answer = self._client.admin_list_groups_for_user(
                UserPoolId=self._pool, Username=user["Username"], Limit=MAX_GROUPS
            )
            groups = {group.get("GroupName") for group in answer["Groups"]}
            roles = frozenset(role for role in Role if role.value in groups)
            return Principal(tenant_id=tenant_id, user_id=user_id, roles=roles)
        except self._client.exceptions.UserNotFoundException:
            return None  # deleted between the calls
        except ValidationError:
            return None
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in PASSING or "Throttling" in code:
                raise StoreUnavailable(f"the user pool answers {code}") from error
            raise ConfigurationInvalid(f"AWS refuses {error.operation_name}: {code}") from error
        except BotoCoreError as error:
            raise StoreUnavailable(f"the user pool does not answer: {type(error).__name__}") from error

    def _user(self, username: str, *, sub: str | None = None) -> "AdminGetUserResponseTypeDef | None":
        """Return the user of this name, where it is the one with this sub: a name may also be somebody's alias."""
        try:
            user = self._client.admin_get_user(UserPoolId=self._pool, Username=username)
        except self._client.exceptions.UserNotFoundException:
            return None
        return user if _attribute(user, "sub") == (sub or username) else None

    def _federated(self, sub: str) -> "AdminGetUserResponseTypeDef | None":
        # A user id holds no quotes (`agent.identity.UserId`), so it can't leave the filter's.
        found = self._client.list_users(UserPoolId=self._pool, Filter=f'sub = "{sub}"', Limit=1)["Users"]
        return self._user(found[0]["Username"], sub=sub) if found else None


def _attribute(user: Any, name: str) -> str | None:  # noqa: ANN401 - a response of the SDK
    return next((a.get("Value") for a in user["UserAttributes"] if a["Name"] == name), None)
