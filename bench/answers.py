"""How long a person waits on the local cloud: for a run's first event and its end, for a decision to take effect.

The scripted model answers at once, so what is left is Keepgate, the emulator and a laptop's cold starts. On AWS the
figures differ; their use is to compare one commit with the next, in one run on one machine.
"""

import json
import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from httpx_sse import connect_sse

from agent.aws.run_log import DynamoDbRunLog
from local import deployment
from local.cloud import Cloud, running
from local.processes import free_port, workers

PATIENCE_S = 60.0
KILLS = 5
FIRST_REFUNDED = 1020
"""An order for each round: its refunds can't exceed what it cost."""


@dataclass(frozen=True)
class Answers:
    """Medians over warm runs, in milliseconds."""

    accepted_ms: float
    first_event_ms: float
    first_text_ms: float
    ended_ms: float
    resumed_after_a_decision_ms: float
    """From the approver's request until the parked run is seen to work again."""
    resumed_after_a_kill_ms: float
    """From `kill -9` of the process that works on a run to the first event of its next holder."""


def measure(rounds: int) -> Answers:
    """Start a local cloud, ask the same question again and again, and return the waits."""
    with TemporaryDirectory() as folder, running(Path(folder), port=free_port(), model=None, step=_quiet) as cloud:
        tokens = cloud.write_endpoint()
        with _signed_in(tokens["acme-user"]) as client, _signed_in(tokens["acme-approver"]) as approver:
            # The first round finds everything cold.
            samples = [_ask(client, cloud) for _ in range(rounds + 1)][1:]
            resumed = [_resume(client, approver, cloud, number) for number in range(rounds + 1)][1:]
            revived = [_revive(client, cloud, number) for number in range(KILLS)]
    accepted, first_event, first_text, ended = map(statistics.median, zip(*samples, strict=True))
    return Answers(
        accepted_ms=accepted,
        first_event_ms=first_event,
        first_text_ms=first_text,
        ended_ms=ended,
        resumed_after_a_decision_ms=statistics.median(resumed),
        resumed_after_a_kill_ms=statistics.median(revived),
    )


def _signed_in(token: str) -> httpx.Client:
    return httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE_S)


def _resume(client: httpx.Client, approver: httpx.Client, cloud: Cloud, number: int) -> float:
    """Return how long a run that waits for a person takes to go on, in milliseconds."""
    question = f"Please refund 1 EUR of order {FIRST_REFUNDED + number}, it came late"
    run = f"{cloud.url}/runs/" + client.post(f"{cloud.url}/runs", json={"input": question}).json()["run_id"]
    [asked] = _record(client, run, until_waiting=True)["pending_approvals"]
    began = time.perf_counter()
    approver.post(f"{cloud.url}/approvals/{asked['approval_id']}", json={"decision": "approve"}).raise_for_status()
    _record(client, run, until_waiting=False)
    return (time.perf_counter() - began) * 1000


def _revive(client: httpx.Client, cloud: Cloud, number: int) -> float:
    """Kill the process that waits for a run's model, and return how long the run is without one, in milliseconds."""
    mark = f"kill-{number}"
    scenario = {"match": mark, "steps": [{"pause_s": PATIENCE_S}]}
    (cloud.state / "scenarios.json").write_text(json.dumps({"scenarios": [scenario]}))
    run_id = client.post(f"{cloud.url}/runs", json={"input": f"Hello there {mark}"}).json()["run_id"]
    with closing(deployment.client("dynamodb", cloud.port)) as dynamodb:
        log = DynamoDbRunLog(dynamodb, cloud.outputs["RunsTable"])
        _written(log, run_id, "model.started", 1)
        for pid in workers(cloud.state, "run_agent"):
            os.kill(pid, signal.SIGKILL)
        killed_at = time.time()
        return (_written(log, run_id, "run.claimed", 2).timestamp() - killed_at) * 1000


def _written(log: DynamoDbRunLog, run_id: str, kind: str, number: int) -> datetime:
    """Wait for the event of a kind that has this number, and return when it was written."""
    deadline = time.perf_counter() + PATIENCE_S
    while time.perf_counter() < deadline:
        written = [event.at for event in log.events("acme", run_id) if event.type == kind]
        if len(written) >= number:
            return written[number - 1]
        time.sleep(0.01)
    raise RuntimeError(f"no {kind} in {run_id}")


def _record(client: httpx.Client, run: str, *, until_waiting: bool) -> dict[str, Any]:
    deadline = time.perf_counter() + PATIENCE_S
    while time.perf_counter() < deadline:
        record: dict[str, Any] = client.get(run).raise_for_status().json()
        if (record["status"] == "waiting") is until_waiting:
            return record
        time.sleep(0.01)
    raise RuntimeError(f"the run stays {record['status']}")


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


@contextmanager
def _quiet(_: str) -> Iterator[None]:
    yield
