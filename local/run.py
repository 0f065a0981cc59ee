"""`make run`: starts the cloud on a laptop, says how to use it, and serves it until Ctrl-C.

`PORT` chooses another port than 4566, `MODEL_URL` (with `MODEL_NAME`, `MODEL_KEY`) an OpenAI-compatible server in
place of the scripted model, `TRACES_URL` an OTLP/HTTP endpoint in place of the trace file, `KEEPGATE_LOCAL` another
state folder than .local.
"""

import fcntl
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

import httpx
from rich.console import Console

from local.cloud import Cloud, ModelServer, ModelServerUnusable, running
from local.emulator import PortTaken
from local.processes import ROOT, ChildFailed

DEFAULT_PORT = 4566
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REFRESH_S = 600
"""Access tokens live 15 minutes."""
QUESTION = "Where is order 1001?"


class Stopped(BaseException):
    """Ctrl-C, SIGTERM, or a closed terminal. Not an Exception, so that nobody on the way takes it for a failure."""


class CannotStart(Exception):
    """The person who starts us has to change something first."""


def main(environment: Mapping[str, str]) -> int:
    """Run the local cloud and return the exit code: 0 after Ctrl-C, 1 after a failure, 2 if it can't start."""
    console = Console(soft_wrap=True, highlight=False)
    began = time.monotonic()
    for number in STOPPING:
        signal.signal(number, _stop)
    try:
        port = _port(environment.get("PORT", ""))
        state = Path(environment.get("KEEPGATE_LOCAL") or ROOT / ".local").resolve()
        with (
            _only_one(state, port),
            running(
                state,
                port=port,
                model=_model(environment),
                step=_Steps(console),
                traces_url=_traces_url(environment.get("TRACES_URL", "")),
            ) as cloud,
        ):
            try:
                _describe(cloud, cloud.write_endpoint(), console)
                console.print(f"Ready after {time.monotonic() - began:.0f} s. Ctrl-C stops it.")
                _serve(cloud, console)
            finally:
                # From here on a second Ctrl-C would only leave things behind.
                for number in STOPPING:
                    signal.signal(number, signal.SIG_IGN)
    except Stopped:
        console.print("Stopped.")
    except CannotStart as wrong:
        _complain(wrong)
        return 2
    except PortTaken as taken:
        _complain(f"{taken}. Stop what listens there, or choose another: PORT=4600 make run")
        return 2
    except (ChildFailed, TimeoutError, ModelServerUnusable, httpx.HTTPError) as failed:
        _complain(failed)
        return 1
    return 0


def _stop(*_: object) -> NoReturn:
    raise Stopped


def _complain(what: object) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"error: {what}")


def _port(text: str) -> int:
    if not text:
        return DEFAULT_PORT
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise CannotStart(f"PORT must be a number from 1 to 65535, not {text!r}")
    return int(text)


def _traces_url(text: str) -> str | None:
    if text and not text.startswith(("http://", "https://")):
        raise CannotStart(f"TRACES_URL must be the URL of an OTLP/HTTP endpoint, not {text!r}")
    return text or None


def _model(environment: Mapping[str, str]) -> ModelServer | None:
    url = environment.get("MODEL_URL")
    if not url:
        return None
    if not url.startswith(("http://", "https://")):
        raise CannotStart(f"MODEL_URL must be the URL of an OpenAI-compatible server, not {url!r}")
    return ModelServer(url, environment.get("MODEL_NAME") or None, environment.get("MODEL_KEY") or None)


@contextmanager
def _only_one(state: Path, port: int) -> Iterator[None]:
    """Hold the state folder's lock, which the kernel frees however we end.

    Raises:
        CannotStart: another local cloud holds it.
    """
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            raise CannotStart(f"a local cloud runs already ({_holder(lock)}). Stop it with Ctrl-C first.") from held
        lock.truncate(0)
        lock.write(f"process {os.getpid()}, port {port}")
        lock.flush()
        yield


def _holder(lock: IO[str]) -> str:
    lock.seek(0)
    return lock.read()


class _Steps:
    """Shows each step while it runs, then with its time."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        with self._console.status(what):
            yield
        self._console.print(f"{time.monotonic() - began:6.1f} s  {what}")


def _describe(cloud: Cloud, tokens: Mapping[str, str], console: Console) -> None:
    console.print(
        f"\nThe API: {cloud.url}\n\nTokens, good for 15 minutes; {cloud.endpoint_file} always has fresh ones:\n"
    )
    for name, token in tokens.items():
        console.print(f"{name}: {token}", markup=False)
    console.print("\nAsk as a user of acme (any shell):\n")
    console.print(curl_line(cloud.url, tokens["acme-user"]), markup=False)
    console.print("\nOr, in the terminal: .venv/bin/python -m local.ask --as acme-user " + shlex.quote(QUESTION) + "\n")


def curl_line(url: str, token: str) -> str:
    """Return a line for any shell that asks, waits for the end (until then the result is a 409) and prints it."""
    return (
        f"T={token}; curl -sS {url}/runs -H \"Authorization: Bearer $T\" -H 'Content-Type: application/json' "
        f"-d '{{\"input\": \"{QUESTION}\"}}' | grep -oE 'run_[0-9A-Z]{{26}}' | head -n 1 | xargs -I{{}} "
        f'curl -sf --retry 60 --retry-delay 1 --retry-all-errors {url}/runs/{{}}/result -H "Authorization: Bearer $T"'
    )


def _serve(cloud: Cloud, console: Console) -> NoReturn:
    refreshed = time.monotonic()
    while True:
        time.sleep(1)
        cloud.emulator.require_running()
        if time.monotonic() - refreshed > REFRESH_S:
            cloud.write_endpoint()
            refreshed = time.monotonic()
            console.print(f"Fresh tokens are in {cloud.endpoint_file}.")


if __name__ == "__main__":
    sys.exit(main(os.environ))
