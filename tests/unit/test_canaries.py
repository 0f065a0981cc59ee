"""Canaries of each kind, planted in every input of every door, are told nowhere: logs, spans, metrics, errors."""

import json
import logging
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
from pydantic import BaseModel

from agent import detectors, redaction
from agent.contracts import Effect
from agent.events import RunEnded
from agent.identity import Principal, Role
from agent.pricing import Price, Prices
from agent.queued_calls import QueueWorker
from agent.testing.cloud import MemoryCloud
from agent.testing.model import ScriptedModel, asks, says
from agent.testing.rooms import FixedPolicy
from agent.tools import Arguments, ToolContext, ToolFailed, by_name, tool
from agent.watching import Room1Reader
from lambdas import run_agent, run_tool, shim, stream_events, sweep_runs, telemetry, work_tool_queue
from lambdas.settings import Settings
from lambdas.telemetry import InvocationFailed
from tests import sample_agent
from tests.canaries import ALL, CANARIES, TENANT, seen_in
from tests.spans import Spans, spans
from tests.unit.gateway import ANNA, BEN, CLIENT, Answer, Context, request

__all__ = ["spans"]


class Anything(Arguments):
    text: str


class Said(BaseModel):
    text: str


def tools(careless: Callable[[str], None]) -> Any:
    """Return tools that get canaries, bring canaries, and break with them; `careless` is what one does besides."""

    @tool(effect=Effect.READ, mode="idempotent", resource="Item::{text}", shown_to_user=True)
    def look(args: Anything, context: ToolContext) -> Said:
        """Look it up, wherever it may be."""
        careless(args.text)
        return Said(text=ALL)

    @tool(effect=Effect.READ, mode="idempotent", resource="Item::{text}", errors=("not_found",))
    def refuse(args: Anything, context: ToolContext) -> Said:
        """Say no, and quote what is not there."""
        raise ToolFailed("not_found", f"no {ALL}")

    @tool(effect=Effect.READ, mode="idempotent", resource="Item::{text}")
    def crash(args: Anything, context: ToolContext) -> Said:
        """Break, with a message full of data."""
        raise ValueError(ALL)

    @tool(effect=Effect.DESTRUCTIVE, mode="once", resource="Item::{text}", parallel=False)
    def pay(args: Anything, context: ToolContext) -> Said:
        """Pay, after somebody has approved it."""
        return Said(text=ALL)

    @tool(effect=Effect.READ, mode="idempotent", resource="Item::{text}", queued=True, timeout_s=60)
    def export(args: Anything, context: ToolContext) -> Said:
        """Export it slowly, through the queue."""
        context.progress(ALL)
        return Said(text=ALL)

    return by_name([look, refuse, crash, pay, export])


class Doors:
    """Every function as it is deployed, telemetry included, on one cloud in memory."""

    def __init__(self, careless: Callable[[str], None]) -> None:
        names = ("look", "refuse", "crash", "export", "pay")
        planted: dict[str, Any] = {"text": ALL}
        model = ScriptedModel(
            asks(*((name, planted) for name in names[:4]), ("no_such_" + CANARIES["email"], planted), text=ALL),
            asks(("look", {TENANT: ALL}), ("look", "no JSON " + ALL), ("pay", planted), text=ALL),
            says(*(f"{ALL} " for _ in range(3))),
            failing={0: [[fail_with_canaries]]},
        )
        release = sample_agent.release().model_copy(update={"tools": names})
        self.cloud = MemoryCloud(
            release,
            tools(careless),
            model,
            prices=Prices({sample_agent.MODEL: Price.model_validate(sample_agent.PRICE)}),
            policy=FixedPolicy({"pay": "ask"}),
        )
        self.tell = telemetry.start(Settings(stage="test", service="run_tool", trace_exporter="none"))
        cloud, enter = self.cloud, self.tell.door
        room, clients = cloud.room1(), frozenset({CLIENT})
        self.api = enter(shim.door(room, clients))
        self.stream = enter(stream_events.door(Room1Reader(cloud.log, cloud.clock, cloud.clock.sleep), clients))
        self.agent = enter(run_agent.door(cloud.runtime(), self.tell.count_run))
        tool_room = cloud.tool_runner._room
        self.tool = run_tool.door(tool_room, self.tell, end_process=lambda _: None)
        worker = QueueWorker(
            log=cloud.log,
            tool_runner=cloud.tool_runner,
            wake=cloud.wake,
            dispatcher=cloud.dispatcher(),
            breakers=cloud.runtime().breakers,
            notes=cloud.notes,
            tools=cloud.tools,
            clock=cloud.clock,
            controls=cloud.controls,
            agent="sample",
            releases=lambda _: release,
        )
        self.queue = work_tool_queue.door(worker, self.tell, max_receives=3)
        self.sweep = enter(sweep_runs.door(cloud.sweeper()))
        self.problems: list[str] = []

    def ask(self, method: str, path: str, body: object = None, **how: Any) -> Answer:
        headers = {"User-Agent": ALL, "X-Canary": ALL, "Referer": ALL, **how.pop("headers", {})}
        door = self.stream if path.endswith("/events") else self.api
        answer = Answer.read(door(request(method, path, body, headers=headers, **how), Context()))
        if answer.status >= 400:
            self.problems.append(answer.text or "")
        return answer

    def work(self) -> None:
        """Deliver wakes and jobs through the doors."""
        while self.cloud.wake.runs or self.cloud.queue.jobs:
            if self.cloud.wake.runs:
                tenant_id, run_id = self.cloud.wake.runs.popleft()
                self.agent({"tenant_id": tenant_id, "run_id": run_id}, Context(280_000))
            else:
                self.queue(_message(self.cloud.queue.jobs.popleft().model_dump_json()), Context(280_000))


