"""How long a person waits on the local cloud: from the request to the first event and to the end of the run.

The scripted model answers at once, so what is left is Keepgate, the emulator and a laptop's cold starts. On AWS the
figures differ; their use is to compare one commit with the next, in one run on one machine.
"""

import json
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from httpx_sse import connect_sse

from local.cloud import Cloud, running

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Answers:
    """Medians over warm runs, in milliseconds."""

    accepted_ms: float
    first_event_ms: float
    first_text_ms: float
    ended_ms: float


def measure(rounds: int) -> Answers:
    """Start a local cloud, ask the same question again and again, and return the waits."""
    with TemporaryDirectory() as folder, running(Path(folder), port=_free_port(), model=None, step=_quiet) as cloud:
        token = cloud.write_endpoint()["acme-user"]
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(headers=headers, timeout=PATIENCE_S) as client:
            samples = [_ask(client, cloud) for _ in range(rounds + 1)][1:]  # the first one finds everything cold
    return Answers(*(statistics.median(sample[n] for sample in samples) for n in range(4)))


def _ask(client: httpx.Client, cloud: Cloud) -> list[float]:
    began = time.perf_counter()
    accepted = client.post(f"{cloud.url}/runs", json={"input": "Where is order 1001?"})
    accepted.raise_for_status()
    waits = {"accepted": time.perf_counter() - began}
    for kind in _events(client, f"{cloud.url}/runs/{accepted.json()['run_id']}/events", began):
        waits.setdefault(kind, time.perf_counter() - began)
        waits.setdefault("first", time.perf_counter() - began)
    if "RUN_FINISHED" not in waits:
        raise RuntimeError(f"the run did not finish well: {sorted(waits)}")
    return [waits[kind] * 1000 for kind in ("accepted", "first", "TEXT_MESSAGE_CONTENT", "RUN_FINISHED")]


def _events(client: httpx.Client, url: str, began: float) -> Iterator[str]:
    """Yield the kinds of a run's events, reconnecting until there are no more."""
    last = ""
    while time.perf_counter() - began < PATIENCE_S:
        with connect_sse(client, "GET", url, headers={"Last-Event-ID": last} if last else {}) as stream:
            if stream.response.status_code == httpx.codes.NO_CONTENT:
                return
            stream.response.raise_for_status()
            for event in stream.iter_sse():
                last = event.id or last
                if event.data:  # a heartbeat has none
                    yield json.loads(event.data)["type"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _quiet(_: str) -> Iterator[None]:
    yield
