"""`kill -9` of real processes while 50 runs are under way: none lost, none doubled, and no stream torn.

Killed are processes of this cloud alone, the API's included, found by the folder each works in. Not the sweeper's:
Lambda would invoke it again with the record it died on, and the local cloud does not. What may be left of a killed call
is one result or the word that its outcome is not known, never two; what a reader has seen on a bad connection is what
somebody reads who comes later and on a good one.
"""

import hashlib
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from agent.aws.run_log import DynamoDbRunLog
from agent.endings import EndReason
from agent.events import ModelFailed, ToolCompleted, ToolOutcomeUnknown
from agent.run_header import RunHeader
from agent.run_state import RunState
from tests.agui.verifier import Verifier
from tests.demands import require_settled, require_sound
from tests.e2e.running_cloud import Api, RunningCloud, Streamed, marker, server_sent

RUNS = 50
PEOPLE = 10
CONNECTIONS = 6
WITHIN_S = 200
KILL_EVERY_S = 1.2
MAX_KILLS = 30
APPROVE_EVERY_S = 0.5
SETTLED_WITHIN_S = 150
"""What a holder left who was killed between a run's end and the return of its money, the sweeper finds and returns."""
TRIES = 20
REDELIVERED_AFTER_S = 8
VICTIMS = (*("run_agent",) * 4, *("run_tool",) * 2, "work_tool_queue", "shim", "stream_events")
"""By share."""

QUESTIONS = (
    ("Draft a reply about order 1001", 2),
    ("Compare orders 1001 and 1002", 2),
    ("Export our orders as CSV", 1),
)
"""Each with how many in five. Drafts are counted in the tenant's table, exports in the bucket."""


