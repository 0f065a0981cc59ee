"""The whole cloud on a laptop, from nothing to signed-in people and back: what `make run` starts."""

import json
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from agent.aws.tenant_data import load
from local import deployment, emulator, people
from local.bedrock_wire import BedrockServer, scripted_server
from local.openai_model import OpenAiModel
from local.processes import Child, clean_environment, free_port
from support_desk import seed

Step = Callable[[str], AbstractContextManager[None]]
"""Announces a step and, at its end, how long it took."""


class ModelServerUnusable(Exception):
    """The model server that was asked for is none, or does not answer."""


@dataclass(frozen=True)
class ModelServer:
    """An OpenAI-compatible server to use in place of the scripted model."""

    url: str
    name: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Cloud:
    """A cloud that runs."""

    state: Path
    port: int
    url: str
    """Base of the API, ending in /v1."""
    outputs: dict[str, str]
    emulator: Child
    people: list[people.Person]

    @property
    def endpoint_file(self) -> Path:
        """Where clients and tests read the URL and the tokens."""
        return self.state / "endpoint.json"

    def write_endpoint(self) -> dict[str, str]:
        """Sign everyone in afresh, write the endpoint file in one move, and return the tokens by name."""
        with closing(deployment.client("cognito-idp", self.port)) as cognito:
            tokens = {p.name: people.sign_in(cognito, self.outputs["UserPoolClientId"], p) for p in self.people}
        document = {"url": self.url, "tokens": tokens, "stack_outputs": self.outputs}
        unfinished = self.endpoint_file.with_suffix(".new")
        unfinished.touch(mode=0o600)
        unfinished.write_text(json.dumps(document, indent=2))
        unfinished.replace(self.endpoint_file)
        return tokens


@dataclass(frozen=True)
class Carrier:
    """The example of a server outside, and each tenant's key to it."""

    process: Child
    url: str
    keys: dict[str, str]

    @classmethod
    def start(cls, state: Path, stack: ExitStack) -> Self:
        """Start it; it ends with the stack."""
        port = free_port()
        keys = {tenant: secrets.token_urlsafe(24) for tenant in seed.TENANTS}
        process = Child(
            "the parcel server",
            [sys.executable, "-m", "local.parcel_server", str(port)],
            environment=clean_environment() | {"PARCEL_KEYS": ",".join(keys.values())},
            log=state / "parcels.log",
        )
        return cls(stack.enter_context(process), f"http://127.0.0.1:{port}/mcp", keys)


@contextmanager
def running(
    state: Path, *, port: int, model: ModelServer | None, step: Step, traces_url: str | None = None
) -> Iterator[Cloud]:
    """Start the cloud; when the block ends, stop everything it started and remove the endpoint file.

    Traces go to the OTLP/HTTP endpoint `traces_url`, or else to traces.jsonl in the state folder.

    Raises:
        PortTaken: something else listens on the port.
        ModelServerUnusable: the model server is not there, or is none.
        ChildFailed: the emulator, the synth or the deployment failed.
    """
    emulator.require_free(port)
    _clear(state)
    (state / "traces.jsonl").unlink(missing_ok=True)
    with ExitStack() as stack:
        stack.callback(_clear, state)
        with step("starting the emulator and the model"):
            # Writing the templates takes longest and needs neither.
            carrier = Carrier.start(state, stack)
            synth = stack.enter_context(
                deployment.start_synth(
                    state,
                    traces=traces_url or f"file:{state / 'traces.jsonl'}",
                    tool_servers={"parcels": carrier.url},
                )
            )
            server = stack.enter_context(_model_server(state, model, stack))
            emulated = stack.enter_context(emulator.start(state, port=port, model_url=server.url))
            emulator.wait_until_ready(emulated, port=port)
        with step("writing the templates of the stage local"):
            synth.require_done(deployment.SYNTH_TIMEOUT_S)
        with step("deploying them"):
            outputs = deployment.deploy(state, port=port)
        url = deployment.local_url(outputs["ApiUrl"], port=port)
        cloud = Cloud(state, port, url, outputs, emulated, people.everyone())
        with step("seeding two tenants and their people"):
            _seed(cloud, carrier)
        carrier.process.require_running()
        yield cloud


def _model_server(state: Path, model: ModelServer | None, stack: ExitStack) -> BedrockServer:
    if model is None:
        return scripted_server(state / "scenarios.json")
    try:
        source = stack.enter_context(closing(OpenAiModel(model.url, model=model.name, key=model.key)))
        source.first_model()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, AttributeError) as wrong:
        raise ModelServerUnusable(
            f"MODEL_URL: the server at {model.url} can't be asked for its models: {wrong}"
        ) from wrong
    return BedrockServer(source)


def _seed(cloud: Cloud, carrier: Carrier) -> None:
    with closing(deployment.client("secretsmanager", cloud.port)) as secrets_manager:
        for tenant, key in carrier.keys.items():
            secrets_manager.create_secret(Name=f"keepgate/local/T/{tenant}/parcels-key", SecretString=key)
    with closing(deployment.client("cognito-idp", cloud.port)) as cognito:
        for person in cloud.people:
            people.sign_up(cognito, cloud.outputs["UserPoolId"], person)
    with closing(deployment.client("dynamodb", cloud.port)) as dynamodb:
        for tenant in seed.TENANTS:
            load(dynamodb, cloud.outputs["TenantTable"], tenant, seed.items(tenant))


def _clear(state: Path) -> None:
    """Remove what only a running cloud has. Logs, traces and the scenario file stay to be read."""
    (state / "endpoint.json").unlink(missing_ok=True)
    for folder in ("tmp", "cdk.out", "cdk.deployed"):
        shutil.rmtree(state / folder, ignore_errors=True)
