"""Where a stage runs and with whose rights: its stacks' outputs, and clients of the operator's own credentials.

The stage `local` is the cloud on this laptop, which writes its outputs to .local/endpoint.json; the others are asked of
CloudFormation, in the region and with the credentials that the AWS CLI would use.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from agent.aws.clock import SystemClock
from agent.aws.limits import DynamoDbLimitBook
from agent.aws.run_log import DynamoDbRunLog
from agent.limits import Limits
from stacks.config import STAGES, Stage

STACKS = ("State", "Agent")


class NotDeployed(Exception):
    """The stage has no stacks here, or is not running."""


@dataclass(frozen=True)
class Deployment:
    """One stage, deployed."""

    stage: Stage
    outputs: Mapping[str, str]
    client: Callable[[str], Any]
    """Returns an SDK client by its service's name."""

    @property
    def defaults(self) -> Limits:
        """The stage's limits, before any override."""
        stage = self.stage
        return Limits(
            user_day_micros=stage.user_day_limit_micros,
            tenant_month_micros=stage.tenant_month_limit_micros,
            platform_month_micros=stage.platform_month_limit_micros,
            user_runs=stage.user_runs_limit,
            tenant_runs=stage.tenant_runs_limit,
            tenant_jobs=stage.tenant_jobs_limit,
        )

    def limits(self) -> DynamoDbLimitBook:
        """Return the stage's limits as data."""
        table = self.outputs["ControlTable"]
        return DynamoDbLimitBook(self.client("dynamodb"), table, self.defaults, clock=SystemClock())

    def log(self) -> DynamoDbRunLog:
        """Return the stage's run log."""
        return DynamoDbRunLog(self.client("dynamodb"), self.outputs["RunsTable"])


def find(name: str) -> Deployment:
    """Return a stage's deployment.

    Raises:
        NotDeployed: there is none.
    """
    if name not in STAGES:
        raise NotDeployed(f"there is no stage {name}; there are {', '.join(STAGES)}")
    return _local() if STAGES[name].emulated else _deployed(STAGES[name])


def _local() -> Deployment:
    path = Path(os.environ.get("KEEPGATE_LOCAL", ".local")) / "endpoint.json"
    try:
        endpoint = json.loads(path.read_text(encoding="utf-8"))
    except OSError as missing:
        raise NotDeployed(f"{path} is not there; start the cloud with `make run`") from missing
    root = endpoint["url"].split("/_aws")[0]
    session = boto3.Session("test", "test", region_name="us-east-1")  # the emulator's root user

    def client(service: str) -> Any:  # noqa: ANN401 - its type differs by service
        made: Any = session.client(service, endpoint_url=root)  # type: ignore[call-overload]  # any name
        return made

    return Deployment(STAGES["local"], endpoint["stack_outputs"], client)


def _deployed(stage: Stage) -> Deployment:
    session = boto3.Session()

    def client(service: str) -> Any:  # noqa: ANN401 - as above
        made: Any = session.client(service)  # type: ignore[call-overload]  # any name
        return made

    cloudformation, outputs = client("cloudformation"), dict[str, str]()
    for part in STACKS:
        try:
            [stack] = cloudformation.describe_stacks(StackName=f"Keepgate-{stage.name}-{part}")["Stacks"]
        except cloudformation.exceptions.ClientError as refused:
            raise NotDeployed(f"the stack Keepgate-{stage.name}-{part} can't be read: {refused}") from refused
        outputs |= {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
    return Deployment(stage, outputs, client)
