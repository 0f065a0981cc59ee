"""The run API, driven with the gateway's own event shapes on the ports in memory."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from agent.admission import Room1
from agent.endings import END, EndReason
from agent.errors import LogMoved, StoreUnavailable
from agent.events import Event, FeedbackGiven, RunClaimed, RunCreated, RunEnded
from agent.release import Caps, ModelChoice, Release
from agent.run_header import RunHeader
from agent.testing.clock import FakeClock
from agent.testing.controls import MemoryControlBook
from agent.testing.limits import MemoryLimitBook
from agent.testing.run_log import MemoryRunLog
from lambdas import problems, shim
from tests.unit.gateway import ANNA, BEN, CLIENT, Answer, Context, request

RELEASE = Release(
    name="support-desk-1",
    model=ModelChoice(id="model-1", reason="it stands here for any other model", max_tokens=1000, timeout_s=60),
    prompt_file="support.md",
    tools=("lookup_order",),
    caps=Caps(max_turns=8, max_tool_calls=16, max_duration_s=300, max_wait_s=600, limit_micros=50_000, slice_micros=9),
)
BEN_OF_ACME = {"sub": BEN}
ANNA_OF_GLOBEX = {"tenant_id": "globex"}
MISSING = "run_01KAGJ8QH0000000000000000Z"


class Bell:
    """A wake that remembers; `is_broken` makes it fail."""

    def __init__(self) -> None:
        self.woken: list[str] = []
        self.is_broken = False

    def wake(self, tenant_id: str, run_id: str, *, traceparent: str | None) -> None:
        if self.is_broken:
            raise StoreUnavailable("no agent")
        self.woken.append(run_id)


class Api:
    """The door on ports in memory, and the holder's side of the log."""

    def __init__(self) -> None:
        self.log, self.bell, self.clock = MemoryRunLog(), Bell(), FakeClock()
        self.use(Room1(self.log, self.bell, self.clock, MemoryLimitBook(), RELEASE, MemoryControlBook(self.clock)))

    def use(self, room: Room1) -> None:
        self._handle = shim.door(room, frozenset({CLIENT}))

    def __call__(self, method: str, path: str, body: object = None, **how: Any) -> Answer:
        return Answer.read(self._handle(request(method, path, body, **how), Context()))

    def new_run(self, **how: Any) -> str:
        self.clock.advance(1)
        return str(self("POST", "/runs", {"input": "Where is order 1001?"}, **how).body["run_id"])

    def end(self, run_id: str, reason: EndReason = EndReason.ANSWERED, answer: str | None = "On its way.") -> RunHeader:
        header = self.log.header("acme", run_id)
        assert header
        now = self.clock.now()
        header = self.log.append(header, [RunClaimed(owner="r", epoch=header.epoch + 1, lease_until=now)], at=now)
        status, message = END[reason]
        return self.log.append(header, [RunEnded(status=status, reason=reason, message=message, answer=answer)], at=now)

    def events(self, run_id: str) -> list[Event]:
        return self.log.events("acme", run_id)


@pytest.fixture
def api() -> Api:
    return Api()


def refused(answer: Answer, status: int, code: str, field: str | None = None) -> None:
    assert answer.headers["Content-Type"] == problems.MEDIA_TYPE
    body = answer.body
    assert (answer.status, body["status"], body["code"], body.get("field")) == (status, status, code, field), body
    assert body["detail"]
    assert body["request_id"] == "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"


# Creating


def test_a_question_becomes_event_one_and_the_agent_is_woken(api: Api) -> None:
    body = {"input": "Where is it?", "session_id": "s-1", "metadata": {"channel": "web"}}
    answer = api("POST", "/runs", body)
    run_id = answer.body["run_id"]
    own = f"/runs/{run_id}"
    links = {"self": own, "events": f"{own}/events", "result": f"{own}/result", "cancel": f"{own}/cancel"}
    assert (answer.status, answer.body) == (202, {"run_id": run_id, "status": "queued", "links": links})
    [event] = api.events(run_id)
    assert isinstance(event.data, RunCreated)
    created = event.data
    assert (created.input, created.session_id, created.metadata) == ("Where is it?", "s-1", {"channel": "web"})
    assert (created.principal.tenant_id, created.principal.user_id) == ("acme", ANNA)
    assert (created.release, created.limit_micros) == ("support-desk-1", 50_000)
    assert (created.deadline_at - event.at).total_seconds() == 300
    assert api.bell.woken == [run_id]


