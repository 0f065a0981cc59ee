"""What approvers see and decide over HTTP, and what everybody else is told."""

import json
from dataclasses import replace
from typing import Any

import pytest

from agent.admission import MAX_INPUT_BYTES
from agent.errors import ToolLost
from agent.events import WaitingFor
from agent.ports.tool_room import ToolReply
from agent.testing.model import asks, says
from agent.testing.rooms import FixedPolicy
from lambdas import problems, shim
from tests.sample_agent import SampleCloud
from tests.unit.gateway import ANNA, BEN, CLIENT, Answer, Context, request

APPROVER = {"sub": BEN, "cognito:groups": "approver"}
PROSE = "The approver surely agrees: approve this at once."
QUESTION = "Please pay for the lamp."


class Api:
    """The door over a run of Anna's that waits for an approver."""

    def __init__(self, *calls: tuple[str, dict[str, Any]]) -> None:
        self.cloud = SampleCloud(
            asks(*(calls or (("pay", {"item": "lamp"}),)), text=PROSE),
            says("Done."),
            policy=FixedPolicy({"pay": "ask"}),
        )
        self.cloud.approver(BEN)
        self.run = self.cloud.ask(QUESTION, user_id=ANNA)
        self.cloud.deliver()
        self.asked = [asked.approval_id for asked in self.cloud.state(self.run).header.approvals]

    def __call__(self, method: str, path: str, body: object = None, claims: dict[str, Any] | None = None) -> Answer:
        handle = shim.door(self.cloud.room1(), frozenset({CLIENT}))
        return Answer.read(handle(request(method, path, body, claims=claims or APPROVER), Context()))

    def decide(self, decision: str = "approve", *, which: int = 0, **how: Any) -> Answer:
        return self("POST", f"/approvals/{self.asked[which]}", {"decision": decision}, **how)


@pytest.fixture
def api() -> Api:
    return Api()


def refused(answer: Answer, status: int, code: str) -> None:
    assert answer.headers["Content-Type"] == problems.MEDIA_TYPE
    assert (answer.status, answer.body["code"]) == (status, code), answer.body


def test_a_page_stays_within_what_a_function_may_answer_whatever_people_ask() -> None:
    api = Api(*[("pay", {"item": f"{number}"}) for number in range(8)])
    wordy = '"' * MAX_INPUT_BYTES  # each of them takes two bytes in the page, and four in the function's answer
    runs = [api.run, *(api.cloud.ask(wordy, user_id=ANNA) for _ in range(12))]
    api.cloud.deliver()
    handle = shim.door(api.cloud.room1(), frozenset({CLIENT}))
    found: list[str] = []
    query = {"limit": "50"}
    while query:
        answered = handle(request("GET", "/approvals", query=query, claims=APPROVER), Context())
        assert len(json.dumps(answered)) < 6_000_000
        page = Answer.read(answered).body
        found += [shown["approval_id"] for shown in page["approvals"]]
        query = {**query, "cursor": page["next_cursor"]} if page["next_cursor"] else {}
    assert len(found) == len(set(found)) == 8 * len(runs)


def test_an_approver_sees_what_will_run_rendered_by_the_platform_and_none_of_the_models_prose(api: Api) -> None:
    answer = api("GET", "/approvals")
    assert answer.status == 200
    [shown] = answer.body["approvals"]
    header = api.cloud.state(api.run).header
    assert shown == {
        "approval_id": api.asked[0],
        "kind": "approval",
        "tool": "pay",
        "tool_description": "Pay for an item; must never happen twice.",
        "effect": "destructive",
        "tainted": False,
        "idempotency_key": None,
        "arguments": [
            {"name": "item", "title": "Item", "description": None, "value": "lamp", "source": "model"},
            {"name": "count", "title": "Count", "description": None, "value": 1, "source": "model"},
        ],
        "resource": "Item::lamp",
        "facts": {},
        "requested_by": ANNA,
        "input": {"text": QUESTION, "source": "user"},
        "agent_version": "sample-1",
        "created_at": header.created_at.isoformat().replace("+00:00", "Z"),
        "expires_at": header.approvals[0].expires_at.isoformat().replace("+00:00", "Z"),
    }
    assert PROSE not in (answer.text or "")


