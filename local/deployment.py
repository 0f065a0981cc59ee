"""Synthesizes the stage `local` and deploys it into the emulator with the CDK CLI: the templates that AWS gets too."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3

from local.emulator import ACCOUNT, CREDENTIALS, REGION
from local.processes import ROOT, Child, clean_environment

ASSETS_BUCKET = "keepgate-local-assets"
"""Where the CLI puts the functions' code: `stacks.application` names it, and the emulator is not bootstrapped."""
SYNTH_TIMEOUT_S, DEPLOY_TIMEOUT_S = 120, 300


def client(service: str, port: int) -> Any:  # noqa: ANN401 - its type differs by service
    """Return an SDK client of the emulator's root user."""
    return boto3.client(  # type: ignore[call-overload]  # the stubs want the service as a literal
        service,
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name=REGION,
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )


def start_synth(state: Path, *, traces: str, tool_servers: Mapping[str, str]) -> Child:
    """Start writing the templates.

    `traces` says where the functions send their spans (`Settings.trace_exporter`), `tool_servers` where on the loopback
    the servers are whose tools they use.
    """
    environment = clean_environment() | {
        "CDK_OUTDIR": str(state / "cdk.out"),
        "CDK_CONTEXT_JSON": json.dumps({"trace_exporter": traces, "tool_servers": json.dumps(dict(tool_servers))}),
        "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "1",
    }
    command = [sys.executable, str(ROOT / "app.py"), "--stage", "local"]
    return Child("the synth", command, environment=environment, log=state / "synth.log")


def deploy(state: Path, *, port: int) -> dict[str, str]:
    """Deploy the templates and return the outputs of all stacks.

    Raises:
        ChildFailed: the CLI failed.
    """
    client("s3", port).create_bucket(Bucket=ASSETS_BUCKET)
    environment = (
        clean_environment()
        | CREDENTIALS
        | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_REGION": REGION,
            "CDK_DEFAULT_ACCOUNT": ACCOUNT,
            "CDK_DISABLE_CLI_TELEMETRY": "true",
            "CDK_DISABLE_VERSION_CHECK": "1",
        }
    )
    command = [str(ROOT / "node_modules/.bin/cdk"), "deploy", "--app", str(state / "cdk.out"), "--all"]
    command += ["--output", str(state / "cdk.deployed"), "--outputs-file", str(state / "outputs.json")]
    command += ["--require-approval", "never", "--method", "direct", "--concurrency", "4"]
    command += ["--no-notices", "--no-version-reporting", "--no-color", "--ci"]
    with Child("the CDK CLI", command, environment=environment, log=state / "deploy.log") as cli:
        cli.require_done(DEPLOY_TIMEOUT_S)
    stacks: dict[str, dict[str, str]] = json.loads((state / "outputs.json").read_text())
    # What CDK exports from stack to stack is its own affair.
    return {k: v for outputs in stacks.values() for k, v in outputs.items() if not k.startswith("ExportsOutput")}


def local_url(api_url: str, *, port: int) -> str:
    """Return where the emulator serves an API whose URL on AWS is `api_url`.

    Raises:
        ValueError: `api_url` is not the URL of a stage of a REST API.
    """
    found = re.match(r"https://([a-z0-9]+)\.execute-api\.[^/]+/(\w+)/?$", api_url)
    if found is None:
        raise ValueError(f"{api_url} is not the URL of a REST API's stage")
    return f"http://127.0.0.1:{port}/_aws/execute-api/{found[1]}/{found[2]}"