def _message(body: str) -> dict[str, Any]:
    attributes = {"ApproximateReceiveCount": "1"}
    return {"Records": [{"messageId": "1", "eventSource": "aws:sqs", "body": body, "attributes": attributes}]}


def fail_with_canaries() -> None:
    from agent.errors import ModelUnavailable

    raise ModelUnavailable(ALL)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[StringIO]:
    """What every logger prints, at any level."""
    monkeypatch.setenv("POWERTOOLS_LOG_LEVEL", "DEBUG")
    names = ("", *telemetry.LIBRARIES)
    kept = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).propagate) for name in names}
    levels = {name: logging.getLogger(name).level for name in names}
    printed = StringIO()
    start = telemetry.start

    def start_and_listen(settings: Settings) -> telemetry.Telemetry:
        tell = start(settings)
        handler = tell.logger.registered_handler
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(printed)
        for name in ("agent", "lambdas", "support_desk"):
            logging.getLogger(name).setLevel(logging.DEBUG)
        return tell

    monkeypatch.setattr(telemetry, "start", start_and_listen)
    yield printed
    for name, (handlers, propagate) in kept.items():
        logging.getLogger(name).handlers = handlers
        logging.getLogger(name).propagate = propagate
        logging.getLogger(name).setLevel(levels[name])


def whole_story(doors: Doors) -> None:
    """Plant canaries in every input there is, and let every door do its work."""
    planted: dict[str, Any] = {"input": ALL, "session_id": TENANT, "metadata": {"order": ALL[:400], TENANT: "x"}}
    created = doors.ask("POST", "/runs", planted, headers={"Idempotency-Key": "canary.7391-key"})
    run_id = created.body["run_id"]
    doors.work()
    [pending] = doors.ask("GET", f"/runs/{run_id}").body["pending_approvals"]
    bea = {"sub": BEN, "cognito:groups": "approver"}
    doors.cloud.directory.put(Principal(tenant_id="acme", user_id=ANNA, roles=frozenset({Role.USER})))
    doors.cloud.directory.put(Principal(tenant_id="acme", user_id=BEN, roles=frozenset({Role.APPROVER})))
    approval = f"/approvals/{pending['approval_id']}"
    assert doors.ask("POST", approval, {"decision": "approve", "reason": ALL}, claims=bea).status == 200
    doors.work()
    state = doors.cloud.state(run_id)
    assert isinstance(state.ended, RunEnded)
    assert state.ended.answer
    assert "4539 1488" in state.ended.answer, "the canaries were where they can leak from"
    doors.ask("POST", f"/runs/{run_id}/feedback", {"rating": "down", "comment": ALL})
    assert doors.ask("GET", f"/runs/{run_id}/events", headers={"Accept": "application/json"}).status == 200
    second = doors.ask("POST", "/runs", {**planted, "input": f"again {ALL}"})
    doors.work()
    doors.ask("POST", f"/runs/{second.body['run_id']}/cancel")
    doors.work()
    refused(doors, run_id)
    doors.sweep({}, Context())


