"""The native event stream, read over the gateway's own event shapes while a run is being written."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent.endings import EndReason
from agent.watching import BATCH, Room1Reader
from lambdas import stream_events
from tests.agui.verifier import Verifier
from tests.agui.written_runs import ANNA, RUN_ID, RUNS, WrittenRun
from tests.unit.gateway import BEN, CLIENT, Answer, Context, request
from tests.unit.test_shim import refused

CLAIMS = {"sub": ANNA.user_id, "tenant_id": ANNA.tenant_id}


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as opened:
        yield opened


class Watcher:
    """A reader of one run. Time passes only while it waits, and then something may happen."""

    def __init__(self, run: WrittenRun) -> None:
        self.run = run
        self.slept: list[float] = []
        self.meanwhile: list[Callable[[], None]] = []

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.run.clock.advance(seconds)
        if self.meanwhile:
            self.meanwhile.pop(0)()

    def __call__(
        self, *, run_id: str = RUN_ID, left_ms: int = 29_000, claims: dict[str, Any] | None = None, **how: Any
    ) -> Answer:
        room = Room1Reader(self.run.log, self.run.clock, self._sleep)
        event = request("GET", f"/runs/{run_id}/events", claims={**CLAIMS, **(claims or {})}, **how)
        return Answer.read(stream_events.door(room, frozenset({CLIENT}))(event, Context(left_ms)))


def frames(answer: Answer) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for frame in (answer.text or "").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in frame.splitlines() if not line.startswith(":"))
        if "data" in fields:
            found.append((fields["id"], json.loads(fields["data"])))
    return found


def follow(watch: Watcher) -> list[tuple[str, dict[str, Any]]]:
    """Reconnect until the stream says that there is nothing to come back for."""
    had: list[tuple[str, dict[str, Any]]] = []
    for _ in range(200):
        answer = watch(headers={"Last-Event-ID": had[-1][0]} if had else {})
        if answer.status == 204:
            return had
        had += frames(answer)
    raise AssertionError("the stream never ended")


def test_a_finished_run_is_one_answer_and_then_there_is_nothing_to_come_back_for(verifier: Verifier) -> None:
    watch = Watcher(RUNS["normal"]())
    answer = watch()
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert (answer.text or "").startswith("retry: 250\n\nid: 1.1.0\ndata: {")
    assert verifier.judge([event for _, event in frames(answer)]).violations == []
    gone = watch(headers={"Last-Event-ID": frames(answer)[-1][0]})
    assert (gone.status, gone.text or "") == (204, "")
    assert watch.slept == []


@pytest.mark.parametrize("kind", RUNS)
def test_reconnecting_after_each_frame_gives_exactly_the_rest(kind: str) -> None:
    watch = Watcher(RUNS[kind]())
    whole = frames(watch())
    for had, (cursor, _) in enumerate(whole[:-1], 1):
        assert frames(watch(headers={"Last-Event-ID": cursor})) == whole[had:]
        assert frames(watch(query={"after": cursor})) == whole[had:]


def test_what_happens_while_the_reader_waits_is_delivered_at_once(verifier: Verifier) -> None:
    run = WrittenRun()
    watch = Watcher(run)
    watch.meanwhile = [
        run.claim,
        run.think,
        lambda: run.stream("Hel"),
        lambda: run.stream("lo"),
        lambda: None,
        lambda: run.answer("Hello"),
        lambda: run.end(EndReason.ANSWERED, answer="Hello"),
    ]
    had = follow(watch)
    kinds = [event["type"] for _, event in had]
    assert kinds == [
        "RUN_STARTED",
        "CUSTOM",
        "CUSTOM",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]
    assert verifier.judge([event for _, event in had]).violations == []


def test_waiting_is_bounded_and_backs_off_and_ends_with_a_heartbeat() -> None:
    run = WrittenRun()
    watch = Watcher(run)
    answer = watch(query={"after": "1.2.0"})
    assert (answer.status, answer.text) == (200, "retry: 250\n\n: nothing new\n\n")
    assert sum(watch.slept) == pytest.approx(20)
    assert watch.slept[0] == 0.1
    assert max(watch.slept) == 1.0
    assert len(watch.slept) < 30


def test_a_reader_never_waits_longer_than_the_function_has_time_for() -> None:
    watch = Watcher(WrittenRun())
    watch(query={"after": "1.2.0", "wait": "20"}, left_ms=5_000)
    assert sum(watch.slept) == pytest.approx(3)
    watch.slept.clear()
    watch(query={"after": "1.2.0", "wait": "20"}, left_ms=1_000)
    assert watch.slept == []


def test_pages_are_json_for_whoever_asks_and_do_not_wait_unless_told() -> None:
    run = RUNS["normal"]()
    watch = Watcher(run)
    accept = {"Accept": "application/json"}
    page = watch(headers=accept).body
    assert [(entry["id"], entry["event"]) for entry in page["events"]] == frames(watch())
    assert (page["next"], page["over"]) == (page["events"][-1]["id"], True)
    done = watch(headers=accept, query={"after": page["next"]})
    assert (done.status, done.body) == (200, {"events": [], "next": page["next"], "over": True})
    waiting = Watcher(WrittenRun())
    assert waiting(headers=accept, query={"after": "1.2.0"}).body == {"events": [], "next": "1.2.0", "over": False}
    assert waiting.slept == []
    waiting(headers=accept, query={"after": "1.2.0", "wait": "1.5"})
    assert sum(waiting.slept) == pytest.approx(1.5)


def test_a_page_is_bounded_and_the_rest_follows(verifier: Verifier) -> None:
    run = WrittenRun()
    run.claim()
    for _ in range(6):
        run.think()
        call = run.decide(shown=True)
        run.answer("x" * 100_000, calls=(call,))
        run.start(call)
        run.finish(call, content=json.dumps("y" * 200_000))
    run.end(EndReason.ANSWERED, answer="x")
    watch = Watcher(run)
    assert len((watch().text or "").encode()) < 1_500_000
    had = follow(watch)
    assert verifier.judge([event for _, event in had]).violations == []
    assert sum(event["type"] == "TOOL_CALL_RESULT" for _, event in had) == 6


def test_a_log_longer_than_a_batch_is_read_whole() -> None:
    run = WrittenRun()
    run.claim()
    for _ in range(BATCH):
        run.wish_end()
    run.end(EndReason.CANCELLED)
    assert frames(Watcher(run)())[-1][1]["type"] == "RUN_FINISHED"


@pytest.mark.parametrize("claims", [{"sub": BEN}, {"tenant_id": "globex"}, {}])
def test_a_foreign_run_a_colleagues_and_a_missing_one_are_the_same_404(claims: dict[str, str]) -> None:
    watch = Watcher(WrittenRun())
    asked = RUN_ID if claims else RUN_ID[:-1] + "Z"
    for run_id in (asked, "run_1"):
        refused(watch(run_id=run_id, claims=claims, query={"after": "1.1.0"}), 404, "not_found", "path.run_id")
    assert watch.slept == []


def test_claims_are_checked_as_at_the_other_door() -> None:
    refused(Watcher(WrittenRun())(claims={"token_use": "id"}), 401, "not_authenticated")


@pytest.mark.parametrize("cursor", ["x", "1.2", "1.2.3.4", "99.1.0", "3.0.0"])
def test_a_position_the_run_does_not_have_is_refused_with_the_field_named(cursor: str) -> None:
    watch = Watcher(WrittenRun())
    refused(watch(headers={"Last-Event-ID": cursor}), 400, "invalid_input", "header.last-event-id")
    refused(watch(query={"after": cursor}), 400, "invalid_input", "query.after")
    assert watch.slept == []


def test_what_a_reconnect_sends_stands_before_the_address_it_first_asked_for() -> None:
    watch = Watcher(RUNS["normal"]())
    whole = frames(watch())
    assert frames(watch(query={"after": whole[0][0]}, headers={"Last-Event-ID": whole[4][0]})) == whole[5:]


@pytest.mark.parametrize("wait", ["-1", "21", "x", "NaN", "inf"])
def test_a_wait_out_of_bounds_is_refused(wait: str) -> None:
    refused(Watcher(WrittenRun())(query={"wait": wait}), 400, "invalid_input", "query.wait")
