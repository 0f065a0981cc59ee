"""The API attacked over HTTP on the local cloud: by another tenant, by colleagues, and by whoever forges a token.

Everything somebody may send is tried with what is somebody else's: ids in paths, bodies and headers, cursors,
positions, keys, sessions; identities in headers, queries and bodies; tokens of every wrong kind. Which AWS calls a
refusal takes is shown by `test_same_calls`, on the same table of routes.
"""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from local import people
from tests.attack.routes import (
    BODIES,
    FORGED_FIELDS,
    FORGED_HEADERS,
    FORGED_QUERY,
    MISSING,
    NAMING,
    Route,
    routes,
    with_ids,
)
from tests.e2e.running_cloud import Api, RunningCloud
from tests.e2e.test_run_api import problem
from tests.e2e.test_sign_in import PASSWORD, tokens_of

EVERY_ROLE = ("user", "approver", "operator")
ATTACKERS = {
    "a colleague": ("acme", ("user",)),
    "the tenant's operator": ("acme", ("user", "operator")),
    "another tenant": ("globex", EVERY_ROLE),
}
ITS_OWN = {"date", "x-amzn-requestid", "x-amz-request-id", "x-amzn-trace-id", "x-amz-apigw-id", "connection"}
"""Headers that differ from answer to answer."""


@dataclass
class Attack:
    """The victim's runs, and who is after them. Whatever any attacker is answered is looked through."""

    cloud: RunningCloud
    victim: Api
    attackers: Mapping[str, Api]
    canary: str
    key: str
    ids: dict[str, str]
    session: str
    user_id: str

    def ask(self, who: str, route: Route, ids: Mapping[str, str] | None = None, **how: Any) -> httpx.Response:
        how.setdefault("json", route.body)
        answer = self.attackers[who].http.request(route.verb, route.at(ids or self.ids), **how)
        assert self.canary not in answer.text
        assert not any(theirs in answer.text for theirs in self.ids.values()), answer.text
        return answer

    def of_the_victim(self) -> str:
        """Return everything that is stored of the victim's runs."""
        runs = (self.ids["run_id"], self.ids["waiting"])
        return json.dumps([self.cloud.log("acme", run) for run in runs])


@pytest.fixture(scope="module")
def attack(cloud: RunningCloud) -> Iterator[Attack]:
    canary = f"canary{secrets.token_hex(6)}"
    with ExitStack() as stack:
        victim = stack.enter_context(cloud.newcomer("acme", ("user",)))
        attackers = {
            who: stack.enter_context(cloud.newcomer(tenant, roles)) for who, (tenant, roles) in ATTACKERS.items()
        }
        session, key = f"session-{canary[6:]}", f"key-{canary[6:]}"
        body = {"input": f"Where is order 1001? {canary}", "session_id": session, "metadata": {"label": canary}}
        answer = victim.http.post("/runs", json=body, headers={"Idempotency-Key": key})
        assert answer.status_code == 202, answer.text
        run_id = answer.json()["run_id"]
        victim.wait(run_id)
        waiting = victim.ask(f"Please refund 12.50 EUR of order 1001 {canary}")
        [asked] = victim.wait_until(waiting, "waiting")["pending_approvals"]
        ids = {"run_id": run_id, "waiting": waiting, "approval_id": asked["approval_id"]}
        user_id = victim.record(run_id)["user_id"]
        yield Attack(cloud, victim, attackers, canary, key, ids, session, user_id)


def alike(theirs: httpx.Response, nobodys: httpx.Response) -> None:
    """Demand one answer but for what differs from request to request."""

    def seen(answer: httpx.Response) -> Any:
        headers = {name: value for name, value in answer.headers.items() if name not in ITS_OWN}
        return answer.status_code, headers, {**answer.json(), "request_id": None}

    assert seen(theirs) == seen(nobodys)


@pytest.mark.parametrize("who", ATTACKERS)
def test_whatever_names_the_victims_is_answered_as_if_it_named_nobodys(attack: Attack, who: str) -> None:
    before = attack.of_the_victim()
    for name in with_ids():
        route = routes()[name]
        for ids in (attack.ids, {**attack.ids, "run_id": attack.ids["waiting"]}):
            theirs, nobodys = attack.ask(who, route, ids), attack.ask(who, route, MISSING)
            assert theirs.status_code in {403, 404}, (name, theirs.text)
            problem(theirs, theirs.status_code)
            alike(theirs, nobodys)
    assert attack.of_the_victim() == before


