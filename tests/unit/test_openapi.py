"""The API's description is valid, complete, and true to what the doors answer."""

import json
import re
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from lambdas import openapi, problems
from tests.unit.test_shim import Api, api  # noqa: F401 - the fixture

ROUTES = {
    "/runs": {"get", "post"},
    "/runs/{run_id}": {"get"},
    "/runs/{run_id}/result": {"get"},
    "/runs/{run_id}/events": {"get"},
    "/runs/{run_id}/cancel": {"post"},
    "/runs/{run_id}/feedback": {"post"},
    "/approvals": {"get"},
    "/approvals/{approval_id}": {"post"},
    "/usage": {"get"},
    "/admin/switches": {"get", "post"},
    "/admin/limits": {"get", "post"},
    "/admin/usage": {"get"},
    "/admin/audit": {"get"},
    "/openapi.json": {"get"},
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    described: dict[str, Any] = json.loads(openapi.document())
    return described


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{m} {path}", op) for path, methods in document["paths"].items() for m, op in methods.items()]


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    validate(document, cls=OpenAPIV31SpecValidator)


def test_it_has_every_route_and_no_other(document: dict[str, Any]) -> None:
    assert {path: set(methods) for path, methods in document["paths"].items()} == ROUTES


def test_it_is_served_to_whoever_is_signed_in(api: Api) -> None:  # noqa: F811 - the fixture
    answer = api("GET", "/openapi.json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.text == openapi.document()


def test_every_operation_needs_an_access_token(document: dict[str, Any]) -> None:
    [scheme] = document["security"]
    assert document["components"]["securitySchemes"][next(iter(scheme))]["scheme"] == "bearer"
    assert all("security" not in operation for _, operation in operations(document))


def test_every_refusal_is_documented_as_a_problem(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        refusals = {status: a for status, a in operation["responses"].items() if int(status) >= 400}
        assert {"401", "403", "429", "500", "503"} <= set(refusals), name
        assert "422" not in refusals
        for answer in refusals.values():
            schema = answer["content"][problems.MEDIA_TYPE]["schema"]
            assert schema == {"$ref": "#/components/schemas/Problem"}


@pytest.mark.parametrize(
    ("operation", "answers"),
    [
        ("createRun", {"202", "400", "409", "413", "415"}),
        ("listRuns", {"200", "400"}),
        ("getRun", {"200", "404"}),
        ("getResult", {"200", "404", "409"}),
        ("followRun", {"200", "204", "400", "404"}),
        ("cancelRun", {"202", "400", "404", "409", "413", "415"}),
        ("judgeRun", {"201", "400", "404", "409", "413", "415"}),
        ("getUsage", {"200"}),
        ("listSwitches", {"200"}),
        ("setSwitch", {"200", "400", "404", "413", "415"}),
        ("listLimits", {"200", "400"}),
        ("setLimit", {"200", "400", "413", "415"}),
        ("getTenantUsage", {"200", "400"}),
        ("readAudit", {"200", "400"}),
        ("getOpenApi", {"200"}),
    ],
)
def test_the_answers_of_an_operation_are_those_it_gives(
    document: dict[str, Any], operation: str, answers: set[str]
) -> None:
    [found] = [op for _, op in operations(document) if op["operationId"] == operation]
    assert set(found["responses"]) == answers | {"401", "403", "429", "500", "503"}


def test_the_headers_that_callers_may_send_are_documented(document: dict[str, Any]) -> None:
    sent = {
        (op["operationId"], parameter["name"].lower())
        for _, op in operations(document)
        for parameter in op.get("parameters", [])
        if parameter["in"] == "header"
    }
    assert sent == {("createRun", "idempotency-key"), ("followRun", "last-event-id")}


def test_unknown_fields_are_documented_as_refused(document: dict[str, Any]) -> None:
    for name in ("NewRunBody", "FeedbackBody"):
        assert document["components"]["schemas"][name]["additionalProperties"] is False


def test_every_schema_is_used_and_every_operation_says_what_it_is_for(document: dict[str, Any]) -> None:
    used = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert set(document["components"]["schemas"]) == used
    for name, operation in operations(document):
        assert not operation["summary"].startswith(("GET", "POST")), name


def test_nothing_internal_stands_in_the_document(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    for inner in ("tenant_id", "traceparent", "epoch", "Room1", "pydantic", "lambdas"):
        assert inner not in text
