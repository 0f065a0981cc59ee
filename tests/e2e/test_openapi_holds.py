"""The API's description held against the API: schemathesis sends what it allows, and what it forbids.

Every route that the description lists is taken, with generated ids and with ids that exist. No answer may be a 5xx or
one that is not described: its status, its media type, its body's schema. What the description allows must not be
refused as malformed, what it forbids must not be accepted.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi import checks

from agent.aws.tenant_data import load
from lambdas import openapi
from support_desk import seed
from tests.e2e.running_cloud import RunningCloud

EXAMPLES = 10
"""Of each kind, for each route: hundreds of requests in all, in well under a minute."""
CONFIG = SchemathesisConfig.from_dict({"generation": {"with-security-parameters": False}})
DESCRIBED = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
TENANT, EVERY_ROLE = "described", ("user", "approver", "operator")
BEYOND_SCHEMA = {
    "followRun": {"query.after", "header.last-event-id"},  # well-formed, and yet no event of this run
    # Which kinds take a name; that an end is given with a switch put on; and 60.0 is an integer to JSON Schema alone.
    "setSwitch": {"body", "body.name", "body.for_s"},
    "setLimit": {"body.name", "body.value"},  # which limits there are, and how high the platform lets them be
}
"""Fields that may be refused although the description allows them, because it has no words for why."""
ROUTES = {
    operation["operationId"]: (path, verb)
    # What operators change comes last, because it may stop everything else.
    for path, operations in sorted(
        json.loads(openapi.document())["paths"].items(), key=lambda item: item[0].startswith("/admin/")
    )
    for verb, operation in operations.items()
}


@dataclass(frozen=True)
class Target:
    """The API, somebody with every role, and ids that exist for them."""

    url: str
    headers: dict[str, str]
    existing: dict[str, str]


@pytest.fixture(scope="module")
def target(cloud: RunningCloud) -> Iterator[Target]:
    # A tenant of their own: what operators switch off here must not stop anybody else's tests.
    load(cloud.aws("dynamodb"), cloud.output("TenantTable"), TENANT, islice(seed.items("acme"), 50))
    with cloud.newcomer(TENANT, ("user",)) as asker, cloud.newcomer(TENANT, EVERY_ROLE) as api:
        waiting = asker.ask("Please refund 12.50 EUR of order 1001")
        run_id = api.ask("Where is order 1001?")
        [approval] = asker.wait_until(waiting, "waiting")["pending_approvals"]
        api.wait(run_id)
        existing = {"run_id": run_id, "approval_id": approval["approval_id"]}
        yield Target(cloud.url, dict(api.http.headers), existing)


def _send(case: Case, target: Target, also: Callable[..., object]) -> None:
    answer = case.call(base_url=target.url, headers={"Authorization": target.headers["authorization"]})
    refused = answer.json() if answer.status_code == 400 else {}
    excused = refused.get("field") in BEYOND_SCHEMA.get(case.operation.definition.raw["operationId"], ())
    case.validate_response(answer, checks=DESCRIBED if excused else [*DESCRIBED, also])


def _try(strategy: Any, send: Callable[[Case], None]) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(case: Case) -> None:
        send(case)

    each()


def test_the_api_serves_the_description_that_is_tested(cloud: RunningCloud) -> None:
    with cloud.api("acme-user") as acme:
        assert acme.http.get("/openapi.json").text == openapi.document()


@pytest.mark.parametrize("ids", ["made up", "existing"])
@pytest.mark.parametrize("route", ROUTES)
def test_every_answer_is_one_that_the_description_has(target: Target, route: str, ids: str) -> None:
    path, verb = ROUTES[route]
    operation = schemathesis.openapi.from_dict(json.loads(openapi.document()), config=CONFIG)[path][verb]
    fixed = {name: target.existing[name] for name in target.existing if f"{{{name}}}" in path}
    if ids == "existing" and not fixed:
        return  # without an id in its path there is nothing else to try
    draw = partial(operation.as_strategy, path_parameters=fixed if ids == "existing" else None)
    _try(draw(GenerationMode.POSITIVE), lambda case: _send(case, target, checks.positive_data_acceptance))
    if operation.body or operation.query or operation.headers:  # else nothing can be wrong
        _try(draw(GenerationMode.NEGATIVE), lambda case: _send(case, target, checks.negative_data_rejection))
