"""Room 3 runs what the log shows as decided, under the contract's bounds, and nothing else."""

import json
import logging
import sys
import threading
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel, Field

from agent.contracts import Effect, sha256_of
from agent.endings import EndReason, Status
from agent.errors import CallNotDecided, StoreUnavailable, ToolLost
from agent.events import Event, Payload, RunEnded, ToolCompleted, ToolOutcomeUnknown, Verdict
from agent.execution import execute
from agent.ports.tool_room import ToolReply
from agent.testing.decided_run import CALL, RUN, DecidedRun
from agent.testing.run_log import MemoryRunLog
from agent.tools import Arguments, Tool, ToolContext, ToolFailed, tool


class Note(Arguments):
    text: str = Field(max_length=10_000)
    times: int = 1


class Noted(BaseModel):
    text: str


@tool(
    effect=Effect.WRITE,
    mode="idempotent",
    resource="Note::all",
    data_actions=("dynamodb:PutItem",),
    writes_files=True,
    errors=("too_silly",),
    max_result_bytes=256,
    timeout_s=7,
)
def note(args: Note, context: ToolContext) -> Noted:
    """Write a note down, as often as it is asked to, for the tests."""
    match args.text:
        case "fail":
            raise ToolFailed("too_silly", "Say something else. " * 100)
        case "break":
            raise ValueError("the customer's secret")
        case "exit":
            sys.exit(3)
        case "hang":
            threading.Event().wait()
        case "read":
            context.data.get("note", "1")  # the contract does not list it
        case "file":
            context.files.write("a.csv", b"a", content_type="text/csv")
    context.data.put("note", "1", {"text": args.text, "by": context.principal.user_id, "key": context.idempotency_key})
    return Noted(text=args.text * args.times)


def once(tested: Tool[Any]) -> Tool[Any]:
    return replace(tested, contract=tested.contract.model_copy(update={"mode": "once"}))


class Desk(DecidedRun):
    def __init__(self, tested: Tool[Any] = note) -> None:
        super().__init__(tested)

    def ask(self, text: str = "hello", *, times: int = 1, **changes: Any) -> None:
        self.decide({"text": text, "times": times}, **changes)

    def run(self, text: str = "hello", *, times: int = 1) -> ToolReply:
        self.ask(text, times=times)
        self.start()
        return execute(self.room, "acme", RUN, CALL)


def refused(desk: Desk, *, tenant_id: str = "acme", run_id: str = RUN, call_id: str = CALL) -> str:
    with pytest.raises(CallNotDecided) as refusal:
        execute(desk.room, tenant_id, run_id, call_id)
    assert desk.table.items == {}
    return str(refusal.value)


def test_a_decided_and_started_call_runs_with_the_runs_principal_and_the_calls_key() -> None:
    desk = Desk()
    reply = desk.run()
    assert (reply.outcome, json.loads(reply.content), reply.object_key) == ("ok", {"text": "hello"}, None)
    stored = json.loads(desk.table.items["acme", "note", "1"])
    assert stored == {"text": "hello", "by": "u-1", "key": f"{RUN}/{CALL}"}


def test_another_tenants_run_is_refused_like_a_missing_one() -> None:
    desk = Desk()
    desk.ask()
    desk.start()
    foreign = refused(desk, tenant_id="globex")
    assert foreign == refused(desk, run_id="run_01JABCDEFGHJKMNPQRSTVWXYZ1") == "there is no such run"


def test_a_call_nobody_decided_is_refused() -> None:
    desk = Desk()
    assert "no decision" in refused(desk)
    desk.ask()
    desk.start()
    assert "no decision" in refused(desk, call_id="call_1_1")


@pytest.mark.parametrize(("verdict", "why"), [(Verdict.DENY, "deny"), (Verdict.ASK, "no approval")])
def test_a_call_that_was_not_allowed_is_refused_even_when_started(verdict: Verdict, why: str) -> None:
    desk = Desk()
    desk.ask(verdict=verdict)
    desk.start()
    assert why in refused(desk)


def test_a_call_of_a_log_whose_principal_is_of_another_tenant_is_refused() -> None:
    desk = Desk()
    desk.ask()
    desk.start()
    desk.room = replace(desk.room, log=Misfiled(desk.room.log))
    assert refused(desk, tenant_id="globex") == "there is no such run"


