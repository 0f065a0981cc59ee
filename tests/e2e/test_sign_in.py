"""Who gets in: a signed-in person of this pool, through this client, with an access token that still holds."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from local import people
from tests.e2e.running_cloud import RunningCloud

PASSWORD = "A-long-enough-1-password"


@pytest.fixture
def cognito(cloud: RunningCloud) -> Any:
    return cloud.aws("cognito-idp")


@pytest.fixture
def somebody(cloud: RunningCloud, cognito: Any) -> Iterator[people.Person]:
    """A person of acme whose password the test knows."""
    person = people.Person("acme-newcomer", "acme", ("user",), PASSWORD)
    people.sign_up(cognito, cloud.output("UserPoolId"), person)
    yield person
    cognito.admin_delete_user(UserPoolId=cloud.output("UserPoolId"), Username=person.name)


def tokens_of(cognito: Any, client_id: str, person: people.Person) -> dict[str, str]:
    answer = cognito.initiate_auth(
        ClientId=client_id,
        AuthFlow="USER_PASSWORD_AUTH",
        AuthParameters={"USERNAME": person.name, "PASSWORD": person.password},
    )
    tokens: dict[str, str] = answer["AuthenticationResult"]
    return tokens


def status_with(cloud: RunningCloud, authorization: str | None) -> int:
    """Return what listing runs answers; a refusal must be a problem document that says how to do better."""
    with cloud.anonymous(**({"Authorization": authorization} if authorization is not None else {})) as http:
        answer = http.get("/runs")
    if answer.status_code == 401:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "not_authenticated"
    return answer.status_code


def test_a_signed_in_person_gets_in(cloud: RunningCloud) -> None:
    assert status_with(cloud, f"Bearer {cloud.token('acme-user')}") == 200


def test_no_token_and_broken_tokens_are_401(cloud: RunningCloud) -> None:
    token = cloud.token("acme-user")
    header, payload, signature = token.split(".")
    other_payload = cloud.token("globex-user").split(".")[1]
    for authorization in (
        None,
        "",
        "Bearer",
        "Bearer nonsense",
        "Basic dXNlcjpwYXNz",
        f"Bearer {header}.{payload}",
        f"Bearer {header}.{payload}.{signature[::-1]}",
        f"Bearer {header}.{other_payload}.{signature}",
        f"Bearer eyJhbGciOiJub25lIn0.{payload}.",
    ):
        assert status_with(cloud, authorization) == 401, authorization


def test_every_route_refuses_a_stranger(cloud: RunningCloud) -> None:
    run = "/runs/run_01ARZ3NDEKTSV4RRFFQ69G5FAV"
    with cloud.anonymous() as http:
        for verb, path in (
            ("POST", "/runs"),
            ("GET", "/runs"),
            ("GET", run),
            ("GET", f"{run}/result"),
            ("GET", f"{run}/events"),
            ("POST", f"{run}/cancel"),
            ("POST", f"{run}/feedback"),
            ("GET", "/openapi.json"),
        ):
            assert http.request(verb, path).status_code == 401, path


def test_an_id_token_is_401(cloud: RunningCloud, cognito: Any, somebody: people.Person) -> None:
    tokens = tokens_of(cognito, cloud.output("UserPoolClientId"), somebody)
    assert status_with(cloud, f"Bearer {tokens['AccessToken']}") == 200
    assert status_with(cloud, f"Bearer {tokens['IdToken']}") == 401


def test_a_token_that_has_expired_is_401(cloud: RunningCloud, cognito: Any, somebody: people.Person) -> None:
    pool, client_id = cloud.output("UserPoolId"), cloud.output("UserPoolClientId")
    described = cognito.describe_user_pool_client(UserPoolId=pool, ClientId=client_id)["UserPoolClient"]
    made_by_cognito = {"CreationDate", "LastModifiedDate", "ClientSecret"}
    settings = {name: value for name, value in described.items() if value and name not in made_by_cognito}
    units = {**settings["TokenValidityUnits"], "AccessToken": "seconds"}
    # Shorter than AWS allows; the emulator does not mind, and nobody wants to wait five minutes.
    cognito.update_user_pool_client(**{**settings, "AccessTokenValidity": 2, "TokenValidityUnits": units})
    try:
        token = tokens_of(cognito, client_id, somebody)["AccessToken"]
    finally:
        cognito.update_user_pool_client(**settings)
    assert status_with(cloud, f"Bearer {token}") == 200
    deadline = time.monotonic() + 5
    while status_with(cloud, f"Bearer {token}") == 200:
        assert time.monotonic() < deadline, "the token does not expire"
        time.sleep(0.2)
    assert status_with(cloud, f"Bearer {token}") == 401


def test_a_token_of_another_client_of_the_pool_is_401(
    cloud: RunningCloud, cognito: Any, somebody: people.Person
) -> None:
    pool = cloud.output("UserPoolId")
    other = cognito.create_user_pool_client(
        UserPoolId=pool, ClientName="other", ExplicitAuthFlows=["ALLOW_USER_PASSWORD_AUTH"]
    )["UserPoolClient"]["ClientId"]
    token = tokens_of(cognito, other, somebody)["AccessToken"]
    assert status_with(cloud, f"Bearer {token}") == 401


def test_a_token_of_another_pool_is_401_whatever_it_claims(cloud: RunningCloud, cognito: Any) -> None:
    pool = cognito.create_user_pool(
        PoolName="foreign", Schema=[{"Name": "tenant_id", "AttributeDataType": "String", "Mutable": True}]
    )["UserPool"]["Id"]
    trigger = cloud.aws("cognito-idp").describe_user_pool(UserPoolId=cloud.output("UserPoolId"))["UserPool"]
    cognito.update_user_pool(UserPoolId=pool, LambdaConfig=trigger["LambdaConfig"])
    client = cognito.create_user_pool_client(
        UserPoolId=pool, ClientName="foreign", ExplicitAuthFlows=["ALLOW_USER_PASSWORD_AUTH"]
    )["UserPoolClient"]["ClientId"]
    person = people.Person("acme-user", "acme", (), PASSWORD)
    people.sign_up(cognito, pool, person)
    token = tokens_of(cognito, client, person)["AccessToken"]
    assert status_with(cloud, f"Bearer {token}") == 401


@pytest.mark.parametrize("tenant", ["", "Acme Inc", "acme/../globex"])
def test_a_person_without_a_valid_tenant_gets_no_scope_and_is_401(
    cloud: RunningCloud, cognito: Any, tenant: str
) -> None:
    person = people.Person("nobodys-user", tenant or "acme", ("user",), PASSWORD)
    pool = cloud.output("UserPoolId")
    people.sign_up(cognito, pool, person)
    try:
        if not tenant:
            nothing = [{"Name": "custom:tenant_id", "Value": ""}]
            cognito.admin_update_user_attributes(UserPoolId=pool, Username=person.name, UserAttributes=nothing)
        token = tokens_of(cognito, cloud.output("UserPoolClientId"), person)["AccessToken"]
        assert status_with(cloud, f"Bearer {token}") == 401
    finally:
        cognito.admin_delete_user(UserPoolId=pool, Username=person.name)
