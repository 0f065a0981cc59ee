"""What is somebody else's and what is nobody's: one answer, byte for byte, and the same calls to AWS.

The doors with their real wiring, in this process, on moto, where each call to AWS is written down as it is sent. A
difference between two refusals tells a stranger that something exists; so does a difference in calls, by the time they
take. At the end the guards are broken one by one, and each time the same demand fails.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSPreparedRequest
from moto import mock_aws

from agent.aws.run_log import DynamoDbRunLog
from agent.errors import NotFound
from agent.run_header import RunHeader
from agent.testing.model import asks, says
from agent.testing.rooms import FixedPolicy
from agent.testing.tables import create_table
from lambdas import clients, shim, stream_events, wiring
from tests.attack.routes import (
    BODIES,
    FORGED_FIELDS,
    FORGED_HEADERS,
    FORGED_QUERY,
    HARMLESS,
    MISSING,
    NAMING,
    Route,
    routes,
    with_ids,
)
from tests.sample_agent import SampleCloud
from tests.unit.gateway import ANNA, BEN, CLIENT, Answer, Context, request
from tests.unit.test_shim import Bell
from tests.unit.test_wiring import ENVIRONMENT, SETTINGS

EVERY_ROLE = "user,approver,operator"
ATTACKERS: Mapping[str, dict[str, Any]] = {
    "a colleague": {"sub": BEN, "cognito:groups": "user"},
    "a colleague with every role": {"sub": BEN, "cognito:groups": EVERY_ROLE},
    "somebody of another tenant": {"sub": BEN, "tenant_id": "globex", "cognito:groups": EVERY_ROLE},
    "another tenant's user of the same id": {"sub": ANNA, "tenant_id": "globex", "cognito:groups": EVERY_ROLE},
    "a tenant whose name begins alike": {"sub": ANNA, "tenant_id": "acme-2", "cognito:groups": EVERY_ROLE},
}
ALLOWED = {
    ("a colleague with every role", name)
    for name in ("decideApproval", "listApprovals", "listSwitches", "listLimits", "readAudit", "getTenantUsage")
}
"""An approver decides about the calls of the own tenant; an operator sees what is kept about it."""
OPERATOR = {"sub": "operator-of-acme", "cognito:groups": EVERY_ROLE}
SECRET = "canary-of-anna"
SESSION = "annas-session"
KEYS = {SECRET: "annas-key", "another question": "annas-other-key"}
HERS: dict[str, Any] = {"input": SECRET, "session_id": SESSION, "metadata": {"order": SECRET}}


@dataclass
class World:
    """Anna of acme has asked, with a key and in a session, and her run waits for an approver; others come."""

    log: DynamoDbRunLog
    doors: dict[str, Any]
    bell: Bell
    calls: list[str] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)

    def ask(self, route: Route, ids: Mapping[str, str], claims: dict[str, Any], **how: Any) -> tuple[Answer, list[str]]:
        """Return the answer to a request, and the calls to AWS it took."""
        body = how.pop("body", route.body)
        event = request(route.verb, route.at(ids), body, claims=claims, **how)
        before = len(self.calls)
        answered = self.doors["followRun" if route.name == "followRun" else "others"](event, Context())
        return Answer.read(answered), self.calls[before:]

    def untouched(self) -> list[str]:
        return [event.model_dump_json() for event in self.log.events("acme", self.ids["run_id"])]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    calls: list[str] = []
    build = clients.new

    def sends(request: AWSPreparedRequest, event_name: str, **_: Any) -> None:
        asked = json.loads(request.body or b"{}")
        # What operators say is read anew every two seconds, whoever asks.
        if set(asked.get("RequestItems", {})) != {"control"}:
            calls.append(event_name.removeprefix("before-send."))

    def watched(*args: Any, **how: Any) -> Any:
        client = build(*args, **how)
        client.meta.events.register_first("before-send", sends)
        return client

    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setattr(clients, "new", watched)
        client = boto3.client("dynamodb")
        indexes = {"by_user": ("user_key", "run_id"), "by_approval": ("approval_key", "run_id")}
        create_table(client, "runs", **indexes, by_due=("due_shard", "due_at"))
        for table in ("control", "ledger"):
            create_table(client, table)
        clients.client.cache_clear()
        wiring._limits.cache_clear()
        bell = Bell()
        admitted = frozenset({CLIENT})
        settings: Any = replace(SETTINGS["shim"], user_runs_limit=50, tenant_runs_limit=200)
        log = DynamoDbRunLog(client, "runs")
        doors = {
            "others": shim.door(replace(wiring.shim(settings), wake=bell), admitted),
            "followRun": stream_events.door(wiring.stream_events(SETTINGS["stream_events"]), admitted),
        }
        made = World(log, doors, bell, calls)
        cloud = SampleCloud(
            asks(("pay", {"item": SECRET}), text=SECRET), says(SECRET), policy=FixedPolicy({"pay": "ask"}), log=log
        )
        for number, key in enumerate(KEYS.values()):
            body = {**HERS, "session_id": SESSION if number == 0 else None}
            asked, _ = made.ask(routes()["createRun"], {}, {}, body=body, headers={"Idempotency-Key": key})
            made.ids[key] = asked.body["run_id"]
        waiting = cloud.ask(SECRET, user_id=ANNA)
        cloud.deliver()
        [approval] = cloud.state(waiting).header.approvals
        made.ids |= {"run_id": waiting, "approval_id": approval.approval_id}
        for name in ("setSwitch", "setLimit"):
            body = {**BODIES[name], "reason": SECRET} | ({"user_id": ANNA} if name == "setLimit" else {})
            done, _ = made.ask(routes()[name], {}, OPERATOR, body=body)
            assert done.status == 200, done
        changes, _ = made.ask(routes()["readAudit"], {}, OPERATOR)
        made.ids["change"] = changes.body["changes"][0]["id"]
        yield made
    clients.client.cache_clear()
    wiring._limits.cache_clear()


def require_alike(world: World, route: Route, attacker: str) -> None:
    """Demand that what is Anna's is to the attacker as what is nobody's: in bytes and in calls."""
    claims = ATTACKERS[attacker]
    before = world.untouched()
    theirs, calls = world.ask(route, world.ids, claims)
    nobodys, same_calls = world.ask(route, MISSING, claims)
    assert theirs.status in {403, 404}, theirs
    assert theirs == nobodys
    assert calls == same_calls
    assert SECRET not in str(theirs)
    assert world.untouched() == before


# --- the tables -------------------------------------------------------------------------------------------------------


def test_every_route_and_everything_it_takes_has_its_attack() -> None:
    for route in routes().values():
        for name, where in route.parameters.items():
            known = name in MISSING if where == "path" else (route.name, name) in {**NAMING, **HARMLESS}
            assert known, f"{route.verb} {route.path} takes {name}: write down in tests.attack.routes what it names"
        assert route.verb == "GET" or route.name in BODIES, f"write down a body for {route.verb} {route.path}"


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", with_ids())
@pytest.mark.parametrize("attacker", ATTACKERS)
def test_somebody_elses_is_answered_as_nobodys_with_the_same_calls(world: World, name: str, attacker: str) -> None:
    if (attacker, name) in ALLOWED:
        claims = {**ATTACKERS[attacker], "cognito:groups": "user"}
        answer, calls = world.ask(routes()[name], world.ids, claims)
        assert (answer.status, answer.body["code"], calls) == (403, "role_missing", [])
        return
    require_alike(world, routes()[name], attacker)


@pytest.mark.parametrize("attacker", ["a colleague with every role"])
def test_a_call_that_nobody_asked_about_is_no_approval_whether_its_run_exists_or_not(
    world: World, attacker: str
) -> None:
    route, claims = routes()["decideApproval"], ATTACKERS[attacker]
    made_up = {"approval_id": world.ids["approval_id"].rsplit("_", 2)[0] + "_9_9"}
    theirs, calls = world.ask(route, made_up, claims)
    nobodys, same_calls = world.ask(route, MISSING, claims)
    assert (theirs, calls) == (nobodys, same_calls)
    assert theirs.status == 404


@pytest.mark.parametrize("attacker", ATTACKERS)
def test_a_position_in_somebody_elses_stream_says_nothing(world: World, attacker: str) -> None:
    route, claims = routes()["followRun"], ATTACKERS[attacker]
    for how in ({"headers": {"Last-Event-ID": "3.1.0"}}, {"query": {"after": "3.1.0", "wait": "20"}}):
        theirs, calls = world.ask(route, world.ids, claims, **how)
        nobodys, same_calls = world.ask(route, MISSING, claims, **how)
        assert (theirs, calls) == (nobodys, same_calls)
        assert theirs.status == 404


@pytest.mark.parametrize(("name", "parameter"), [key for key, what in NAMING.items() if what in {"run_id", "change"}])
@pytest.mark.parametrize("attacker", ATTACKERS)
def test_a_cursor_that_is_somebody_elses_is_a_place_like_any_other(
    world: World, name: str, parameter: str, attacker: str
) -> None:
    if (attacker, name) in ALLOWED:
        return
    route, claims = routes()[name], ATTACKERS[attacker]
    theirs = world.ids[NAMING[name, parameter]]
    nobodys = f"{theirs[:-1]}Z"  # nobody has done anything between the two
    found = [world.ask(route, {}, claims, query={parameter: cursor}) for cursor in (theirs, nobodys)]
    assert found[0] == found[1]
    assert SECRET not in str(found[0])


@pytest.mark.parametrize(("name", "parameter"), [key for key, what in NAMING.items() if what == "user"])
@pytest.mark.parametrize("attacker", [who for who in ATTACKERS if who != "a colleague with every role"])
def test_somebody_elses_user_is_a_name_like_any_other(world: World, name: str, parameter: str, attacker: str) -> None:
    route, claims = routes()[name], ATTACKERS[attacker]
    hers, calls = world.ask(route, {}, claims, query={parameter: ANNA})
    nobodys, same_calls = world.ask(route, {}, claims, query={parameter: BEN})
    assert (hers.status, hers.headers, calls) == (nobodys.status, nobodys.headers, same_calls)
    assert str(hers.text).replace(ANNA, BEN) == nobodys.text


# --- keys and sessions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attacker", ATTACKERS)
@pytest.mark.parametrize("body", [HERS, {**HERS, "input": "another question"}], ids=["her body", "another body"])
def test_somebody_elses_key_and_session_are_as_new(world: World, attacker: str, body: dict[str, Any]) -> None:
    """Her own key would find her run, or with another body be a 409; to others it is a key that nobody has used."""
    route, before = routes()["createRun"], world.untouched()

    def comes(**how: Any) -> tuple[Answer, list[str]]:
        # Each for the first time, but for whom the id is the point.
        claims = ATTACKERS[attacker]
        answer, calls = world.ask(
            route, {}, claims if claims["sub"] == ANNA else {**claims, "sub": f"user-{len(world.calls)}"}, **how
        )
        return answer, calls

    hers, calls = comes(body=body, headers={"Idempotency-Key": KEYS[body["input"]]})
    unused = {**body, "session_id": f"nobodys-{len(world.calls)}"}
    nobodys, same_calls = comes(body=unused, headers={"Idempotency-Key": f"nobodys-{len(world.calls)}"})
    assert (hers.status, nobodys.status) == (202, 202), hers
    assert calls == same_calls
    assert hers.body["run_id"] not in world.ids.values()
    assert world.untouched() == before


# --- forged identities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, route in routes().items() if route.ids or route.verb == "GET"])
@pytest.mark.parametrize("attacker", ATTACKERS)
def test_no_header_and_no_query_makes_an_attacker_somebody_else(world: World, name: str, attacker: str) -> None:
    if (attacker, name) in ALLOWED:
        return
    route, claims = routes()[name], ATTACKERS[attacker]
    before = world.untouched()
    plain = world.ask(route, world.ids, claims)
    assert world.ask(route, world.ids, claims, headers=FORGED_HEADERS) == plain
    query = {key: value for key, value in FORGED_QUERY.items() if key not in route.parameters}
    assert world.ask(route, world.ids, claims, query=query) == plain
    assert world.untouched() == before


@pytest.mark.parametrize("name", ["setSwitch", "setLimit"])
@pytest.mark.parametrize("attacker", [who for who in ATTACKERS if who != "a colleague with every role"])
def test_what_another_operator_changes_is_not_the_victims(world: World, name: str, attacker: str) -> None:
    def kept() -> list[str | None]:
        shown = [world.ask(routes()[what], {}, OPERATOR)[0] for what in ("listSwitches", "listLimits", "readAudit")]
        assert all(answer.status == 200 for answer in shown)
        return [answer.text for answer in shown]

    before = kept()
    answer, _ = world.ask(routes()[name], {}, ATTACKERS[attacker], headers=FORGED_HEADERS, query=FORGED_QUERY)
    assert answer.status == (403 if attacker == "a colleague" else 200), answer
    assert SECRET not in str(answer)
    assert kept() == before


@pytest.mark.parametrize("name", [name for name, route in routes().items() if route.has_body])
@pytest.mark.parametrize("forged", FORGED_FIELDS)
def test_an_identity_in_a_body_is_refused_by_name_before_anything_is_read(world: World, name: str, forged: str) -> None:
    route = routes()[name]
    for claims in ATTACKERS.values():
        body = {**BODIES[name], forged: FORGED_FIELDS[forged]}
        answer, calls = world.ask(route, world.ids, claims, body=body)
        assert answer.status in {400, 403}, answer
        assert answer.status == 403 or answer.body["field"] == f"body.{forged}"
        assert calls == []


# --- the guards broken on purpose -------------------------------------------------------------------------------------


REAL_HEADER = DynamoDbRunLog.header


def test_a_log_that_ignored_the_user_would_be_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(log: DynamoDbRunLog, tenant_id: str, run_id: str) -> RunHeader | None:
        header = REAL_HEADER(log, tenant_id, run_id)
        return header and header.model_copy(update={"user_id": BEN})

    monkeypatch.setattr(DynamoDbRunLog, "header", careless)
    for name in ("getRun", "getResult", "followRun"):
        with pytest.raises(AssertionError):
            require_alike(world, routes()[name], "a colleague")


def test_a_log_that_ignored_the_tenant_would_be_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DynamoDbRunLog, "header", lambda log, _, run_id: REAL_HEADER(log, "acme", run_id))
    for name in ("getRun", "getResult", "followRun"):
        with pytest.raises(AssertionError):
            require_alike(world, routes()[name], "another tenant's user of the same id")


def test_one_call_more_for_what_exists_would_be_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(log: DynamoDbRunLog, tenant_id: str, run_id: str) -> RunHeader | None:
        return REAL_HEADER(log, tenant_id, run_id) and REAL_HEADER(log, tenant_id, run_id)

    monkeypatch.setattr(DynamoDbRunLog, "header", careless)
    with pytest.raises(AssertionError):
        require_alike(world, routes()["getRun"], "a colleague")


def test_a_refusal_that_named_what_it_refused_would_be_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(log: DynamoDbRunLog, principal: Any, run_id: str) -> RunHeader:
        header = log.header(principal.tenant_id, run_id)
        raise NotFound("this run is a colleague's" if header else "there is no run with this id")

    monkeypatch.setattr(shim, "require_own_run", careless)
    with pytest.raises(AssertionError):
        require_alike(world, routes()["getRun"], "a colleague")
