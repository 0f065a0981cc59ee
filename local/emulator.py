"""AWS on one local port: starts ministack, with IAM enforced, and stops it.

How the functions it runs get what they need (found out by reading and trying it):

- They run in warm workers: children of the emulator, started with its own interpreter. So what the virtual environment
  holds can be imported, and the deployed asset is our source alone.
- A worker's environment is the emulator's, then the function's own variables over it. So `AWS_ENDPOINT_URL` (the
  emulator sets it itself) and `AWS_ENDPOINT_URL_BEDROCK_RUNTIME` (set here) reach them without a template saying so.
- With AUTH=true their credentials are a session of the function's own role, and each call is checked against its
  policies. Calls to the model's endpoint carry that session's signature, which nobody checks there.
- It writes to TMPDIR (a copy of the code for each worker, a pid file): that is put into our state folder.
"""

import socket
import sys
import time
from pathlib import Path

import httpx

from local.processes import Child, clean_environment

ACCOUNT, REGION = "000000000000", "us-east-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
"""The emulator's root user: what deploys. Public knowledge; it listens on 127.0.0.1 only."""
START_TIMEOUT_S = 30.0


class PortTaken(Exception):
    """Something else listens on the port."""


def require_free(port: int) -> None:
    """Check that a port can be listened on.

    Raises:
        PortTaken: it can't.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as taken:
            raise PortTaken(f"port {port} is taken") from taken


def start(state: Path, *, port: int, model_url: str) -> Child:
    """Start the emulator; it answers once `wait_until_ready` returns."""
    temporary = state / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    environment = clean_environment() | {
        "AUTH": "true",
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "MINISTACK_HOST": "127.0.0.1",
        "MINISTACK_REGION": REGION,
        "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": model_url,
        # As on AWS: no token where the trigger that puts the claims in has failed.
        "MINISTACK_COGNITO_PRETOKEN_STRICT": "1",
        # Two of its listeners have fixed ports that a second local cloud could not have.
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
        "TMPDIR": str(temporary),
    }
    return Child(
        "the emulator",
        [sys.executable, "-m", "local.emulated_aws"],
        environment=environment,
        log=state / "emulator.log",
    )


def wait_until_ready(emulator: Child, *, port: int) -> None:
    """Wait until it answers.

    Raises:
        ChildFailed: it ended.
        TimeoutError: it did not answer in time.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        emulator.require_running()
        try:
            if httpx.get(f"http://127.0.0.1:{port}/_ministack/health", timeout=2).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(f"the emulator did not answer on port {port} within {START_TIMEOUT_S:.0f} s")