def test_a_tool_that_was_deployed_anew_lends_its_words_to_no_older_call(api: Api) -> None:
    pay = api.cloud.tools["pay"]
    api.cloud.tools = {"pay": replace(pay, contract=pay.contract.model_copy(update={"description": "Harmless now."}))}
    [shown] = api("GET", "/approvals").body["approvals"]
    assert shown["tool_description"] is None
    assert [argument["title"] for argument in shown["arguments"]] == ["item", "count"]


def test_a_tool_that_is_gone_leaves_its_call_to_be_seen_without_its_words(api: Api) -> None:
    api.cloud.tools = {}
    [shown] = api("GET", "/approvals").body["approvals"]
    assert (shown["tool"], shown["tool_description"]) == ("pay", None)


def test_what_a_run_waits_for_that_is_to_be_cancelled_is_not_shown(api: Api) -> None:
    assert len(api("GET", "/approvals").body["approvals"]) == 1
    api.cloud.cancel(api.run, user_id=ANNA)
    assert api("GET", "/approvals").body["approvals"] == []


def test_a_page_names_the_next(api: Api) -> None:
    other = api.cloud.ask(QUESTION, user_id=ANNA)
    api.cloud.deliver()
    first = api("GET", "/approvals").body
    assert [shown["approval_id"] for shown in first["approvals"]] == [
        api.asked[0],
        api.cloud.state(other).header.approvals[0].approval_id,
    ]
    assert first["next_cursor"] is None
    handle = shim.door(api.cloud.room1(), frozenset({CLIENT}))
    page = Answer.read(handle(request("GET", "/approvals", query={"limit": "1"}, claims=APPROVER), Context())).body
    assert (len(page["approvals"]), page["next_cursor"]) == (1, api.run)
    query = {"limit": "1", "cursor": api.run}
    rest = Answer.read(handle(request("GET", "/approvals", query=query, claims=APPROVER), Context())).body
    assert rest["approvals"] == first["approvals"][1:]


def test_each_call_of_a_turn_is_decided_for_itself() -> None:
    api = Api(("pay", {"item": "lamp"}), ("pay", {"item": "shelf"}))
    assert api.decide("approve", which=1).status == 200
    [left] = api("GET", "/approvals").body["approvals"]
    assert left["approval_id"] == api.asked[0]
    assert api.decide("reject").status == 200
    api.cloud.run_until_idle()
    assert api.cloud.effects == {f"pay {api.run}/call_1_1": 1}


def test_a_decision_is_recorded_and_the_agent_woken(api: Api) -> None:
    answer = api("POST", f"/approvals/{api.asked[0]}", {"decision": "approve", "reason": "Fine."})
    assert (answer.status, answer.body) == (200, {"approval_id": api.asked[0], "decision": "approve"})
    decided = api.cloud.events(api.run)[-1].data
    assert (decided.by, decided.decision, decided.reason) == (BEN, "approve", "Fine.")
    assert list(api.cloud.wake.runs) == [("acme", api.run)]
    assert api("GET", "/approvals").body["approvals"] == []
    refused(api.decide("reject"), 409, "already_decided")


@pytest.mark.parametrize("groups", ["user", "operator", "user,operator", ""])
def test_who_is_no_approver_sees_and_decides_nothing(api: Api, groups: str) -> None:
    claims = {"sub": BEN, "cognito:groups": groups}
    for answer in (api("GET", "/approvals", claims=claims), api.decide(claims=claims)):
        refused(answer, 403, "role_missing")
        assert api.asked[0] not in (answer.text or "")
    assert "approval.decided" not in api.cloud.types(api.run)


def test_who_asked_neither_sees_nor_decides_it(api: Api) -> None:
    claims = {"sub": ANNA, "cognito:groups": "user,approver"}
    assert api("GET", "/approvals", claims=claims).body["approvals"] == []
    refused(api.decide(claims=claims), 403, "own_run")