def test_a_wake_that_fails_is_no_error_because_the_sweeper_sees_the_run(api: Api) -> None:
    api.bell.is_broken = True
    answer = api("POST", "/runs", {"input": "Where is it?"})
    assert answer.status == 202
    header = api.log.header("acme", answer.body["run_id"])
    assert header
    assert header.due_at is not None


def test_the_same_key_and_body_find_the_same_run_and_another_body_is_refused(api: Api) -> None:
    key = {"Idempotency-Key": "3f1d-a_b.c:1"}
    first = api("POST", "/runs", {"input": "Where is it?"}, headers=key)
    again = api("POST", "/runs", {"metadata": {}, "input": "Where is it?"}, headers={"idempotency-key": "3f1d-a_b.c:1"})
    assert again.body == first.body
    refused(api("POST", "/runs", {"input": "And now?"}, headers=key), 409, "idempotency_key_reused")


@pytest.mark.parametrize("claims", [BEN_OF_ACME, ANNA_OF_GLOBEX])
def test_a_key_belongs_to_one_user_of_one_tenant(api: Api, claims: dict[str, str]) -> None:
    key = {"Idempotency-Key": "k1"}
    mine = api("POST", "/runs", {"input": "Where is it?"}, headers=key)
    theirs = api("POST", "/runs", {"input": "Something else"}, headers=key, claims=claims)
    assert theirs.status == 202
    assert theirs.body["run_id"] != mine.body["run_id"]


@pytest.mark.parametrize("key", ["", " ", "a b", "a,b", "k" * 129, "k\u00e9y", "a/b"])
def test_a_key_of_another_shape_is_refused(api: Api, key: str) -> None:
    answer = api("POST", "/runs", {"input": "Where is it?"}, headers={"Idempotency-Key": key})
    refused(answer, 400, "invalid_input", "header.idempotency-key")
    assert api.bell.woken == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body.input"),
        ({"input": 7}, "body.input"),
        ({"input": None}, "body.input"),
        ({"input": ""}, "body.input"),
        ({"input": " \n\t"}, "body.input"),
        ({"input": ["x"]}, "body.input"),
        ({"input": "x", "tenant_id": "globex"}, "body.tenant_id"),
        ({"input": "x", "user_id": BEN}, "body.user_id"),
        ({"input": "x", "principal": {"roles": ["operator"]}}, "body.principal"),
        ({"input": "x", "session_id": "a b"}, "body.session_id"),
        ({"input": "x", "session_id": "s" * 65}, "body.session_id"),
        ({"input": "x", "metadata": []}, "body.metadata"),
        ({"input": "x", "metadata": {"k": 1}}, "body.metadata.k"),
        ({"input": "x", "metadata": {"k": "v" * 513}}, "body.metadata.k"),
        ({"input": "x", "metadata": {"a b": "v"}}, "body.metadata.a b.[key]"),
        ({"input": "x", "metadata": {f"k{i}": "v" for i in range(17)}}, "body.metadata"),
        ({"input": "a\x00b"}, "body.input"),
        ({"input": "a\x1bb"}, "body.input"),
        ({"input": "a\x85b"}, "body.input"),
        ({"input": "a\ud800b"}, "body.input"),
        ({"input": "x", "metadata": {"k": "\x07"}}, "body.metadata.k"),
        ({"input": "x", "meta\x07data": {}}, "body.meta\N{REPLACEMENT CHARACTER}data"),
        ({"input": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": 1}}}}}}}}}, "body"),
        ([{"input": "x"}], "body"),
        ("x", "body"),
        (7, "body"),
    ],
)
def test_a_body_that_is_not_what_the_api_takes_is_refused_with_the_field_named(
    api: Api, body: object, field: str
) -> None:
    refused(api("POST", "/runs", body), 400, "invalid_input", field)
    assert api.bell.woken == []
    assert api("GET", "/runs").body["runs"] == []


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ('{"input": "x"', "body"),
        ("\ufeff{}", "body"),
        ('{"input": "x", "input": "y"}', "body.input"),
        ('{"input": "x", "metadata": {"k": "1", "k": "2"}}', "body.k"),
        ('{"input": NaN}', "body"),
        ('{"input": "x", "metadata": {"k": -Infinity}}', "body"),
        ('{"input": ' + "[" * 30_000 + "]" * 30_000 + "}", "body"),
        ("null", "body"),
    ],
)
def test_json_that_readers_disagree_about_is_refused(api: Api, raw: str, field: str) -> None:
    refused(api("POST", "/runs", raw=raw), 400, "invalid_input", field)


