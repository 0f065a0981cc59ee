"""Whole event streams, judged by AG-UI's own client, and read again from every position a reader may have reached."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.agui.verifier import Verifier
from tests.e2e.running_cloud import Api, RunningCloud, Streamed, marker


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as opened:
        yield opened


def normal(cloud: RunningCloud, api: Api) -> str:
    return api.ask("Compare orders 1001 and 1002")


def refused(cloud: RunningCloud, api: Api) -> str:
    return api.ask("Please refund 900 EUR of order 1001")


def queued(cloud: RunningCloud, api: Api) -> str:
    return api.ask("Export our orders as CSV")


def repeated(cloud: RunningCloud, api: Api) -> str:
    mark = marker()
    cloud.tell_model(mark, {}, {"break_after": 45, "pace_s": 0.03, "break_with": "modelStreamErrorException"})
    return api.ask(f"Where is order 1001? {mark}")


def capped(cloud: RunningCloud, api: Api) -> str:
    mark = marker()
    cloud.tell_model(mark, {"calls": [{"tool": "list_orders", "input_json": '{"limit": 1}'}]}, repeat=True)
    return api.ask(f"Go on for ever {mark}")


def failed(cloud: RunningCloud, api: Api) -> str:
    mark = marker()
    cloud.tell_model(mark, {}, {"error": "ValidationException"}, repeat=True)
    return api.ask(f"Where is order 1001? {mark}")


def cancelled(cloud: RunningCloud, api: Api) -> str:
    mark = marker()
    cloud.tell_model(mark, {"text": "word " * 600, "pace_s": 0.05, "calls": []}, repeat=True)
    run_id = api.ask(f"Tell me a long story {mark}")
    seen = (event for page in api.pages(run_id) for event in page)
    next(event for event in seen if event.event["type"] == "TEXT_MESSAGE_CONTENT")
    assert api.http.post(f"/runs/{run_id}/cancel").status_code == 202
    return run_id


RUNS: dict[str, tuple[Callable[[RunningCloud, Api], str], str]] = {
    "normal": (normal, "completed"),
    "refused": (refused, "completed"),
    "queued": (queued, "completed"),
    "repeated": (repeated, "completed"),
    "capped": (capped, "failed"),
    "failed": (failed, "failed"),
    "cancelled": (cancelled, "cancelled"),
}


def text_of(events: list[Streamed]) -> dict[str, str]:
    """Return the text of each message."""
    texts: dict[str, str] = {}
    for streamed in events:
        if streamed.event["type"] == "TEXT_MESSAGE_CONTENT":
            message = streamed.event["messageId"]
            texts[message] = texts.get(message, "") + streamed.event["delta"]
    return texts


@pytest.mark.parametrize("kind", RUNS)
def test_the_stream_of_a_whole_run_breaks_no_rule(
    cloud: RunningCloud, acme: Api, verifier: Verifier, kind: str
) -> None:
    start, status = RUNS[kind]
    run_id = start(cloud, acme)
    live = acme.follow(run_id)
    verdict = verifier.judge([streamed.event for streamed in live])
    assert verdict.violations == []
    result = acme.wait(run_id)
    assert result["status"] == status
    ids = [streamed.id for streamed in live]
    assert len(set(ids)) == len(ids)
    later = acme.follow(run_id)
    assert verifier.judge([streamed.event for streamed in later]).violations == []
    if result["answer"]:
        assert verdict.messages[-1]["content"] == result["answer"]


@pytest.mark.parametrize("kind", ["normal", "queued", "capped", "failed", "cancelled"])
def test_whoever_reconnects_at_any_position_gets_exactly_the_rest(cloud: RunningCloud, acme: Api, kind: str) -> None:
    run_id = RUNS[kind][0](cloud, acme)
    acme.wait(run_id)
    whole = acme.follow(run_id)
    assert acme.http.get(f"/runs/{run_id}/events", headers={"Last-Event-ID": whole[-1].id}).status_code == 204
    for position, streamed in enumerate(whole[:-1]):
        assert next(acme.pages(run_id, after=streamed.id)) == whole[position + 1 :]


def test_a_reader_who_is_cut_off_again_and_again_reads_the_same_text_once(
    cloud: RunningCloud, acme: Api, verifier: Verifier
) -> None:
    """Each answer of a stream that is under way is thrown away but for its first event, as a bad connection would."""
    mark = marker()
    story = " ".join(f"word-{number}" for number in range(40))
    cloud.tell_model(mark, {"text": story, "pace_s": 0.05, "calls": []})
    run_id = acme.ask(f"Tell me a story {mark}")
    seen: list[Streamed] = []
    while True:
        page = next(iter(acme.pages(run_id, after=seen[-1].id if seen else None)), None)
        if page is None:
            break
        seen += page[:1]
    assert verifier.judge([streamed.event for streamed in seen]).violations == []
    assert list(text_of(seen).values()) == [story]


def test_text_is_streamed_while_the_model_still_speaks(cloud: RunningCloud, acme: Api) -> None:
    mark = marker()
    cloud.tell_model(mark, {"text": "word " * 80, "pace_s": 0.05, "calls": []})
    begun = time.monotonic()
    run_id = acme.ask(f"Tell me a story {mark}")
    arrived: list[tuple[float, Any]] = []
    for page in acme.pages(run_id):
        arrived += [(time.monotonic() - begun, s.event) for s in page if s.event["type"] == "TEXT_MESSAGE_CONTENT"]
    assert len(arrived) >= 4
    assert arrived[-1][0] - arrived[0][0] > 1.5


def test_a_page_of_json_holds_what_the_stream_says(acme: Api) -> None:
    run_id = acme.ask("Where is order 1001?")
    acme.wait(run_id)
    streamed = acme.follow(run_id)
    page = acme.http.get(f"/runs/{run_id}/events", headers={"Accept": "application/json"}).json()
    assert [(entry["id"], entry["event"]) for entry in page["events"]] == [(s.id, s.event) for s in streamed]
    assert page["over"] is True


def test_a_position_that_is_none_is_400_and_named(acme: Api) -> None:
    run_id = acme.ask("Good morning")
    acme.wait(run_id)
    for position in ("x", "-1", "999999.0.0", "1.2.3.4"):
        answer = acme.http.get(f"/runs/{run_id}/events", headers={"Last-Event-ID": position})
        assert (answer.status_code, answer.json()["field"].lower()) == (400, "header.last-event-id"), position


def test_the_stream_shows_neither_arguments_nor_results_of_a_tool_that_does_not_say_so(acme: Api) -> None:
    run_id = acme.ask("List orders of marta.keller@mail.example")
    assert "Marta Keller" in acme.wait(run_id)["answer"]
    tools = str([s.event for s in acme.follow(run_id) if s.event["type"].startswith("TOOL_")])
    assert "list_orders" in tools
    assert "marta" not in tools.lower()


def test_the_stream_says_that_a_call_was_denied_and_not_why(acme: Api) -> None:
    run_id = acme.ask("Please refund 900 EUR of order 1001")
    acme.wait(run_id)
    tools = str([s.event for s in acme.follow(run_id) if s.event["type"].startswith("TOOL_")])
    assert "issue_refund" in tools
    assert "denied" in tools
    assert "policy" not in tools
