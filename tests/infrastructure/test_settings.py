"""The environment that the stacks write is the one that the functions read."""

from dataclasses import fields, replace

import pytest
from pydantic import ValidationError

from lambdas import settings
from stacks.config import DEV, PROD
from tests.infrastructure.templates import Deployment

SETTINGS: dict[str, type[settings.Settings]] = {
    "shim": settings.ShimSettings,
    "stream_events": settings.StreamEventsSettings,
    "add_claims": settings.AddClaimsSettings,
    "run_agent": settings.RunAgentSettings,
    "run_tool": settings.RunToolSettings,
    "work_tool_queue": settings.WorkToolQueueSettings,
    "sweep_runs": settings.SweepRunsSettings,
    "administer": settings.AdministerSettings,
}


def _environment(function: dict[str, dict[str, dict[str, object]]]) -> dict[str, str]:
    """Return a function's variables, an expression standing for the text that it will be."""
    return {name: v if isinstance(v, str) else "(deployed)" for name, v in function["Environment"]["Variables"].items()}


def test_each_function_can_read_its_settings_and_is_told_nothing_else(deployment: Deployment) -> None:
    for door, function in deployment.functions().items():
        environment = _environment(function)
        read = SETTINGS[door].from_environment(environment)
        assert read.service == door
        assert read.stage == deployment.stage.name
        assert set(environment) == {settings.PREFIX + f.name.upper() for f in fields(SETTINGS[door])}


def test_the_limits_that_functions_read_are_the_stages(deployment: Deployment) -> None:
    for door in ("shim", "run_agent", "work_tool_queue", "sweep_runs", "administer"):
        read = SETTINGS[door].from_environment(_environment(deployment.functions()[door]))
        for limit in (
            "user_day_limit_micros",
            "tenant_month_limit_micros",
            "platform_month_limit_micros",
            "user_runs_limit",
            "tenant_runs_limit",
            "tenant_jobs_limit",
        ):
            assert getattr(read, limit) == getattr(deployment.stage, limit)


def test_tool_calls_of_tenants_are_kept_apart_where_the_stage_says_so_and_their_callers_know(
    deployment: Deployment,
) -> None:
    functions, isolates = deployment.functions(), deployment.stage.isolates_tenants
    for door, function in functions.items():
        apart = door == "run_tool" and isolates
        assert function.get("TenancyConfig") == ({"TenantIsolationMode": "PER_TENANT"} if apart else None)
    for door in ("run_agent", "work_tool_queue"):
        read = SETTINGS[door].from_environment(_environment(functions[door]))
        assert (read.tool_function, read.isolates_tenants) == (functions["run_tool"]["FunctionName"], isolates)


def test_what_keeps_tenants_apart_is_a_function_of_another_name_because_it_cannot_be_changed() -> None:
    apart, together = replace(DEV, isolates_tenants=True), replace(DEV, isolates_tenants=False)
    assert apart.function_name("run_tool") != together.function_name("run_tool")
    assert apart.function_name("shim") == together.function_name("shim")


def test_a_tenant_has_no_more_jobs_in_the_queue_than_run_at_a_time(deployment: Deployment) -> None:
    assert deployment.stage.tenant_jobs_limit * 2 <= deployment.stage.queue_concurrency


def test_a_field_of_a_stage_can_be_given_for_one_deployment() -> None:
    changed = DEV.overridden({"alarm_email": "ops@example.com", "create_rate": "7", "aws:cdk:anything": True})
    assert (changed.alarm_email, changed.create_rate) == ("ops@example.com", 7)
    assert changed.overridden({}) == changed


def test_a_wrong_value_for_a_field_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="create_rate"):
        PROD.overridden({"create_rate": "many"})


def test_a_stage_cannot_be_renamed_by_an_override() -> None:
    assert PROD.overridden({"name": "dev"}) == PROD
