"""What every answer carries over HTTP, whoever gives it: headers, problem documents, and leave for pages elsewhere."""

from typing import Any

import httpx
import pytest

from lambdas.headers import SECURITY
from tests.e2e.running_cloud import Api, RunningCloud
from tests.e2e.test_run_api import MISSING, problem

PAGE, ELSEWHERE = "http://localhost:3000", "https://evil.example.com"


def _answers(cloud: RunningCloud, acme: Api, **headers: str) -> dict[str, httpx.Response]:
    """Return one answer of each kind, by who gives it."""
    with cloud.anonymous() as http:
        return {
            "the shim": acme.http.get("/runs", headers=headers),
            "the shim's refusal": acme.http.get(f"/runs/{MISSING}", headers=headers),
            "the event stream's refusal": acme.http.get(f"/runs/{MISSING}/events", headers=headers),
            "the gateway: no token": http.get("/runs", headers=headers),
            "the gateway: no route": acme.http.get("/nothing", headers=headers),
            "the gateway: no such method": acme.http.delete("/runs", headers=headers),
            "the gateway: no object": acme.http.post("/runs", json=["no object"], headers=headers),
        }


def test_every_answer_carries_the_security_headers(cloud: RunningCloud, acme: Api) -> None:
    for who, answer in _answers(cloud, acme).items():
        found = {name: answer.headers.get(name) for name in SECURITY}
        assert found == dict(SECURITY), who


def test_every_refusal_of_the_gateway_is_a_problem_document(cloud: RunningCloud, acme: Api) -> None:
    answers = _answers(cloud, acme)
    for who, status, code in (
        ("the gateway: no token", 401, "not_authenticated"),
        ("the gateway: no route", 404, "not_found"),
        ("the gateway: no such method", 404, "not_found"),
        ("the gateway: no object", 400, "invalid_input"),
    ):
        document = problem(answers[who], status)
        assert document["code"] == code
        assert document["request_id"]


def test_a_page_of_an_allowed_origin_reads_every_answer_refusals_included(cloud: RunningCloud, acme: Api) -> None:
    for who, answer in _answers(cloud, acme, Origin=PAGE).items():
        assert answer.headers.get("access-control-allow-origin") == PAGE, who
        assert "Origin" in answer.headers["vary"], who
        assert "access-control-allow-credentials" not in answer.headers, who


def test_a_page_elsewhere_reads_none(cloud: RunningCloud, acme: Api) -> None:
    for who, answer in _answers(cloud, acme, Origin=ELSEWHERE).items():
        assert answer.headers.get("access-control-allow-origin") in {None, PAGE}, who


def _openapi(acme: Api) -> dict[str, Any]:
    document: dict[str, Any] = acme.http.get("/openapi.json").json()
    return document


@pytest.mark.parametrize("origin", [PAGE, ELSEWHERE])
def test_the_gateway_answers_a_preflight_of_every_route_without_a_token(
    cloud: RunningCloud, acme: Api, origin: str
) -> None:
    with cloud.anonymous(Origin=origin) as http:
        for path, operations in _openapi(acme)["paths"].items():
            for verb in operations:
                asked = {"Access-Control-Request-Method": verb.upper()}
                answer = http.options(path.replace("{run_id}", MISSING), headers=asked)
                assert answer.status_code == 204, path
                assert answer.headers["access-control-allow-origin"] == PAGE
                assert verb.upper() in answer.headers["access-control-allow-methods"].split(",")
                assert "Authorization" in answer.headers["access-control-allow-headers"].split(",")
                assert SECURITY.items() <= {name: answer.headers.get(name) for name in SECURITY}.items()
