"""Where a stage runs and with whose rights: its stacks' outputs, and clients of the operator's own credentials.

The stage `local` is the cloud on this laptop, which writes its outputs to .local/endpoint.json; the others are asked of
CloudFormation, in the region and with the credentials that the AWS CLI would use.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from agent import contract_lock
from agent.aws import caller
from agent.aws.run_log import DynamoDbRunLog
from agent.controls import Kind
from agent.operating import Command
from agent.release import Release
from stacks.config import STAGES, Stage
from stacks.contracts import ROOT, read_model_ids

STACKS = ("State", "Agent")


class NotDeployed(Exception):
    """The stage has no stacks here, or is not running."""


class Refused(Exception):
    """The function `administer` did not do what it was asked for."""


@dataclass(frozen=True)
class Deployment:
    """One stage, deployed."""

    stage: Stage
    read_outputs: Callable[[], Mapping[str, str]]
    client: Callable[[str], Any]
    """Returns an SDK client by its service's name."""
    credentials: Callable[[], Any]
    """Returns those of whoever operates."""

    @cached_property
    def outputs(self) -> Mapping[str, str]:
        """The stacks' outputs; read when they are first needed, because who only administers need not be let see them.

        Raises:
            NotDeployed: there are none.
        """
        return self.read_outputs()

    def administer(self, command: Command) -> dict[str, Any]:
        """Have the function `administer` carry a command out, and return what it tells.

        Raises:
            Refused: it did not.
            NotDeployed: it is not there, or these credentials may not invoke it.
        """
        function, text = self.stage.resource_name("administer"), command.model_dump_json()
        bound = caller.bound_to(function, text)
        try:
            sts = self.client("sts").meta
            proof = caller.prove(self.credentials(), sts_url=sts.endpoint_url, region=sts.region_name, bound=bound)
            payload = json.dumps({"command": text, "proof": proof})
            answer = self.client("lambda").invoke(FunctionName=function, Payload=payload)
        except (ClientError, BotoCoreError) as refused:
            raise NotDeployed(f"{function} can't be invoked: {refused}") from refused
        told = json.loads(answer["Payload"].read())
        if "FunctionError" in answer:
            raise Refused(f"{function} failed; its log says why")
        if "refused" in told:
            raise Refused(": ".join(filter(None, (told["refused"]["field"], told["refused"]["message"]))))
        done: dict[str, Any] = told["done"]
        return done

    def release(self) -> Release:
        """Return the release that new runs of the stage are bound to, as it lies here."""
        return Release.read(ROOT / self.stage.agent, self.stage.release)

    def names(self, kind: Kind) -> frozenset[str]:
        """Return what a switch of this kind can name, as it lies here; nothing where anything can be named."""
        folder = ROOT / self.stage.agent
        match kind:
            case "tool":
                return frozenset(contract_lock.contracts(folder / contract_lock.FILE))
            case "agent":
                return frozenset({self.stage.agent})
            case "release":
                return frozenset(path.stem for path in (folder / "releases").glob("*.toml"))
            case "model":
                return frozenset(read_model_ids(self.stage.agent))
        return frozenset()

    def servers_tools(self) -> frozenset[str]:
        """Return the hashes of the contracts of servers' tools that the stage's release offers, as both lie here."""
        contracts = contract_lock.contracts(ROOT / self.stage.agent / contract_lock.FILE)
        release = self.release()
        return frozenset(c.sha256() for c in contracts.values() if c.server is not None and release.offers(c))

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
    outputs: Mapping[str, str] = endpoint["stack_outputs"]
    root = endpoint["url"].split("/_aws")[0]
    session = boto3.Session("test", "test", region_name="us-east-1")  # the emulator's root user

    def client(service: str) -> Any:  # noqa: ANN401 - its type differs by service
        made: Any = session.client(service, endpoint_url=root)  # type: ignore[call-overload]  # any name
        return made

    return Deployment(STAGES["local"], lambda: outputs, client, session.get_credentials)


def _deployed(stage: Stage) -> Deployment:
    session = boto3.Session()

    def client(service: str) -> Any:  # noqa: ANN401 - as above
        made: Any = session.client(service)  # type: ignore[call-overload]  # any name
        return made

    def read_outputs() -> Mapping[str, str]:
        cloudformation, outputs = client("cloudformation"), dict[str, str]()
        for part in STACKS:
            try:
                [stack] = cloudformation.describe_stacks(StackName=f"Keepgate-{stage.name}-{part}")["Stacks"]
            except cloudformation.exceptions.ClientError as refused:
                raise NotDeployed(f"the stack Keepgate-{stage.name}-{part} can't be read: {refused}") from refused
            outputs |= {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
        return outputs

    return Deployment(stage, read_outputs, client, session.get_credentials)
