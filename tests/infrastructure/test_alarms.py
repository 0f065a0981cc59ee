"""Each alarm looks at something that is there: a function or queue of the deployment, or a metric that code counts."""

import json
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


def alarms(prod: Deployment, namespace: str) -> list[dict[str, Any]]:
    found = [a for a in prod.of_type("AWS::CloudWatch::Alarm") if a["Namespace"] == namespace]
    assert found
    return found


def test_alarms_on_what_the_functions_count_name_it_as_they_do(
    prod: Deployment, capsys: pytest.CaptureFixture[str]
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
    for alarm in alarms(prod, "Keepgate"):
        dimensions = frozenset((d["Name"], d["Value"]) for d in alarm["Dimensions"])
        assert (alarm["MetricName"], dimensions) in counted, alarm["AlarmName"]


def test_each_function_has_an_alarm_on_its_errors_and_one_on_being_throttled(prod: Deployment) -> None:
    watched = {(a["MetricName"], function_of(prod, a)) for a in alarms(prod, "AWS/Lambda")}
    assert watched == {("Invocations", "sweep_runs")} | {
        (metric, door) for metric in ("Errors", "Throttles") for door in prod.functions()
    }


def test_a_dead_letter_and_a_job_that_waits_too_long_call_a_person(prod: Deployment) -> None:
    jobs, dead = (
        {
            name
            for name, queue in prod["Agent"].of_type("AWS::SQS::Queue").items()
            if ("RedrivePolicy" in queue["Properties"]) is has_dead_letters
        }
        for has_dead_letters in (True, False)
    )
    watched = {a["MetricName"]: exported(prod, a["Dimensions"][0]["Value"]) for a in alarms(prod, "AWS/SQS")}
    assert {watched["ApproximateAgeOfOldestMessage"]} == jobs
    assert {watched["ApproximateNumberOfMessagesVisible"]} == dead


def function_of(prod: Deployment, alarm: dict[str, Any]) -> str:
    [dimension] = alarm["Dimensions"]
    assert dimension["Name"] == "FunctionName"
    logical = exported(prod, dimension["Value"])
    [name] = [
        functions[logical]["Properties"]["FunctionName"]
        for template in prod.parts.values()
        if logical in (functions := template.of_type("AWS::Lambda::Function"))
    ]
    return prod.door_of(name)


def exported(prod: Deployment, imported: dict[str, str]) -> str:
    """Return the logical id of what another stack exports under this name."""
    exports = [o for t in prod.parts.values() for o in t.document.get("Outputs", {}).values() if "Export" in o]
    [value] = [o["Value"] for o in exports if o["Export"]["Name"] == imported["Fn::ImportValue"]]
    return str(value["Ref"] if "Ref" in value else value["Fn::GetAtt"][0])