def test_another_tenants_approver_is_told_the_same_as_of_one_that_never_was(api: Api) -> None:
    claims = {**APPROVER, "tenant_id": "globex"}
    assert api("GET", "/approvals", claims=claims).body["approvals"] == []
    foreign = api.decide(claims=claims)
    refused(foreign, 404, "not_found")
    for made_up in ("apr_00000000000000000000000099_1_0", "apr_1", api.run):
        missing = api("POST", f"/approvals/{made_up}", {"decision": "approve"})
        assert missing.body == foreign.body


def test_what_is_over_or_too_late_is_a_conflict(api: Api) -> None:
    api.cloud.clock.advance(3600)
    refused(api.decide(), 409, "approval_expired")
    assert api("GET", "/approvals").body["approvals"] == []
    api.cloud.run_until_idle()
    refused(api.decide(), 409, "run_over")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body.decision"),
        ({"decision": "maybe"}, "body.decision"),
        ({"decision": True}, "body.decision"),
        ({"decision": "approve", "reason": "x" * 501}, "body.reason"),
        ({"decision": "approve", "by": BEN}, "body.by"),
        ({"decision": "approve", "arguments": {"item": "more"}}, "body.arguments"),
    ],
)
def test_a_wrong_body_is_400_and_the_field_named(api: Api, body: dict[str, Any], field: str) -> None:
    answer = api("POST", f"/approvals/{api.asked[0]}", body)
    assert (answer.status, answer.body["field"]) == (400, field)
    assert "approval.decided" not in api.cloud.types(api.run)


def test_the_requesters_record_says_what_is_waited_for(api: Api) -> None:
    record = api("GET", f"/runs/{api.run}", claims={"sub": ANNA}).body
    assert (record["status"], record["waiting_for"]) == ("waiting", [WaitingFor.APPROVAL])
    [pending] = record["pending_approvals"]
    assert (pending["approval_id"], pending["tool"]) == (api.asked[0], "pay")
    assert "lamp" not in json.dumps(record)


class DoubtfulApi(Api):
    """The door over a run of Anna's one call of which got lost: nobody knows whether the money went out."""

    def __init__(self) -> None:
        super().__init__(("wire", {"item": "lamp"}))

        def lose(*_: object, **__: object) -> ToolReply:
            raise ToolLost("died")

        self.cloud.tool_runner.run = lose  # type: ignore[method-assign]
        self.run = self.cloud.ask(QUESTION, user_id=ANNA)
        self.cloud.deliver()
        self.asked = [asked.approval_id for asked in self.cloud.state(self.run).header.approvals]

    def find(self, decision: str, reason: str = "The bank has it.", **how: Any) -> Answer:
        return self("POST", f"/approvals/{self.asked[0]}", {"decision": decision, "reason": reason}, **how)


def test_an_approver_sees_which_call_has_to_be_looked_into_and_under_which_key() -> None:
    api = DoubtfulApi()
    [shown] = api("GET", "/approvals").body["approvals"]
    assert (shown["approval_id"], shown["kind"], shown["tool"]) == (api.asked[0], "resolution", "wire")
    assert shown["idempotency_key"] == f"{api.run}/call_1_0"
    assert shown["arguments"][0]["value"] == "lamp"
    assert shown["input"] == {"text": QUESTION, "source": "user"}
    [pending] = api("GET", f"/runs/{api.run}", claims={"sub": ANNA}).body["pending_approvals"]
    assert (pending["approval_id"], pending["kind"]) == (api.asked[0], "resolution")


def test_a_finding_is_recorded_once_with_its_reason_and_the_run_goes_on() -> None:
    api = DoubtfulApi()
    refused(api.find("approve"), 400, "invalid_input")
    assert api.find("happened", reason=" ").body["field"] == "body.reason"
    refused(api.find("happened", claims={"sub": ANNA, "cognito:groups": "approver"}), 403, "own_run")
    refused(api.find("happened", claims={**APPROVER, "tenant_id": "globex"}), 404, "not_found")
    answer = api.find("did_not_happen")
    assert (answer.status, answer.body) == (200, {"approval_id": api.asked[0], "decision": "did_not_happen"})
    refused(api.find("happened"), 409, "already_decided")
    assert api("GET", "/approvals").body["approvals"] == []
    api.cloud.run_until_idle()
    assert api.cloud.state(api.run).header.reason == "answered"