@dataclass
class Reader:
    """Somebody who follows a run on a bad connection: sees part of an answer, is cut off, comes back."""

    api: Api
    question: str
    key: str
    chance: random.Random
    run_id: str = ""
    seen: list[Streamed] = field(default_factory=list)

    def ask(self) -> None:
        """Create the run; asked again under the same key until the answer arrives."""
        answer = self._try(
            lambda: self.api.http.post("/runs", json={"input": self.question}, headers={"Idempotency-Key": self.key})
        )
        assert answer.status_code == 202, answer.text
        self.run_id = answer.json()["run_id"]

    def look(self) -> bool:
        """Connect once; return whether there is more to come back for."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self.seen[-1].id} if self.seen else {})
        answer = self._try(lambda: self.api.http.get(f"/runs/{self.run_id}/events?wait=1", headers=headers))
        if answer.status_code == httpx.codes.NO_CONTENT:
            return False
        assert answer.status_code == 200, answer.text
        page = list(server_sent(answer.text))
        self.seen += page[: self.chance.randint(0, len(page))] if self.chance.random() < 0.5 else page
        return True

    def _try(self, request: Callable[[], httpx.Response]) -> httpx.Response:
        for _ in range(TRIES):
            with suppress(httpx.TransportError):
                answer = request()
                if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    return answer
            time.sleep(0.1)
        raise AssertionError(f"the API did not answer {TRIES} times in a row")


class Busy:
    """Does something again and again on a thread of its own, until the block ends."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def act(self) -> None:
        """Do it once more."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(self._every_s):
            self.act()


class Killer(Busy):
    """Kills a process."""

    def __init__(self, cloud: RunningCloud, chance: random.Random) -> None:
        super().__init__(KILL_EVERY_S)
        self.killed: Counter[str] = Counter()
        self._cloud, self._chance = cloud, chance

    def act(self) -> None:
        service = self._chance.choice(VICTIMS)
        processes = [pid for pid in self._cloud.workers(service) if has_begun_to_work(pid)]
        if processes and self.killed.total() < MAX_KILLS:
            with suppress(ProcessLookupError):
                os.kill(self._chance.choice(processes), signal.SIGKILL)
                self.killed[service] += 1


class Approver(Busy):
    """Approves what waits for a person; who has read text from outside may not even save a draft without one."""

    def __init__(self, api: Api, mark: str) -> None:
        super().__init__(APPROVE_EVERY_S)
        self.approved: Counter[str] = Counter()
        self._api, self._mark = api, mark

    def act(self) -> None:
        with suppress(httpx.TransportError):
            listed = self._api.http.get("/approvals", params={"limit": 50})
            for asked in listed.json()["approvals"] if listed.is_success else ():
                if self._mark in asked["input"]["text"] and not self.approved[asked["approval_id"]]:
                    answer = self._api.http.post(f"/approvals/{asked['approval_id']}", json={"decision": "approve"})
                    self.approved[asked["approval_id"]] += answer.is_success


def has_begun_to_work(pid: int) -> bool:
    """Tell whether a process has a connection; one without is still importing, and has nothing to lose."""
    try:
        return any(str(file.readlink()).startswith("socket:") for file in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # gone
        return False


@pytest.fixture
def people(cloud: RunningCloud) -> Iterator[list[Api]]:
    with ExitStack() as stack:
        yield [stack.enter_context(cloud.newcomer("acme", ("user",))) for _ in range(PEOPLE)]


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as opened:
        yield opened


def follow(readers: Sequence[Reader], chance: random.Random) -> None:
    """Let a few readers at a time connect, in any order, until each has had its whole stream."""
    deadline = time.monotonic() + WITHIN_S
    following = list(readers)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        while following:
            assert time.monotonic() < deadline, [str(reader.api.record(reader.run_id)) for reader in following]
            chance.shuffle(following)
            more = pool.map(Reader.look, following)
            following = [reader for reader, is_on in zip(following, more, strict=True) if is_on]


def told(events: Sequence[Streamed]) -> list[dict[str, Any]]:
    """Return what a stream says, whichever pieces its texts came in."""
    said: list[dict[str, Any]] = []
    for event in (dict(streamed.event) for streamed in events):
        if said and event["type"] == said[-1]["type"] == "TEXT_MESSAGE_CONTENT":
            assert said[-1]["messageId"] == event["messageId"]
            said[-1]["delta"] += event["delta"]
        else:
            event.pop("timestamp", None)
            said.append(event)
    return said


def drafts(cloud: RunningCloud) -> Counter[str]:
    """Return the ids of the drafts at `acme`."""
    pages = (
        cloud.aws("dynamodb")
        .get_paginator("query")
        .paginate(
            TableName=cloud.output("TenantTable"),
            KeyConditionExpression="pk = :tenant AND begins_with(sk, :kind)",
            ExpressionAttributeValues={":tenant": {"S": "T#acme"}, ":kind": {"S": "draft#"}},
        )
    )
    return Counter(item["draft_id"]["S"] for page in pages for item in page["Items"])


def test_no_run_is_lost_or_doubled_and_no_stream_is_torn_while_processes_are_killed(
    cloud: RunningCloud, people: list[Api], verifier: Verifier
) -> None:
    mark, chance = marker(), random.Random(3)
    cloud.tell_model(mark, {"pause_s": 0.3, "pace_s": 0.02}, repeat=True)
    kinds = [question for question, share in QUESTIONS for _ in range(share * RUNS // 5)]
    chance.shuffle(kinds)
    readers = [
        Reader(people[number % PEOPLE], f"{kind} {mark}", f"{mark[1:-1]}-{number}", random.Random(number))
        for number, kind in enumerate(kinds)
    ]
    before, began = drafts(cloud), time.monotonic()
    with cloud.redelivering_after(REDELIVERED_AFTER_S):
        with Killer(cloud, chance) as killer, cloud.api("acme-approver") as bea, Approver(bea, mark) as approver:
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                list(pool.map(Reader.ask, readers))
            follow(readers, chance)
        took_s = time.monotonic() - began
    log = DynamoDbRunLog(cloud.aws("dynamodb"), cloud.output("RunsTable"))
    found: Counter[str] = Counter()
    drafted, perhaps = Counter[str](), Counter[str]()
    for reader in readers:
        state = require_whole(log, reader, verifier)
        found["holders lost"] += sum(event.type == "worker.lost" for event in log.events("acme", reader.run_id))
        for call in (call for turn in state.turns for call in turn.results.values()):
            is_done = isinstance(call, ToolCompleted) and call.outcome == "ok"
            is_unknown = isinstance(call, ToolOutcomeUnknown)
            found["outcomes unknown"] += is_unknown
            if call.tool == "save_draft" and (is_done or is_unknown):
                (drafted if is_done else perhaps)[draft_id(reader.run_id, call.call_id)] += 1
            elif call.tool == "export_orders" and is_done:
                [_] = files(cloud, reader.run_id)
    sys.stdout.write(f"\n{RUNS} runs in {took_s:.0f} s; killed {dict(killer.killed)}; ")
    sys.stdout.write(f"approved {approver.approved.total()}, drafted {drafted.total()}; {dict(found)}\n")
    saved = drafts(cloud) - before
    assert drafted <= saved <= drafted + perhaps
    assert drafted.total() >= 10, "hardly a draft was saved: is it asked for in another way now?"
    assert killer.killed["run_agent"] >= 5
    assert found["holders lost"] >= 3


def require_whole(log: DynamoDbRunLog, reader: Reader, verifier: Verifier) -> RunState:
    """Demand of a run that it ended well, and of its reader that the stream was whole and each event came once."""
    header = settled(log, reader.run_id)
    events = log.events("acme", reader.run_id)
    state = require_sound(header, events, reader.run_id)
    require_settled(state, events, reader.run_id)
    # Who loses a model call's holder three times in a row gives it up, and says so.
    deaths = sum(isinstance(event.data, ModelFailed) for event in events)
    assert header.reason == EndReason.ANSWERED or deaths >= 3, (header.reason, deaths)
    ids = [streamed.id for streamed in reader.seen]
    assert len(set(ids)) == len(ids)
    assert verifier.judge([streamed.event for streamed in reader.seen]).violations == []
    assert told(reader.seen) == told(reader.api.follow(reader.run_id))
    return state


def settled(log: DynamoDbRunLog, run_id: str) -> RunHeader:
    """Return the header of a run once its money is back where it came from."""
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while (header := log.header("acme", run_id)) is None or not header.is_over or header.due_at is not None:
        assert time.monotonic() < deadline, (run_id, header)
        time.sleep(0.2)
    return header


def draft_id(run_id: str, call_id: str) -> str:
    """Return the name of the draft that a call saves, however often it runs."""
    return "draft-" + hashlib.sha256(f"{run_id}/{call_id}".encode()).hexdigest()[:16]


def files(cloud: RunningCloud, run_id: str) -> list[str]:
    objects = cloud.aws("s3").list_objects_v2(Bucket=cloud.output("FilesBucket"), Prefix=f"T/acme/{run_id}/")
    return [found["Key"] for found in objects.get("Contents", [])]
