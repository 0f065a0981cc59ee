"""Each alarm asks for a metric that is really told, under exactly its dimensions, and somebody hears of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from aws_lambda_powertools import Logger

from agent.endings import EndReason
from agent.testing.model import says
from lambdas.settings import Settings
from lambdas.telemetry import Telemetry
from tests.infrastructure.templates import Deployment
from tests.sample_agent import QUESTION, SampleCloud

Series = tuple[str, frozenset[tuple[str, str]]]
"""A metric's name and dimensions: CloudWatch knows no other combination of a name's dimensions than those counted."""

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


def test_alarms_on_what_the_functions_count_name_it_as_they_do(
    prod: Deployment, alarms: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    counted: set[Series] = set()
    cloud = SampleCloud(says("Never."))
    header = cloud.state(cloud.ask(QUESTION)).header
    for door in prod.functions():
        settings = Settings(stage="prod", service=door, trace_exporter="none")
        tell = Telemetry(settings, Logger(service="test", level="CRITICAL"))
        if door == "run_agent":
            for reason in EndReason:
                tell.count_run(header.model_copy(update={"reason": reason}))
        if door == "run_tool":
            tell.count_stopped_tool(next(iter(cloud.tools.values())).contract)
    for line in capsys.readouterr().out.splitlines():
        told = json.loads(line)
        for group in told["_aws"]["CloudWatchMetrics"]:
            for names in group["Dimensions"]:
                counted |= {(m["Name"], frozenset((name, told[name]) for name in names)) for m in group["Metrics"]}
    ours = [alarm for alarm in alarms if alarm["Namespace"] == "Keepgate"]
    assert ours
    for alarm in ours:
        assert (alarm["MetricName"], frozenset(dimensions(alarm).items())) in counted, alarm["AlarmName"]


def test_a_dead_letter_and_a_job_that_waits_too_long_call_a_person(
    prod: Deployment, alarms: list[dict[str, Any]]
) -> None:
    jobs, dead = (
        {
            name
            for name, queue in prod["Agent"].of_type("AWS::SQS::Queue").items()
            if ("RedrivePolicy" in queue["Properties"]) is has_dead_letters
        }
        for has_dead_letters in (True, False)
    )
    watched = {
        a["MetricName"]: exported(prod, a["Dimensions"][0]["Value"]) for a in alarms if a["Namespace"] == "AWS/SQS"
    }
    assert {watched["ApproximateAgeOfOldestMessage"]} == jobs
    assert {watched["ApproximateNumberOfMessagesVisible"]} == dead


def exported(prod: Deployment, imported: dict[str, str]) -> str:
    """Return the logical id of what another stack exports under this name."""
    exports = [o for t in prod.parts.values() for o in t.document.get("Outputs", {}).values() if "Export" in o]
    [value] = [o["Value"] for o in exports if o["Export"]["Name"] == imported["Fn::ImportValue"]]
    return str(value["Ref"] if "Ref" in value else value["Fn::GetAtt"][0])
