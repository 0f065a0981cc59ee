"""The directory's contract: who a person of a tenant is now. In memory, and on Cognito (moto)."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import pytest

from agent.aws.directory import CognitoDirectory
from agent.errors import ConfigurationInvalid, StoreUnavailable
from agent.identity import Principal, Role
from agent.ports.directory import Directory
from agent.testing.directory import MemoryDirectory
from tests.contracts.wire import Fault, Wire, error, lose_reply

NAMES = itertools.count()


class People(Protocol):
    """A directory, and what an administrator does to it."""

    directory: Directory

    def add(self, tenant: str, *groups: str) -> str: ...
    def regroup(self, user_id: str, *groups: str) -> None: ...
    def disable(self, user_id: str) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.directory = MemoryDirectory()
        self._tenants: dict[str, str] = {}

    def add(self, tenant: str, *groups: str) -> str:
        user_id = f"u-{next(NAMES)}"
        self._tenants[user_id] = tenant
        self.regroup(user_id, *groups)
        return user_id

    def regroup(self, user_id: str, *groups: str) -> None:
        roles = frozenset(role for role in Role if role.value in groups)
        self.directory.put(Principal(tenant_id=self._tenants[user_id], user_id=user_id, roles=roles))

    def disable(self, user_id: str) -> None:
        self.directory.remove(self._tenants[user_id], user_id)


class InCognito:
    def __init__(self, cognito: Any) -> None:
        self.cognito = cognito
        self.pool = cognito.create_user_pool(
            PoolName="people", Schema=[{"Name": "tenant_id", "AttributeDataType": "String", "Mutable": True}]
        )["UserPool"]["Id"]
        for group in (*(role.value for role in Role), "newsletter"):
            cognito.create_group(UserPoolId=self.pool, GroupName=group)
        self.directory = CognitoDirectory(cognito, self.pool)
        self.names: dict[str, str] = {}

    def add(self, tenant: str, *groups: str) -> str:
        name = f"somebody-{next(NAMES)}"
        attributes = [{"Name": "custom:tenant_id", "Value": tenant}]
        user = self.cognito.admin_create_user(UserPoolId=self.pool, Username=name, UserAttributes=attributes)["User"]
        user_id: str = next(a["Value"] for a in user["Attributes"] if a["Name"] == "sub")
        self.names[user_id] = name
        self.regroup(user_id, *groups)
        return user_id

    def regroup(self, user_id: str, *groups: str) -> None:
        who = {"UserPoolId": self.pool, "Username": self.names[user_id]}
        for group in self.cognito.admin_list_groups_for_user(**who)["Groups"]:
            self.cognito.admin_remove_user_from_group(**who, GroupName=group["GroupName"])
        for group in groups:
            self.cognito.admin_add_user_to_group(**who, GroupName=group)

    def disable(self, user_id: str) -> None:
        self.cognito.admin_disable_user(UserPoolId=self.pool, Username=self.names[user_id])


@pytest.fixture(params=["memory", "cognito"])
def people(request: pytest.FixtureRequest) -> People:
    if request.param == "memory":
        return InMemory()
    return InCognito(request.getfixturevalue("aws")("cognito-idp"))


def roles(people: People, tenant: str, user_id: str) -> Iterable[Role] | None:
    person = people.directory.principal(tenant, user_id)
    if person is None:
        return None
    assert (person.tenant_id, person.user_id) == (tenant, user_id)
    return person.roles


@pytest.mark.parametrize("groups", [(), ("user",), ("approver", "user"), ("operator", "newsletter")])
def test_a_person_has_the_roles_of_their_groups_and_no_others(people: People, groups: Sequence[str]) -> None:
    if isinstance(people, InMemory):
        groups = [group for group in groups if group != "newsletter"]
    user_id = people.add("acme", *groups)
    assert roles(people, "acme", user_id) == {role for role in Role if role.value in groups}


def test_a_role_that_was_taken_away_is_gone_at_once(people: People) -> None:
    user_id = people.add("acme", "approver", "user")
    assert roles(people, "acme", user_id) == {Role.APPROVER, Role.USER}
    people.regroup(user_id, "user")
    assert roles(people, "acme", user_id) == {Role.USER}


def test_a_person_of_another_tenant_and_one_who_never_was_are_nobody(people: People) -> None:
    user_id = people.add("acme", "approver")
    assert roles(people, "globex", user_id) is None
    assert roles(people, "acme", "somebody-else") is None


def test_who_may_not_sign_in_any_more_is_nobody(people: People) -> None:
    user_id = people.add("acme", "approver")
    people.disable(user_id)
    assert roles(people, "acme", user_id) is None


@pytest.fixture
def cognito(aws: Callable[[str], Any]) -> InCognito:
    return InCognito(aws("cognito-idp"))


def test_a_person_is_known_by_sub_and_not_by_a_name_that_somebody_chose(cognito: InCognito) -> None:
    user_id = cognito.add("acme", "approver")
    assert roles(cognito, "acme", cognito.names[user_id]) is None


def test_a_person_of_an_identity_provider_is_found_by_sub_though_cognito_takes_it_for_no_name(
    cognito: InCognito, wire: Wire
) -> None:
    user_id = cognito.add("acme", "approver")
    wire.reset()
    wire.next("AdminGetUser", error("UserNotFoundException"))
    assert roles(cognito, "acme", user_id) == {Role.APPROVER}
    assert wire.calls == {"AdminGetUser": 2, "ListUsers": 1, "AdminListGroupsForUser": 1}


@pytest.mark.parametrize(
    "trouble",
    [error("TooManyRequestsException"), error("InternalErrorException"), error("ThrottlingException"), lose_reply],
)
def test_a_pool_in_trouble_is_to_be_asked_again(cognito: InCognito, wire: Wire, trouble: Fault) -> None:
    user_id = cognito.add("acme", "approver")
    wire.next("AdminListGroupsForUser", trouble)
    with pytest.raises(StoreUnavailable):
        cognito.directory.principal("acme", user_id)


def test_a_missing_right_is_nobodys_absence(cognito: InCognito, wire: Wire) -> None:
    user_id = cognito.add("acme", "approver")
    wire.next("AdminGetUser", error("AccessDeniedException"))
    with pytest.raises(ConfigurationInvalid):
        cognito.directory.principal("acme", user_id)