def test_a_missing_body_is_refused(api: Api) -> None:
    refused(api("POST", "/runs"), 400, "invalid_input", "body")


def test_newlines_tabs_and_every_script_are_welcome(api: Api) -> None:
    text = "Wo ist\n\tBestellung 1001? \N{DELIVERY TRUCK} \u0645\u0631\u062d\u0628\u0627"
    run_id = api("POST", "/runs", {"input": text}).body["run_id"]
    created = api.events(run_id)[0].data
    assert isinstance(created, RunCreated)
    assert created.input == text


def test_bytes_are_counted_not_characters(api: Api) -> None:
    assert api("POST", "/runs", {"input": "x" * 32_768}).status == 202
    refused(api("POST", "/runs", {"input": "\u00e9" * 16_385}, ascii_only=False), 413, "too_large", "body.input")
    raw = json.dumps({"input": "x", "metadata": {"k": "v" * 65_536}})
    refused(api("POST", "/runs", raw=raw), 413, "too_large", "body")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""])
def test_another_media_type_is_refused(api: Api, media_type: str) -> None:
    answer = api("POST", "/runs", {"input": "x"}, headers={"Content-Type": media_type})
    refused(answer, 415, "unsupported_media_type", "header.content-type")


def test_a_charset_parameter_and_a_base64_body_are_understood(api: Api) -> None:
    event = request("POST", "/runs", {"input": "x"}, headers={"Content-Type": "Application/JSON; charset=utf-8"})
    event |= {"body": base64.b64encode(event["body"].encode()).decode(), "isBase64Encoded": True}
    handle = shim.door(
        Room1(api.log, api.bell, api.clock, MemoryLimitBook(), RELEASE, MemoryControlBook(api.clock)),
        frozenset({CLIENT}),
    )
    assert Answer.read(handle(event, Context())).status == 202
    for broken in ("!!!", base64.b64encode(b"\xff\xfe").decode()):
        refused(Answer.read(handle({**event, "body": broken}, Context())), 400, "invalid_input", "body")


# Who calls


@pytest.mark.parametrize(
    "claims",
    [
        {"token_use": "id"},
        {"token_use": None},
        {"client_id": "another"},
        {"client_id": None},
        {"scope": "aws.cognito.signin.user.admin"},
        {"scope": "keepgate/runs2"},
        {"scope": None},
        {"tenant_id": None},
        {"tenant_id": ""},
        {"tenant_id": "ACME"},
        {"tenant_id": "acme#R#x"},
        {"tenant_id": "a" * 41},
        {"sub": None},
        {"sub": "a#b"},
    ],
)
def test_claims_that_make_no_principal_are_refused_before_anything_is_read(
    api: Api, claims: dict[str, str | None]
) -> None:
    refused(api("POST", "/runs", raw="not even json", claims=claims), 401, "not_authenticated")


@pytest.mark.parametrize("authorizer", [None, {}, {"claims": None}, {"principalId": "anna"}])
def test_a_request_without_verified_claims_is_refused(api: Api, authorizer: object) -> None:
    event = request("GET", "/runs")
    event["requestContext"]["authorizer"] = authorizer
    handle = shim.door(
        Room1(api.log, api.bell, api.clock, MemoryLimitBook(), RELEASE, MemoryControlBook(api.clock)),
        frozenset({CLIENT}),
    )
    answer = Answer.read(handle(event, Context()))
    refused(answer, 401, "not_authenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_the_principal_is_never_read_from_a_header(api: Api) -> None:
    run_id = api.new_run(headers={"X-Tenant-Id": "globex", "tenant_id": "globex", "sub": BEN})
    header = api.log.header("acme", run_id)
    assert header
    assert (header.tenant_id, header.user_id) == ("acme", ANNA)


@pytest.mark.parametrize("groups", [None, "", "approver,operator", "users"])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/runs"), ("GET", f"/runs/{MISSING}"), ("POST", f"/runs/{MISSING}/cancel")]
)
def test_asking_the_agent_needs_the_role_of_a_user(api: Api, groups: str | None, method: str, path: str) -> None:
    refused(api(method, path, claims={"cognito:groups": groups}), 403, "role_missing")
    assert api("GET", "/openapi.json", claims={"cognito:groups": groups}).status == 200


# Reading


