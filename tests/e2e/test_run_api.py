"""The run API through the real gateway: what is refused, how it is said, and whose runs are whose."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.running_cloud import Api, RunningCloud

MISSING = "run_01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.fixture
def colleague(cloud: RunningCloud) -> Iterator[Api]:
    with cloud.api("acme-colleague") as api:
        yield api


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Return the problem document that an answer must be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    return document


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body.input"),
        ({"input": 7}, "body.input"),
        ({"input": ""}, "body.input"),
        ({"input": "  \n "}, "body.input"),
        ({"input": None}, "body.input"),
        ({"input": "a\u0000b"}, "body.input"),
        ({"input": "hello", "tenant_id": "globex"}, "body.tenant_id"),
        ({"input": "hello", "model": "another"}, "body.model"),
        ({"input": "hello", "session_id": "../x"}, "body.session_id"),
        ({"input": "hello", "metadata": {"order": 7}}, "body.metadata.order"),
        ({"input": "hello", "metadata": "x"}, "body.metadata"),
    ],
)
def test_a_wrong_field_is_400_and_named(acme: Api, body: dict[str, Any], field: str) -> None:
    assert problem(acme.http.post("/runs", json=body), 400)["field"] == field


@pytest.mark.parametrize("body", ["[]", '"text"', "{", '{"input": "a", "input": "b"}', '{"input": NaN}', "\ufeff{}"])
def test_what_is_no_plain_json_object_is_400(acme: Api, body: str) -> None:
    answer = acme.http.post("/runs", content=body.encode(), headers={"Content-Type": "application/json"})
    assert problem(answer, 400)["code"]


def test_a_body_too_large_is_413(acme: Api) -> None:
    assert problem(acme.http.post("/runs", json={"input": "x" * 70_000}), 413)["field"] == "body"
    assert problem(acme.http.post("/runs", json={"input": "ö" * 20_000}), 413)["field"] == "body.input"


def test_a_body_that_is_not_json_is_415(acme: Api) -> None:
    answer = acme.http.post("/runs", content=b"input=hello", headers={"Content-Type": "text/plain"})
    assert problem(answer, 415)


def test_a_refused_question_leaves_no_run(acme: Api) -> None:
    before = acme.http.get("/runs").json()
    problem(acme.http.post("/runs", json={"input": "hello", "unknown": 1}), 400)
    assert acme.http.get("/runs").json() == before


@pytest.mark.parametrize("reader", ["acme-colleague", "acme-approver", "acme-operator", "globex-user"])
def test_somebody_elses_run_is_404_exactly_as_a_missing_one(cloud: RunningCloud, acme: Api, reader: str) -> None:
    run_id = acme.ask("Where is order 1001?")
    acme.wait(run_id)
    with cloud.api(reader) as other:
        for verb, path, body in (
            ("GET", "", None),
            ("GET", "/result", None),
            ("GET", "/events", None),
            ("POST", "/cancel", None),
            ("POST", "/feedback", {"rating": "up"}),
        ):
            theirs = problem(other.http.request(verb, f"/runs/{run_id}{path}", json=body), 404)
            missing = problem(other.http.request(verb, f"/runs/{MISSING}{path}", json=body), 404)
            theirs.pop("request_id")
            missing.pop("request_id")
            assert theirs == missing
        assert run_id not in other.http.get("/runs").text
    assert acme.record(run_id)["feedback"] is None


@pytest.mark.parametrize("run_id", ["run_1", "x", "run_01ARZ3NDEKTSV4RRFFQ69G5FA'", "..%2F..%2Fruns"])
def test_an_id_that_is_none_is_404(acme: Api, run_id: str) -> None:
    assert acme.http.get(f"/runs/{run_id}").status_code in {403, 404}


def test_the_same_key_finds_the_same_run_and_another_body_is_409(acme: Api, colleague: Api) -> None:
    headers = {"Idempotency-Key": "a-key-of-this-test"}
    first = acme.http.post("/runs", json={"input": "Good morning"}, headers=headers).json()["run_id"]
    again = acme.http.post("/runs", json={"input": "Good morning"}, headers=headers).json()["run_id"]
    assert again == first
    other = problem(acme.http.post("/runs", json={"input": "Good evening"}, headers=headers), 409)
    assert other["code"] == "idempotency_key_reused"
    theirs = colleague.http.post("/runs", json={"input": "Good evening"}, headers=headers).json()["run_id"]
    assert theirs != first


def test_the_own_runs_are_listed_newest_first_page_by_page(cloud: RunningCloud) -> None:
    with cloud.api("globex-colleague") as api:
        asked = [api.ask(f"Good morning {number}") for number in range(5)]
        listed: list[str] = []
        cursor: str | None = None
        while True:
            page = api.http.get("/runs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
            listed += [run["run_id"] for run in page["runs"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert listed[:5] == asked[::-1]


def test_feedback_is_given_once_and_stands_in_the_record(acme: Api) -> None:
    run_id = acme.ask("Where is order 1001?")
    acme.wait(run_id)
    assert acme.http.post(f"/runs/{run_id}/feedback", json={"rating": "up"}).status_code == 201
    assert acme.record(run_id)["feedback"] == "up"
    answer = acme.http.post(f"/runs/{run_id}/feedback", json={"rating": "down"})
    assert problem(answer, 409)["code"] == "feedback_stands"
    assert problem(acme.http.post(f"/runs/{run_id}/feedback", json={"rating": "so-so"}), 400)["field"] == "body.rating"


def test_the_api_describes_itself(acme: Api) -> None:
    document = acme.http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) >= {"/runs", "/runs/{run_id}", "/runs/{run_id}/events", "/runs/{run_id}/cancel"}


def test_no_answer_is_ever_cached(acme: Api) -> None:
    assert acme.http.get("/runs").headers["cache-control"] == "no-store"