@pytest.mark.parametrize("who", ATTACKERS)
@pytest.mark.parametrize("forged", ["headers", "query", "both"])
def test_no_header_and_no_query_makes_an_attacker_the_victim(attack: Attack, who: str, forged: str) -> None:
    how: dict[str, Any] = {}
    if forged != "query":
        how["headers"] = FORGED_HEADERS
    if forged != "headers":
        how["params"] = FORGED_QUERY
    before = attack.of_the_victim()
    for name in with_ids():
        route = routes()[name]
        alike(attack.ask(who, route, **how), attack.ask(who, route))
    for name, route in routes().items():
        if route.verb == "GET" and not route.ids:
            assert attack.ask(who, route, **how).status_code in {200, 403}, name
    assert attack.of_the_victim() == before


@pytest.mark.parametrize("who", ATTACKERS)
def test_an_identity_in_a_body_is_refused_by_name(attack: Attack, who: str) -> None:
    before = attack.of_the_victim()
    for name, route in routes().items():
        if not route.has_body:
            continue
        for forged, value in FORGED_FIELDS.items():
            answer = attack.ask(who, route, json={**BODIES[name], forged: value})
            assert answer.status_code in {400, 403}, answer.text
            assert answer.status_code == 403 or answer.json()["field"] == f"body.{forged}"
    assert attack.of_the_victim() == before


@pytest.mark.parametrize("who", ATTACKERS)
def test_cursors_and_positions_of_the_victims_show_nothing(attack: Attack, who: str) -> None:
    theirs = {
        "run_id": [attack.ids["run_id"], attack.ids["waiting"]],
        "position": ["3.1.0", "99.0.0"],
        "user": [attack.user_id],
    }
    for (name, parameter), what in NAMING.items():
        route = routes()[name]
        for value in theirs.get(what, []):
            sent: Any = {"params" if route.parameters[parameter] == "query" else "headers": {parameter: value}}
            answer = attack.ask(who, route, **sent)
            assert answer.status_code in {200, 403, 404}, answer.text


@pytest.mark.parametrize("who", ATTACKERS)
def test_the_victims_key_and_session_are_as_new_and_bring_nothing_of_the_victims(attack: Attack, who: str) -> None:
    before = attack.of_the_victim()
    body = {"input": "What did we speak of before?", "session_id": attack.session}
    answer = attack.ask(who, routes()["createRun"], json=body, headers={"Idempotency-Key": attack.key})
    assert answer.status_code == 202, answer.text
    run_id, api = answer.json()["run_id"], attack.attackers[who]
    result = api.wait(run_id)
    assert attack.canary not in json.dumps(result)
    # Nothing of the victim's session was put before the model either.
    stored = json.dumps(attack.cloud.log(ATTACKERS[who][0], run_id))
    assert attack.canary not in stored
    assert attack.ids["run_id"] not in stored
    assert "".join(event.id for event in api.follow(run_id))
    assert attack.of_the_victim() == before


def test_lists_of_others_are_empty_of_the_victims(attack: Attack) -> None:
    for who in ATTACKERS:
        for name, route in routes().items():
            if "limit" in route.parameters:
                answer = attack.ask(who, route, params={"limit": 50})
                assert answer.status_code in {200, 403}, name


# --- tokens -----------------------------------------------------------------------------------------------------------