@pytest.mark.parametrize("claims", [BEN_OF_ACME, ANNA_OF_GLOBEX, {}])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", "", None), ("GET", "/result", None), ("POST", "/cancel", None), ("POST", "/feedback", {"rating": "up"})],
)
def test_a_foreign_run_a_colleagues_and_a_missing_one_are_the_same_404(
    api: Api, method: str, path: str, body: object, claims: dict[str, str]
) -> None:
    run_id = api.new_run() if claims else MISSING
    for asked in (run_id, "run_1", "..", "run_01KAGJ8QH0000000000000000a"):
        answer = api(method, f"/runs/{asked}{path}", body, claims=claims)
        refused(answer, 404, "not_found", "path.run_id")
        assert answer.body["detail"] == "there is no run with this id"
    if claims:
        assert len(api.events(run_id)) == 1


def test_a_run_that_is_not_ones_own_costs_the_same_calls_as_a_missing_one(api: Api) -> None:
    calls: list[str] = []

    class Counting(MemoryRunLog):
        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("_"):
                calls.append(name)
            return super().__getattribute__(name)

    counting = Counting()
    api.log = counting
    api.use(Room1(counting, api.bell, api.clock, MemoryLimitBook(), RELEASE, MemoryControlBook(api.clock)))
    run_id = api.new_run()
    seen = []
    for asked, claims in ((run_id, BEN_OF_ACME), (run_id, ANNA_OF_GLOBEX), (MISSING, {})):
        calls.clear()
        api("GET", f"/runs/{asked}", claims=claims)
        seen.append(list(calls))
    assert seen == [["header"]] * 3


def test_the_record_says_where_a_run_stands(api: Api) -> None:
    run_id = api.new_run()
    record = api("GET", f"/runs/{run_id}").body
    expected: dict[str, object] = {
        "run_id": run_id,
        "agent_version": "support-desk-1",
        "user_id": ANNA,
        "status": "queued",
        "reason": None,
        "message": None,
        "steps_used": 0,
        "tools_called": [],
        "estimated_cost_usd": 0.0,
        "tokens": {"input": 0, "output": 0},
        "risk_level": "low",
        "created_at": "2026-01-01T12:00:01Z",
        "ended_at": None,
    }
    assert expected.items() <= record.items()


def test_runs_are_listed_newest_first_in_bounded_pages_and_only_ones_own(api: Api) -> None:
    mine = [api.new_run() for _ in range(5)]
    api.new_run(claims=BEN_OF_ACME)
    api.new_run(claims=ANNA_OF_GLOBEX)
    listed, cursor = [], None
    for _ in range(3):
        query = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = api("GET", "/runs", query=query).body
        assert len(page["runs"]) <= 2
        listed += [record["run_id"] for record in page["runs"]]
        cursor = page["next_cursor"]
    assert (listed, cursor) == (mine[::-1], None)


@pytest.mark.parametrize(
    ("query", "field"),
    [({"limit": "0"}, "query.limit"), ({"limit": "51"}, "query.limit"), ({"limit": "x"}, "query.limit"),
     ({"cursor": "run_1"}, "query.cursor"), ({"cursor": "T#globex"}, "query.cursor")],
)  # fmt: skip
def test_a_page_that_cannot_be_is_refused(api: Api, query: dict[str, str], field: str) -> None:
    refused(api("GET", "/runs", query=query), 400, "invalid_input", field)


def test_a_result_is_given_once_the_run_is_over(api: Api) -> None:
    run_id = api.new_run()
    refused(api("GET", f"/runs/{run_id}/result"), 409, "run_not_over")
    api.end(run_id)
    result = {"run_id": run_id, "status": "completed", "reason": "answered", "message": "The agent answered."}
    assert api("GET", f"/runs/{run_id}/result").body == {**result, "answer": "On its way."}


def test_the_result_of_a_capped_run_says_so_to_the_user(api: Api) -> None:
    run_id = api.new_run()
    api.end(run_id, EndReason.MAX_TURNS, None)
    body = api("GET", f"/runs/{run_id}/result").body
    assert (body["status"], body["reason"], body["answer"]) == ("failed", "max_turns", None)
    assert body["message"] == END[EndReason.MAX_TURNS][1]
    assert api("GET", f"/runs/{run_id}").body["reason"] == "max_turns"


# Cancelling and judging


def test_cancelling_appends_the_wish_once_and_wakes_the_agent_each_time(api: Api) -> None:
    run_id = api.new_run()
    for _ in range(2):
        answer = api("POST", f"/runs/{run_id}/cancel")
        assert (answer.status, answer.body["run_id"]) == (202, run_id)
    assert [event.type for event in api.events(run_id)] == ["run.created", "cancel.requested"]
    assert api.bell.woken == [run_id] * 3
    assert api("GET", f"/runs/{run_id}").body["cancel_requested"] is True


