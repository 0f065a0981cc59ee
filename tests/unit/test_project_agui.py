"""Whole streams of every kind of run are judged by AG-UI's own client, from every position a reader can stand at."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cursor import BEGINNING, Cursor
from agent.endings import EndReason
from agent.errors import InputInvalid
from agent.events import Delta
from agent.project_agui import Positioned, Projection
from agent.run_state import fold
from tests.agui.verifier import Verifier
from tests.agui.written_runs import RUN_ID, RUNS, WrittenRun, written

every_run = pytest.mark.parametrize("kind", RUNS)


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as opened:
        yield opened


def read(run: WrittenRun, *, after: Cursor = BEGINNING, with_deltas: bool = True) -> list[Positioned]:
    view = Projection(run.deltas if with_deltas else lambda seq, index: [], after=after)
    said = [new for event in run.events for new in view.feed(event)]
    return said + view.listen()


def wire(said: list[Positioned]) -> list[dict[str, Any]]:
    return [json.loads(positioned.json) for positioned in said]


def types(said: list[Positioned]) -> list[str]:
    return [event["type"] for event in wire(said)]


@every_run
def test_the_client_finds_no_violation_in_a_whole_stream(verifier: Verifier, kind: str) -> None:
    assert verifier.judge(wire(read(RUNS[kind]()))).violations == []


@every_run
def test_every_event_has_a_later_position_than_the_one_before(kind: str) -> None:
    cursors = [said.cursor for said in read(RUNS[kind]())]
    assert cursors == sorted(set(cursors))


@every_run
def test_reconnecting_at_every_position_gives_exactly_the_rest(kind: str) -> None:
    run = RUNS[kind]()
    whole = read(run)
    for had, said in enumerate(whole, 1):
        after = Cursor.parse(str(said.cursor), field="after")
        assert read(run, after=after) == whole[had:]


@every_run
def test_a_reader_who_comes_back_after_the_deltas_are_gone_sees_the_same(verifier: Verifier, kind: str) -> None:
    run = RUNS[kind]()
    whole = read(run)
    expected = verifier.judge(wire(whole))
    for had, said in enumerate(whole, 1):
        verdict = verifier.judge(wire(whole[:had] + read(run, after=said.cursor, with_deltas=False)))
        assert verdict.violations == []
        if run.header.reason is EndReason.ANSWERED:
            assert verdict.messages == expected.messages


def test_a_reader_who_stood_in_the_middle_of_a_piece_gets_the_rest_of_it() -> None:
    run = RUNS["normal"]()
    [cursor] = [s.cursor for s in read(run) if getattr(s.event, "delta", "").startswith("It is on")]
    rest = read(run, after=Cursor(cursor.seq, cursor.index, 5))
    assert wire(rest)[0]["delta"] == " on its way \N{DELIVERY TRUCK}\n\nAnything else?"


def test_text_is_streamed_before_the_answer_is_complete() -> None:
    run = WrittenRun()
    run.claim()
    run.think()
    view = Projection(run.deltas)
    for event in run.events:
        view.feed(event)
    run.stream("Hel")
    first = view.listen()
    run.stream("lo")
    second = view.listen()
    assert types(first) == ["TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT"]
    assert [event["delta"] for event in wire(second)] == ["lo"]
    assert view.listen() == []


def test_a_lost_piece_is_filled_in_by_the_whole_answer() -> None:
    run = WrittenRun()
    run.claim()
    run.think()
    run.stream("Hel")
    run.stream("lo ", lost=True)
    run.stream("world")
    seen = read(run)
    run.answer("Hello world")
    rest = read(run, after=seen[-1].cursor)
    assert wire(seen)[-1]["delta"] == "Hel"
    assert wire(rest)[0]["delta"] == "lo world"


def test_text_is_never_said_past_a_hole_nor_twice_whatever_borders_its_pieces_have() -> None:
    run = WrittenRun()
    run.claim()
    run.think()
    pieces = [(0, "Hello"), (3, "lo wo"), (20, "beyond")]
    deltas = [Delta(seq=3, index=i, part=0, offset=offset, text=text) for i, (offset, text) in enumerate(pieces)]
    view = Projection(lambda seq, index: deltas[index:], after=Cursor(3, 3, 2))
    for event in run.events:
        view.feed(event)
    assert [event["delta"] for event in wire(view.listen())] == ["llo wo"]


@every_run
def test_nothing_is_said_after_the_end_whatever_is_appended(kind: str) -> None:
    run = RUNS[kind]()
    whole = read(run)
    run.wait()
    run.claim()
    assert read(run) == whole


def test_whoever_saw_a_lost_answer_gets_it_closed_and_the_messages_without_it(verifier: Verifier) -> None:
    run = RUNS["retried"]()
    whole = read(run)
    kinds = types(whole)
    closed = kinds.index("MESSAGES_SNAPSHOT")
    assert kinds[closed - 1] == "TEXT_MESSAGE_END"
    shown = [message["id"] for message in wire(whole)[closed]["messages"]]
    assert shown == ["msg_input", "msg_1_1", "result_call_1_0"]
    assert [m["id"] for m in verifier.judge(wire(whole)).messages] == [*shown, "msg_2_3"]


def test_whoever_did_not_see_a_lost_answer_never_hears_of_it(verifier: Verifier) -> None:
    run = RUNS["retried"]()
    late = read(run, with_deltas=False)
    assert "MESSAGES_SNAPSHOT" not in types(late)
    assert verifier.judge(wire(late)).messages == verifier.judge(wire(read(run))).messages


def test_a_snapshot_holds_what_the_client_has_by_then(verifier: Verifier) -> None:
    whole = wire(read(RUNS["retried"]()))
    snapshot = next(i for i, event in enumerate(whole) if event["type"] == "MESSAGES_SNAPSHOT")
    lost = next(i for i, event in enumerate(whole) if event.get("messageId") == "msg_2_1")
    assert verifier.judge(whole[:lost], is_whole=False).messages == whole[snapshot]["messages"]


@every_run
def test_nothing_internal_is_ever_said(kind: str) -> None:
    assert "secret" not in json.dumps(wire(read(RUNS[kind]())))


def test_arguments_and_results_are_said_only_where_the_contract_says_so() -> None:
    said = wire(read(RUNS["calls without a word"]()))
    arguments = {event["toolCallId"]: event["delta"] for event in said if event["type"] == "TOOL_CALL_ARGS"}
    results = {e["toolCallId"]: json.loads(e["content"]) for e in said if e["type"] == "TOOL_CALL_RESULT"}
    assert arguments == dict.fromkeys(["call_1_0", "call_1_2"], '{"order_id": "1001"}')
    assert results == {
        "call_1_0": {"status": "ok", "result": {"status": "shipped"}},
        "call_1_1": {"status": "error"},
        "call_1_2": {"status": "ok", "result": '{"cut off'},
    }


def test_a_denied_call_is_shown_as_denied_and_no_more() -> None:
    said = wire(read(RUNS["denied"]()))
    names = [event["toolCallName"] for event in said if event["type"] == "TOOL_CALL_START"]
    contents = [json.loads(event["content"]) for event in said if event["type"] == "TOOL_CALL_RESULT"]
    assert names == ["issue_refund", "unknown", "issue_refund", "unknown"]
    assert contents == [{"status": "denied"}, {"status": "denied"}, {"status": "denied"}, {"status": "unfinished"}]


def test_a_queued_run_says_that_it_waits_and_when_its_tool_runs() -> None:
    values = [event["value"] for event in wire(read(RUNS["queued"]())) if event["type"] == "CUSTOM"]
    tool = {"tool_call_id": "call_1_0", "tool": "export_orders"}
    assert values == [
        {"status": "queued", "waiting_for": []},
        {"status": "running", "waiting_for": []},
        {**tool, "status": "queued"},
        {"status": "waiting", "waiting_for": ["tool"]},
        {**tool, "status": "started"},
        {"status": "running", "waiting_for": []},
    ]


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("normal", {"type": "RUN_FINISHED", "outcome": {"type": "success"}}),
        ("cancelled", {"type": "RUN_FINISHED", "outcome": {"type": "cancelled"}}),
        ("capped", {"type": "RUN_ERROR", "code": "max_turns"}),
        ("failed", {"type": "RUN_ERROR", "code": "model_unavailable"}),
    ],
)
def test_the_last_event_says_how_the_run_ended(kind: str, end: dict[str, Any]) -> None:
    run = RUNS[kind]()
    last = wire(read(run))[-1]
    assert end.items() <= last.items()
    assert run.header.message == last.get("message", last.get("result", {}).get("message"))


def test_the_stream_begins_with_what_the_user_asked(verifier: Verifier) -> None:
    verdict = verifier.judge(wire(read(RUNS["normal"]())))
    assert verdict.messages[0] == {"id": "msg_input", "role": "user", "content": "Where is order 1001?"}
    assert wire(read(RUNS["normal"]()))[0]["runId"] == RUN_ID


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "1.2.3.4", "-1.0.0", "1.2.x", "\u0661.1.1", "1.2.3 ", "9" * 10 + ".0.0"]
)
def test_a_text_that_is_no_position_is_refused_with_the_field_named(text: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        Cursor.parse(text, field="header.Last-Event-ID")
    assert refused.value.field == "header.Last-Event-ID"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_run_and_no_pattern_of_reconnects_ever_violates_the_protocol(
    verifier: Verifier, data: st.DataObject
) -> None:
    @st.composite
    def watched(draw: st.DrawFn) -> tuple[WrittenRun, list[Positioned]]:
        seen: list[Positioned] = []
        for run in written(draw):
            if run.header.is_over or draw(st.integers(0, 2)) == 0:
                seen += read(run, after=seen[-1].cursor if seen else BEGINNING)
        return run, seen

    run, seen = data.draw(watched())
    assert fold(run.events).header == run.header
    at_once, without_deltas = read(run), read(run, with_deltas=False)
    verdicts = [verifier.judge(wire(stream)) for stream in (seen, at_once, without_deltas)]
    assert [verdict.violations for verdict in verdicts] == [[], [], []]
    assert verdicts[0].messages == verdicts[1].messages
    assert [said.cursor for said in seen] == sorted({said.cursor for said in seen})
    for had in range(1, len(at_once)):
        assert read(run, after=at_once[had - 1].cursor) == at_once[had:]


BROKEN: dict[str, Callable[[list[dict[str, Any]]], list[dict[str, Any]]]] = {
    "an end without a beginning": lambda events: events[1:],
    "something after the end": lambda events: [*events, events[1]],
    "no end": lambda events: events[:-1],
    "an open message": lambda events: [e for e in events if e["type"] != "TEXT_MESSAGE_END"],
    "an open call": lambda events: [e for e in events if e["type"] != "TOOL_CALL_END"],
    "text of no message": lambda events: [e for e in events if e["type"] != "TEXT_MESSAGE_START"],
    "a field of the wrong type": lambda events: [{**e, "timestamp": "noon"} for e in events],
    "a field that the protocol does not have": lambda events: [{**e, "seq": 1} for e in events],
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("kind", ["normal", "capped"])
def test_the_verifier_does_reject_a_broken_stream(verifier: Verifier, kind: str, how: str) -> None:
    assert verifier.judge(BROKEN[how](wire(read(RUNS[kind]())))).violations != []


def test_of_a_call_that_is_looked_into_the_user_learns_what_was_found_and_not_by_whom() -> None:
    said = wire(read(RUNS["resolutions"]()))
    told = [e["value"] for e in said if e.get("name") == "keepgate.approval"]
    assert {value["kind"] for value in told} == {"resolution"}
    pending, after = told[:5], told[5:]
    assert {value["status"] for value in pending} == {"pending"}
    assert [(value["tool_call_id"], value["status"]) for value in after] == [
        ("call_1_0", "happened"),
        ("call_1_1", "did_not_happen"),
        ("call_1_3", "void"),
        ("call_1_2", "expired"),
        ("call_1_4", "void"),
    ]
    results = [(e["toolCallId"], json.loads(e["content"])["status"]) for e in said if e["type"] == "TOOL_CALL_RESULT"]
    assert sorted(results) == [
        ("call_1_0", "ok"),
        ("call_1_1", "error"),
        ("call_1_2", "unknown"),
        ("call_1_3", "ok"),
        ("call_1_4", "unknown"),
    ]
    assert "secret" not in json.dumps(said)