def _part(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def _read(part: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return document


def _forged(cloud: RunningCloud) -> dict[str, str]:
    """Return tokens that nobody with the pool's key has signed."""
    token = cloud.token("acme-user")
    head, payload, signature = token.split(".")
    header, claims = _read(head), _read(payload)
    pool = claims["iss"].rpartition("/")[2]
    public = httpx.get(f"{cloud.aws_url}/{pool}/.well-known/jwks.json").content
    as_secret = f"{_part({**header, 'alg': 'HS256'})}.{payload}"
    confused = _part(hmac.new(public, as_secret.encode(), hashlib.sha256).digest())
    tomorrow = {**claims, "exp": claims["exp"] + 86_400}
    other = {**claims, "tenant_id": "globex", "cognito:groups": ["user", "approver", "operator"]}
    return {
        "alg none": f"{_part({**header, 'alg': 'none'})}.{payload}.",
        "alg none, any case": f"{_part({**header, 'alg': 'nOnE'})}.{payload}.{signature}",
        "the public key as a secret": f"{as_secret}.{confused}",
        "another tenant": f"{head}.{_part(other)}.{signature}",
        "a later end": f"{head}.{_part(tomorrow)}.{signature}",
        "a key from elsewhere": f"{_part({**header, 'jku': 'https://evil.example.com/jwks.json'})}.{payload}.{signature}",
        "a key's id that is a path": f"{_part({**header, 'kid': '../../dev/null'})}.{payload}.{signature}",
        "no signature": f"{head}.{payload}.",
        "two parts": f"{head}.{payload}",
        "signed with zeros": f"{head}.{payload}.{_part(bytes(256))}",
    }


def _of_the_wrong_kind(cloud: RunningCloud, person: people.Person) -> dict[str, str]:
    """Return tokens that the pool did sign, and that this API must not take."""
    cognito, pool = cloud.aws("cognito-idp"), cloud.output("UserPoolId")
    own = cloud.output("UserPoolClientId")
    other = cognito.create_user_pool_client(
        UserPoolId=pool, ClientName=f"other-{person.name}", ExplicitAuthFlows=["ALLOW_USER_PASSWORD_AUTH"]
    )["UserPoolClient"]["ClientId"]
    return {
        "an ID token": tokens_of(cognito, own, person)["IdToken"],
        "a refresh token": tokens_of(cognito, own, person)["RefreshToken"],
        "another client's": tokens_of(cognito, other, person)["AccessToken"],
        "expired": _expired(cloud, cognito, person),
    }


def _expired(cloud: RunningCloud, cognito: Any, person: people.Person) -> str:
    pool, client_id = cloud.output("UserPoolId"), cloud.output("UserPoolClientId")
    described = cognito.describe_user_pool_client(UserPoolId=pool, ClientId=client_id)["UserPoolClient"]
    made_by_cognito = {"CreationDate", "LastModifiedDate", "ClientSecret"}
    known = {name: value for name, value in described.items() if value and name not in made_by_cognito}
    units = {**known["TokenValidityUnits"], "AccessToken": "seconds"}
    cognito.update_user_pool_client(**{**known, "AccessTokenValidity": 1, "TokenValidityUnits": units})
    try:
        token = tokens_of(cognito, client_id, person)["AccessToken"]
    finally:
        cognito.update_user_pool_client(**known)
    deadline = time.monotonic() + 5
    with cloud.anonymous(Authorization=f"Bearer {token}") as http:
        while http.get("/runs").status_code == 200:
            assert time.monotonic() < deadline, "the token does not expire"
            time.sleep(0.1)
    return token


def test_no_route_takes_a_token_that_is_forged_expired_or_of_the_wrong_kind(attack: Attack) -> None:
    cloud = attack.cloud
    person = people.Person(f"acme-{secrets.token_hex(4)}", "acme", EVERY_ROLE, PASSWORD)
    people.sign_up(cloud.aws("cognito-idp"), cloud.output("UserPoolId"), person)
    before = attack.of_the_victim()
    with cloud.anonymous() as http:
        for kind, token in {**_forged(cloud), **_of_the_wrong_kind(cloud, person)}.items():
            for route in routes().values():
                headers = {"Authorization": f"Bearer {token}"}
                answer = http.request(route.verb, route.at(attack.ids), json=route.body, headers=headers)
                document = problem(answer, 401)
                assert document["code"] == "not_authenticated", (kind, route.name)
                assert attack.canary not in answer.text
    assert attack.of_the_victim() == before


def test_a_good_token_anywhere_but_in_its_header_is_no_token(attack: Attack) -> None:
    token = attack.cloud.token("acme-user")
    with attack.cloud.anonymous() as http:
        for route in routes().values():
            for how in (
                {"params": {"access_token": token, "Authorization": f"Bearer {token}"}},
                {"headers": {"Cookie": f"Authorization=Bearer {token}; access_token={token}"}},
                {"headers": {"X-Authorization": f"Bearer {token}", "Proxy-Authorization": f"Bearer {token}"}},
                {"headers": {"Authorization": f"Basic {token}"}},
            ):
                answer = http.request(route.verb, route.at(attack.ids), json=route.body, **how)
                assert problem(answer, 401)["code"] == "not_authenticated"
                assert token not in answer.text
