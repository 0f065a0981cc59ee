"""What the gateway and the firewall answer on their own: problem documents with the headers of every other answer."""

import json
from dataclasses import replace
from typing import Any

import pytest

from lambdas.headers import REQUEST_HEADERS, SECURITY
from stacks.config import DEV, PROD
from stacks.constructs import problems
from tests.infrastructure.templates import Deployment, synthesize

HEADER = "gatewayresponse.header."
ONE, TWO = "https://app.example.com", "https://admin.example.com:8443"


@pytest.fixture(scope="module")
def open_to_two(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    return synthesize(replace(DEV, allowed_origins=f"{ONE}, {TWO}"), tmp_path_factory.mktemp("open-to-two"))


def _answers(deployment: Deployment) -> dict[str, dict[str, Any]]:
    return {answer["ResponseType"]: answer for answer in deployment.of_type("AWS::ApiGateway::GatewayResponse")}


def _headers(answer: dict[str, Any]) -> dict[str, str]:
    return {name.removeprefix(HEADER): value for name, value in answer["ResponseParameters"].items()}


def _preflights(deployment: Deployment) -> list[dict[str, Any]]:
    return [m for m in deployment["Edge"].properties("AWS::ApiGateway::Method") if m["HttpMethod"] == "OPTIONS"]


def _preflight_headers(method: dict[str, Any]) -> dict[str, str]:
    [answer] = method["Integration"]["IntegrationResponses"]
    [declared] = method["MethodResponses"]
    assert set(answer["ResponseParameters"]) == set(declared["ResponseParameters"]), "else the gateway drops it"
    return {name.rpartition(".")[2]: value[1:-1] for name, value in answer["ResponseParameters"].items()}


def test_every_kind_of_refusal_the_gateway_knows_is_a_problem_document(deployment: Deployment) -> None:
    answers = _answers(deployment)
    assert set(answers) == {kind.response_type for kind in problems.PROBLEMS}
    # AWS's list, but for the types of WebSocket and private APIs.
    assert len(answers) == 21
    for kind, answer in answers.items():
        problem = json.loads(answer["ResponseTemplates"]["application/json"])
        assert {"type", "title", "status", "detail", "code", "request_id"} <= set(problem)
        assert problem["request_id"] == "$context.requestId"
        assert str(problem["status"]) == answer["StatusCode"], kind
        assert problem["status"] == 500 or kind != "DEFAULT_5XX"
        headers = _headers(answer)
        assert headers["Content-Type"] == "'application/problem+json'"
        assert ("Retry-After" in headers) is (problem["status"] in {429, 503}), kind
        assert ("WWW-Authenticate" in headers) is (problem["status"] == 401), kind


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("UNAUTHORIZED", 401, "not_authenticated"),
        ("EXPIRED_TOKEN", 401, "not_authenticated"),
        ("ACCESS_DENIED", 403, "forbidden"),
        ("WAF_FILTERED", 403, "request_blocked"),
        ("MISSING_AUTHENTICATION_TOKEN", 404, "not_found"),
        ("REQUEST_TOO_LARGE", 413, "too_large"),
        ("UNSUPPORTED_MEDIA_TYPE", 415, "unsupported_media_type"),
        ("THROTTLED", 429, "too_many_requests"),
        ("INTEGRATION_TIMEOUT", 503, "try_later"),
        ("INTEGRATION_FAILURE", 503, "try_later"),
        ("DEFAULT_5XX", 500, "internal_error"),
    ],
)
def test_a_refusal_has_the_status_and_the_code_of_the_api(prod: Deployment, kind: str, status: int, code: str) -> None:
    problem = json.loads(_answers(prod)[kind]["ResponseTemplates"]["application/json"])
    assert (problem["status"], problem["code"]) == (status, code)


def test_no_refusal_repeats_what_the_caller_sent(deployment: Deployment) -> None:
    for answer in _answers(deployment).values():
        template = answer["ResponseTemplates"]["application/json"]
        assert template.replace("$context.requestId", "").find("$") == -1


def test_refusals_of_the_gateway_carry_the_security_headers(deployment: Deployment) -> None:
    for answer in _answers(deployment).values():
        headers = _headers(answer)
        assert {name: headers[name] for name in SECURITY} == {n: f"'{value}'" for n, value in SECURITY.items()}