def refused(doors: Doors, run_id: str) -> None:
    """Do all that is refused, with canaries where the caller has a say."""
    claims = {"sub": BEN}
    ask = doors.ask
    # A caller is told which of the own fields is wrong, by its name: so the name here is none of another tenant.
    ask("POST", "/runs", {"input": ALL, "|".join(CANARIES.values()): ALL})
    ask("POST", "/runs", {"input": 7, "metadata": {CANARIES["email"]: ALL * 50}})
    ask("POST", "/runs", raw='{"input": "' + ALL)
    ask("POST", "/runs", raw='{"a@canary.example": 1, "a@canary.example": 2}')
    ask("POST", "/runs", {"input": ALL + "\x07"})
    ask("POST", "/runs", {"input": "x", "session_id": ALL})
    ask("POST", "/runs", {"input": "x"}, headers={"Idempotency-Key": ALL})
    ask("POST", "/runs", {"input": "other"}, headers={"Idempotency-Key": "canary.7391-key"})
    ask("POST", "/runs", {"input": "x"}, headers={"Content-Type": ALL})
    ask("GET", f"/runs/{CANARIES['email']}")
    ask("GET", f"/{CANARIES['card']}")
    ask("GET", f"/runs/{run_id}", claims=claims)
    ask("GET", "/runs", query={"cursor": ALL})
    ask("GET", f"/runs/{run_id}/events", headers={"Last-Event-ID": ALL})
    ask("GET", "/approvals", claims={"cognito:groups": ALL})
    ask("POST", f"/approvals/{CANARIES['email']}", {"decision": ALL}, claims={"cognito:groups": "approver"})
    ask("GET", "/runs", claims={"tenant_id": CANARIES["email"]})
    ask("GET", "/runs", claims={"sub": ALL, "scope": ALL})
    assert len(doors.problems) >= 16
    assert doors.tool({"tenant_id": "acme", "run_id": run_id, "call_id": "call_1_0"}, Context())["refused"]
    assert doors.tool({"tenant_id": ALL, "run_id": ALL, "call_id": ALL, ALL: ALL}, Context())["refused"]
    doors.queue(_message(json.dumps({"tenant_id": "acme", "run_id": "x", "call_id": ALL})), Context(280_000))
    doors.queue(_message(ALL), Context(280_000))
    doors.sweep({"requestPayload": {"input": ALL}, "requestContext": {"condition": ALL}}, Context())
    with pytest.raises(InvocationFailed) as failed:
        doors.agent({"tenant_id": ALL, "input": ALL}, Context())
    doors.problems.append(str(failed.value))


def everything_told(printed: StringIO, spans: Spans, captured: tuple[str, str], doors: Doors) -> dict[str, str]:
    """Return what went out, by channel."""
    return {
        "logs": printed.getvalue(),
        "spans": "\n".join(span.to_json() for span in spans.finished()),
        "metrics and what was printed": "".join(captured),
        "errors": "\n".join(doors.problems),
    }


def test_no_canary_is_told_in_any_channel(told: StringIO, spans: Spans, capsys: pytest.CaptureFixture[str]) -> None:
    doors = Doors(careless=lambda text: None)
    whole_story(doors)
    channels = everything_told(told, spans, capsys.readouterr(), doors)
    assert all(len(text) > 500 for text in channels.values()), "each channel was really used"
    assert {name: seen for name, text in channels.items() if (seen := seen_in(text))} == {}


def log_and_trace(text: str) -> None:
    """What a careless author of a tool writes. Only what has no form to be found by is left out."""
    from opentelemetry import trace

    text = text.replace(TENANT, "")
    for name in ("support_desk.tools.look", "some.library"):
        logging.getLogger(name).warning("looked up %s", text, extra={"arguments": {"text": [text]}})
    trace.get_current_span().set_attribute("text", text)


def test_what_a_careless_tool_logs_and_traces_is_redacted(
    told: StringIO, spans: Spans, capsys: pytest.CaptureFixture[str]
) -> None:
    doors = Doors(careless=log_and_trace)
    whole_story(doors)
    channels = everything_told(told, spans, capsys.readouterr(), doors)
    # The exporters redact, and stand behind what the test records spans with: see test_telemetry.
    channels.pop("spans")
    assert {name: seen for name, text in channels.items() if (seen := seen_in(text))} == {}


def test_without_redaction_the_canaries_of_a_careless_tool_are_seen(
    told: StringIO, spans: Spans, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check fails where the guard is broken: this test breaks it."""
    monkeypatch.setattr(detectors, "find", lambda _text: [])
    assert redaction.redact(ALL) == ALL
    doors = Doors(careless=log_and_trace)
    whole_story(doors)
    channels = everything_told(told, spans, capsys.readouterr(), doors)
    assert len(seen_in(channels["logs"])) >= 8
    assert len(seen_in(channels["spans"])) >= 8