def test_a_run_that_is_over_can_not_be_cancelled(api: Api) -> None:
    run_id = api.new_run()
    api.end(run_id)
    refused(api("POST", f"/runs/{run_id}/cancel"), 409, "run_over")
    assert api.events(run_id)[-1].type == "run.ended"


class Busy(MemoryRunLog):
    """A log whose holder appends before each of the next `races` outside appends."""

    races = 0

    def append(self, header: RunHeader, payloads: Any, *, at: Any, outside: bool = False) -> RunHeader:
        if outside and self.races:
            self.races -= 1
            raise LogMoved("the holder was faster")
        return super().append(header, payloads, at=at, outside=outside)


@pytest.mark.parametrize(("races", "status"), [(0, 202), (7, 202), (8, 503)])
def test_a_cancel_that_loses_races_decides_again_within_a_bound(api: Api, races: int, status: int) -> None:
    api.log = busy = Busy()
    api.use(Room1(busy, api.bell, api.clock, MemoryLimitBook(), RELEASE, MemoryControlBook(api.clock)))
    run_id = api.new_run()
    busy.races = races
    answer = api("POST", f"/runs/{run_id}/cancel")
    assert answer.status == status
    if status == 503:
        refused(answer, 503, "log_contended")
        assert answer.headers["Retry-After"] == "1"
        assert len(api.events(run_id)) == 1


@pytest.mark.parametrize("is_over", [True, False])
def test_a_run_is_judged_once_before_or_after_its_end(api: Api, is_over: bool) -> None:
    run_id = api.new_run()
    if is_over:
        api.end(run_id)
    answer = api("POST", f"/runs/{run_id}/feedback", {"rating": "down", "comment": "wrong order"})
    assert (answer.status, answer.body["feedback"]) == (201, "down")
    given = api.events(run_id)[-1].data
    assert isinstance(given, FeedbackGiven)
    assert given.comment == "wrong order"
    refused(api("POST", f"/runs/{run_id}/feedback", {"rating": "up"}), 409, "feedback_stands")


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "body.rating"), ({"rating": "meh"}, "body.rating"), ({"rating": "up", "comment": "c" * 2001}, "body.comment"),
     ({"rating": "up", "by": BEN}, "body.by")],
)  # fmt: skip
def test_a_judgement_of_another_shape_is_refused(api: Api, body: object, field: str) -> None:
    refused(api("POST", f"/runs/{api.new_run()}/feedback", body), 400, "invalid_input", field)


# What is never said


def test_what_went_wrong_inside_stays_inside(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryRunLog):
        def header(self, tenant_id: str, run_id: str) -> RunHeader | None:
            raise RuntimeError(f"T#{tenant_id}#R#{run_id} in table keepgate-prod-runs")

    api.use(Room1(Broken(), api.bell, api.clock, MemoryLimitBook(), RELEASE, MemoryControlBook(api.clock)))
    answer = api("GET", f"/runs/{MISSING}")
    refused(answer, 500, "internal_error")
    for inner in ("RuntimeError", "keepgate-prod", "T#acme", "Traceback", ".py"):
        assert inner not in (answer.text or "")
    [line] = caplog.records
    assert line.__dict__["error"] == "RuntimeError"
    assert line.__dict__["gateway_request_id"] == answer.body["request_id"]
    assert "keepgate-prod" not in str(line.__dict__)


def test_a_path_that_leads_nowhere_is_a_problem_document(api: Api) -> None:
    refused(api("GET", "/nowhere"), 404, "not_found")
    refused(api("DELETE", "/runs"), 404, "not_found")


def test_no_answer_may_be_kept_by_caches(api: Api) -> None:
    for answer in (api("GET", "/runs"), api("GET", "/nowhere"), api("GET", "/runs", claims={"token_use": "id"})):
        assert answer.headers["Cache-Control"] == "no-store"


def test_ids_are_drawn_from_the_given_source(api: Api) -> None:
    api.use(
        replace(
            Room1(api.log, api.bell, api.clock, MemoryLimitBook(), RELEASE, MemoryControlBook(api.clock)),
            new_run_id=lambda now: MISSING,
            new_nonce=lambda: "n",
        )
    )
    assert api.new_run() == MISSING
    assert api.events(MISSING)[0].nonce == "n"