class Misfiled:
    """A log that gives one tenant's events out under every tenant's key."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def events(self, _tenant_id: str, run_id: str, **page: Any) -> Any:
        return self._log.events("acme", run_id, **page)


def test_a_call_that_was_not_started_is_refused() -> None:
    desk = Desk()
    desk.ask()
    assert "not been started" in refused(desk)


@pytest.mark.parametrize(
    "end",
    [
        ToolCompleted(call_id=CALL, tool="note", outcome="ok", content="{}", duration_ms=1),
        ToolOutcomeUnknown(call_id=CALL, tool="note", cause="lost"),
    ],
)
def test_a_call_with_a_result_is_refused(end: Payload) -> None:
    desk = Desk()
    desk.ask()
    desk.start()
    desk.append(end)
    assert "result" in refused(desk)


def test_a_call_of_an_ended_run_is_refused() -> None:
    desk = Desk()
    desk.ask()
    desk.start()
    desk.append(RunEnded(status=Status.CANCELLED, reason=EndReason.CANCELLED, message="."))
    assert "over" in refused(desk)


def test_a_call_of_an_earlier_turn_is_refused() -> None:
    desk = Desk()
    desk.ask()
    desk.start()
    desk.ask(turn=2, call_id="call_2_0")
    assert "newest turn" in refused(desk)


def test_a_call_decided_under_another_contract_is_refused() -> None:
    desk = Desk()
    desk.ask(contract_sha256=sha256_of("another"))
    desk.start()
    assert "another contract" in refused(desk)


def test_a_call_of_a_tool_that_is_gone_is_refused() -> None:
    desk = Desk()
    desk.ask()
    desk.start()
    desk.room = replace(desk.room, tools={})
    assert "another contract" in refused(desk)


def test_arguments_that_are_not_the_decided_ones_are_refused() -> None:
    desk = Desk()
    desk.decide({"text": "something else", "times": 1}, arguments_sha256=sha256_of({"text": "hello", "times": 1}))
    desk.start()
    assert "not the ones" in refused(desk)


def test_decided_arguments_that_do_not_fit_the_tool_are_refused() -> None:
    desk = Desk()
    arguments = {"text": "x", "more": True}
    desk.decide(arguments)
    desk.start()
    assert "do not fit" in refused(desk)


def test_a_tools_own_error_is_a_bounded_result_with_its_code() -> None:
    reply = Desk().run("fail")
    answer = json.loads(reply.content)
    assert reply.outcome == "error"
    assert answer["error"] == "too_silly"
    assert answer["message"].startswith("Say something else.")
    assert len(answer["message"]) == 500


@pytest.mark.parametrize("text", ["break", "exit"])
def test_an_unexpected_end_is_a_result_without_internals(text: str) -> None:
    handler = Listening()
    logger = logging.getLogger("agent.execution")
    logger.addHandler(handler)
    try:
        reply = Desk().run(text)
    finally:
        logger.removeHandler(handler)
    assert reply.outcome == "error"
    assert json.loads(reply.content)["error"] == "tool_failed"
    [record] = handler.told
    assert "secret" not in reply.content + str(record.__dict__)
    assert "ValueError" not in reply.content
    assert getattr(record, "tool", None) == "note"
    assert "test_execution.py:" in str(getattr(record, "places", "")) or text == "exit"


def test_an_action_the_contract_does_not_list_fails() -> None:
    desk = Desk()
    reply = desk.run("read")
    assert json.loads(reply.content)["error"] == "tool_failed"
    assert desk.table.items == {}


def test_a_file_the_tool_wrote_stands_in_the_reply() -> None:
    desk = Desk()
    reply = desk.run("file")
    assert reply.object_key == f"T/acme/{RUN}/a.csv"
    assert desk.table.objects == {reply.object_key: b"a"}


@pytest.mark.parametrize("text", ["x", '"\\\n', "ü€😀", "\x00"])
def test_a_result_over_the_cap_goes_to_the_bucket_whole_and_its_head_to_the_log(text: str) -> None:
    desk = Desk()
    reply = desk.run(text, times=500)
    whole = json.dumps({"text": text * 500}, ensure_ascii=False, separators=(",", ":"))
    assert reply.outcome == "ok"
    assert reply.object_key == f"T/acme/{RUN}/{CALL}.json"
    assert json.loads(desk.table.objects[reply.object_key]) == json.loads(whole)
    assert 100 < len(reply.content.encode()) <= note.contract.max_result_bytes
    answer = json.loads(reply.content)
    assert answer["truncated"] is True
    assert answer["bytes"] == len(desk.table.objects[reply.object_key])
    assert desk.table.objects[reply.object_key].decode().startswith(answer["head"])


def test_a_tool_that_outlives_its_timeout_is_lost() -> None:
    desk = Desk()
    waited: list[float] = []

    def give_up(done: threading.Event, seconds: float) -> bool:
        waited.append(seconds)
        return False

    desk.room = replace(desk.room, wait=give_up)
    with pytest.raises(ToolLost):
        desk.run("hang")
    assert waited == [7]


@pytest.mark.parametrize("text", ["break", "exit"])
def test_a_once_tool_that_breaks_off_is_lost_and_not_failed(text: str) -> None:
    with pytest.raises(ToolLost):
        Desk(once(note)).run(text)


def test_a_once_tools_own_error_is_still_a_result() -> None:
    assert Desk(once(note)).run("fail").outcome == "error"


class Listening(logging.Handler):
    """Keeps what is logged, whatever another test has set the loggers to."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record)


class Unreachable(MemoryRunLog):
    """A log that can't be read for the moment."""

    def events(self, *_: Any, **__: Any) -> list[Event]:
        raise StoreUnavailable("no")


@pytest.mark.parametrize("tested", [note, once(note)])
def test_where_the_log_can_not_be_read_nothing_runs_and_the_result_says_so(tested: Tool[Any]) -> None:
    desk = Desk(tested)
    desk.room = replace(desk.room, log=Unreachable())
    reply = execute(desk.room, "acme", RUN, CALL)
    assert json.loads(reply.content)["error"] == "store_unavailable"
    assert desk.table.items == {}


def test_the_time_a_call_took_is_in_the_reply() -> None:
    desk = Desk()

    def took(done: threading.Event, seconds: float) -> bool:
        desk.clock.advance(1.25)
        return done.wait(seconds)

    desk.room = replace(desk.room, wait=took)
    assert desk.run().duration_ms == 1250
