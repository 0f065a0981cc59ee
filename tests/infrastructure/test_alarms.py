"""Each alarm asks for a metric that is really told, under exactly its dimensions, and somebody hears of it."""

from pathlib import Path
from typing import Any

import pytest

from agent.endings import EndReason
from tests.infrastructure.templates import Deployment

PLATFORMS_FAULTS = {
    EndReason.BUDGET_PLATFORM,
    EndReason.INTERNAL_ERROR,
    EndReason.MODEL_UNAVAILABLE,
    EndReason.POLICY_UNAVAILABLE,
    EndReason.RELEASE_UNAVAILABLE,
}
"""Ends that neither users nor tenants bring about, nor can mend."""


@pytest.fixture
def alarms(prod: Deployment) -> list[dict[str, Any]]:
    return prod["Observability"].properties("AWS::CloudWatch::Alarm")


def dimensions(alarm: dict[str, Any]) -> dict[str, Any]:
    return {dimension["Name"]: dimension["Value"] for dimension in alarm.get("Dimensions", [])}


def test_each_function_has_an_alarm_for_its_errors_and_one_for_its_throttles(
    prod: Deployment, alarms: list[dict[str, Any]]
) -> None:
    names = {f["FunctionName"] for f in prod.functions().values()}
    for metric in ("Errors", "Throttles"):
        found = [dimensions(a) for a in alarms if (a["Namespace"], a["MetricName"]) == ("AWS/Lambda", metric)]
        assert sorted(map(str, found)) == sorted(str({"FunctionName": name}) for name in names)


def test_each_end_that_is_the_platforms_fault_has_an_alarm_on_the_metric_as_the_agent_tells_it(
    alarms: list[dict[str, Any]],
) -> None:
    """`tests/unit/test_telemetry.py` holds the telling to the same namespace, names and dimensions."""
    ends = [dimensions(a) for a in alarms if (a["Namespace"], a["MetricName"]) == ("Keepgate", "RunsEnded")]
    assert all(set(end) == {"service", "stage", "reason"} for end in ends)
    assert {(end["service"], end["stage"]) for end in ends} == {("run_agent", "prod")}
    assert {end["reason"] for end in ends} == PLATFORMS_FAULTS


def test_it_is_heard_when_the_sweeper_is_not_told_of_dead_invocations(alarms: list[dict[str, Any]]) -> None:
    [found] = [a for a in alarms if a["MetricName"] == "DestinationDeliveryFailures"]
    assert dimensions(found) == {"FunctionName": "keepgate-prod-run-agent"}


def test_only_a_sweeper_that_says_nothing_is_alarming_by_silence(alarms: list[dict[str, Any]]) -> None:
    silent = [a for a in alarms if a["TreatMissingData"] != "notBreaching"]
    assert [(a["MetricName"], dimensions(a)) for a in silent] == [
        ("Invocations", {"FunctionName": "keepgate-prod-sweep-runs"})
    ]


def test_each_alarm_says_what_to_do_and_tells_the_topic(prod: Deployment, alarms: list[dict[str, Any]]) -> None:
    [topic] = prod["Observability"].of_type("AWS::SNS::Topic")
    for alarm in alarms:
        assert ":" in alarm["AlarmDescription"], alarm["AlarmName"]
        assert alarm["AlarmActions"] == [{"Ref": topic}]


def test_what_the_alarms_cost_stands_in_the_sum(alarms: list[dict[str, Any]]) -> None:
    sum_of_costs = Path("docs/decisions/0007-idle-cost.md").read_text(encoding="utf-8")
    assert f"| {len(alarms)} alarms, 0.10 USD each | {len(alarms) / 10:.2f} |" in sum_of_costs