def test_refusals_of_the_firewall_are_problem_documents_with_the_security_headers(prod: Deployment) -> None:
    acl = prod["Edge"].only("AWS::WAFv2::WebACL")
    blocks = {r["Name"]: r["Action"]["Block"] for r in acl["Rules"] if "Block" in r.get("Action", {})}
    own = {name: block["CustomResponse"] for name, block in blocks.items() if "CustomResponse" in block}
    assert set(own) == {"body-too-large", "rate-by-address", "reconnects-by-address"}
    for response in own.values():
        body = acl["CustomResponseBodies"][response["CustomResponseBodyKey"]]
        assert json.loads(body["Content"])["status"] == response["ResponseCode"]
        headers = {header["Name"]: header["Value"] for header in response["ResponseHeaders"]}
        assert SECURITY.items() <= headers.items()
        assert ("Retry-After" in headers) is (response["ResponseCode"] == 429)
    # What a rule blocks without an answer of its own is the gateway's WAF_FILTERED.
    assert set(blocks) - set(own) == {"attack-in-body"}


@pytest.mark.parametrize("stage", ["dev", "prod"])
def test_no_other_origin_is_allowed_unless_it_is_named(deployments: dict[str, Deployment], stage: str) -> None:
    deployment = deployments[stage]
    assert deployment.stage.allowed_origins == ""
    assert _preflights(deployment) == []
    assert not any("Access-Control-Allow-Origin" in _headers(answer) for answer in _answers(deployment).values())
    assert deployment.functions()["shim"]["Environment"]["Variables"]["KEEPGATE_ALLOWED_ORIGINS"] == ""


def test_one_allowed_origin_stands_in_every_answer(deployments: dict[str, Deployment]) -> None:
    local = deployments["local"]
    origin = local.stage.allowed_origins
    assert origin
    for answer in _answers(local).values():
        headers = _headers(answer)
        assert (headers["Access-Control-Allow-Origin"], headers["Vary"]) == (f"'{origin}'", "'Origin'")
    assert {_preflight_headers(m)["Access-Control-Allow-Origin"] for m in _preflights(local)} == {origin}
    for door in ("shim", "stream_events"):
        assert local.functions()[door]["Environment"]["Variables"]["KEEPGATE_ALLOWED_ORIGINS"] == origin


def test_the_gateway_answers_a_preflight_of_each_resource_with_its_methods_and_no_code(open_to_two: Deployment) -> None:
    template = open_to_two["Edge"]
    verbs: dict[str, set[str]] = {}
    for method in template.properties("AWS::ApiGateway::Method"):
        verbs.setdefault(method["ResourceId"]["Ref"], set()).add(method["HttpMethod"])
    assert all("OPTIONS" in known for known in verbs.values())
    for method in _preflights(open_to_two):
        assert method["Integration"]["Type"] == "MOCK"
        assert method["AuthorizationType"] == "NONE"
        headers = _preflight_headers(method)
        assert SECURITY.items() <= headers.items()
        assert set(headers["Access-Control-Allow-Methods"].split(",")) == verbs[method["ResourceId"]["Ref"]] - {
            "OPTIONS"
        }
        assert set(headers["Access-Control-Allow-Headers"].split(",")) == set(REQUEST_HEADERS)
        assert headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in headers


def test_of_several_origins_the_preflight_names_the_callers_and_only_if_it_is_allowed(open_to_two: Deployment) -> None:
    for method in _preflights(open_to_two):
        assert _preflight_headers(method)["Access-Control-Allow-Origin"] == ONE
        [answer] = method["Integration"]["IntegrationResponses"]
        template = answer["ResponseTemplates"]["application/json"]
        assert f'#if($origin == "{TWO}")' in template
        assert template.count("responseOverride") == 1


def test_with_several_origins_the_gateways_constants_are_for_whoever_asked(open_to_two: Deployment) -> None:
    for answer in _answers(open_to_two).values():
        headers = _headers(answer)
        assert headers["Access-Control-Allow-Origin"] == "method.request.header.Origin"
        assert headers["Vary"] == "'Origin'"
        assert "Access-Control-Allow-Credentials" not in headers


@pytest.mark.parametrize(
    "origins",
    [
        "*",
        "null",
        "https://*.example.com",
        "http://app.example.com",
        "https://a.example.com/",
        "a.example.com",
        "https://",
    ],
)
def test_what_is_no_origin_stops_the_synth(origins: str) -> None:
    with pytest.raises(ValueError, match="allowed_origins"):
        PROD.overridden({"allowed_origins": f"{ONE},{origins}"})
