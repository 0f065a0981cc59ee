"""The terminal client against the real doors, on ports in memory, with a holder that works while the client waits."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from agent.admission import Room1
from agent.endings import EndReason
from agent.events import Decision, Verdict, WaitingFor
from agent.testing.controls import MemoryControlBook
from agent.testing.limits import MemoryLimitBook
from agent.testing.run_log import MemoryRunLog
from agent.watching import Room1Reader
from lambdas import shim, stream_events
from local import ask
from tests.agui.written_runs import WrittenRun
from tests.unit.gateway import ANNA, CLIENT, Answer, Context, request
from tests.unit.test_shim import RELEASE, Bell

Step = Callable[[WrittenRun], object]


class Cloud:
    """The API behind a transport. Each time somebody waits, the next step of the run is written."""

    def __init__(self, *steps: Step) -> None:
        self.log = MemoryRunLog()
        self.steps = list(steps)
        self.run: WrittenRun | None = None
        self.asked: list[str] = []
        self.faults: dict[int, Exception | httpx.Response | type[BaseException]] = {}
        self.meanwhile: dict[int, Step] = {}
        clock = WrittenRun().clock
        clients = frozenset({CLIENT})
        self._shim = shim.door(
            Room1(self.log, Bell(), clock, MemoryLimitBook(), RELEASE, MemoryControlBook(clock)), clients
        )
        self._stream = stream_events.door(Room1Reader(self.log, clock, self._wait), clients)
        self._clock = clock
        self.out = io.StringIO()

    def _wait(self, seconds: float) -> None:
        self._clock.advance(seconds)
        if self.steps:
            run = self.run or self._adopt()
            self.steps.pop(0)(run)

    def _adopt(self) -> WrittenRun:
        """Become the holder of the run that the client has created."""
        [header], _ = self.log.runs_of_user("acme", ANNA, limit=1)
        self.run = run = WrittenRun.__new__(WrittenRun)
        run.log, run.clock, run.turn, run.attempt, run.header = self.log, self._clock, 0, 0, header
        return run

    def _transport(self, asked: httpx.Request) -> httpx.Response:
        self.asked.append(f"{asked.method} {asked.url.path}")
        if self.run and (step := self.meanwhile.get(len(self.asked))):
            step(self.run)
        fault = self.faults.get(len(self.asked))
        if isinstance(fault, httpx.Response):
            return fault
        if fault is not None:
            raise fault
        path = asked.url.path.removeprefix("/v1")
        names = {"last-event-id": "Last-Event-ID", "accept": "Accept", "content-type": "Content-Type"}
        headers = {names[name]: value for name, value in asked.headers.items() if name in names}
        door = self._stream if path.endswith("/events") else self._shim
        event = request(asked.method, path, raw=asked.content.decode() or None, headers=headers)
        answer = Answer.read(door(event, Context()))
        if self.run:  # a wish of the user's has moved the log
            self.run.header = self.log.header("acme", self.run.header.run_id) or self.run.header
        return httpx.Response(answer.status, headers=answer.headers, text=answer.text)

    def ask(self) -> int:
        console = Console(file=self.out, width=100, highlight=False)
        with httpx.Client(base_url="http://127.0.0.1:1/v1", transport=httpx.MockTransport(self._transport)) as client:
            return ask.Asking(client, console, sleep=lambda seconds: None).ask("Where is order 1001?")

    @property
    def printed(self) -> list[str]:
        return self.out.getvalue().splitlines()[1:]


def answered() -> list[Step]:
    def call(run: WrittenRun) -> None:
        decision = run.decide(tool="export_orders", queued=True, shown=True)
        run.answer("Let me look.", calls=(decision,))
        run.queue(decision)
        run.wait()

    def work(run: WrittenRun) -> None:
        decision = run.decide(tool="export_orders", queued=True, shown=True)
        run.start(decision, outside=True)
        run.tell(decision, 0, "10 of 40 orders\x1b[2J")
        run.finish(decision, outside=True)

    return [
        lambda run: run.claim(),
        lambda run: run.think(),
        lambda run: run.stream("Let me"),
        call,
        work,
        lambda run: run.claim(),
        lambda run: run.think(),
        lambda run: run.stream("On its "),
        lambda run: run.stream("way.\x1b[2J\x07"),
        lambda run: run.answer("On its way.\x1b[2J\x07 Bye."),
        lambda run: run.end(EndReason.ANSWERED, answer="On its way."),
    ]


def test_it_shows_what_happens_as_it_happens_and_leaves_with_0() -> None:
    cloud = Cloud(*answered())
    assert cloud.ask() == ask.ANSWERED
    assert cloud.printed == [
        "· queued",
        "· running",
        "Let me look.",
        "· export_orders …",
        "· export_orders: queued",
        "· waiting for tool",
        "· export_orders: started",
        "· export_orders: 10 of 40 orders\N{REPLACEMENT CHARACTER}[2J",
        "· export_orders: ok",
        "· running",
        "On its way.\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER} Bye.",
    ]


def test_it_says_that_an_approver_is_needed_and_what_came_of_it() -> None:
    call: list[Decision] = []

    def ask_for_approval(run: WrittenRun) -> None:
        call.append(run.decide(tool="issue_refund", verdict=Verdict.ASK))
        run.answer("That needs a person.", calls=tuple(call))
        run.request(call[0])
        run.wait(WaitingFor.APPROVAL)

    def decided(run: WrittenRun) -> None:
        run.settle(call[0], "reject")
        run.claim()
        run.give_up(call[0], "approval_rejected")

    begin: list[Step] = [lambda run: run.claim(), lambda run: run.think()]
    end: list[Step] = [
        lambda run: run.think(),
        lambda run: run.answer("It was rejected."),
        lambda run: run.end(EndReason.ANSWERED, answer="It was rejected."),
    ]
    cloud = Cloud(*begin, ask_for_approval, decided, *end)
    assert cloud.ask() == ask.ANSWERED
    needed = cloud.printed.index("· issue_refund …") + 1
    assert re.fullmatch(r"· issue_refund: needs an approver \(apr_[0-9A-Z]{26}_1_0\)", cloud.printed[needed])
    assert cloud.printed[needed + 1 :] == [
        "· waiting for approval",
        "· issue_refund: rejected",
        "· running",
        "· issue_refund: error",
        "It was rejected.",
    ]


def test_a_connection_that_breaks_is_taken_up_where_it_was() -> None:
    cloud = Cloud(*answered())
    cloud.faults = {3: httpx.ReadTimeout("slow"), 5: httpx.ConnectError("gone"), 6: httpx.RemoteProtocolError("cut")}
    assert cloud.ask() == ask.ANSWERED
    untroubled = Cloud(*answered())
    untroubled.ask()
    assert cloud.printed == untroubled.printed


def test_a_cloud_that_is_gone_is_given_up_after_some_tries() -> None:
    cloud = Cloud()
    cloud.faults = {number: httpx.ConnectError("refused") for number in range(2, 20)}
    with pytest.raises(ask.CannotAsk, match="lost the connection") as wrong:
        cloud.ask()
    assert wrong.value.code == ask.UNREACHABLE
    assert len(cloud.asked) == 1 + ask.MAX_FAILURES


def test_ctrl_c_cancels_the_run_and_waits_for_its_end() -> None:
    cloud = Cloud(
        lambda run: run.claim(),
        lambda run: run.think(),
        lambda run: run.stream("Once upon"),
        lambda run: run.end(EndReason.CANCELLED),
    )
    cloud.faults = {5: KeyboardInterrupt}
    assert cloud.ask() == ask.CANCELLED
    assert any(path.endswith("/cancel") for path in cloud.asked)
    assert cloud.run
    assert cloud.run.header.cancel_requested
    assert cloud.printed == ["· queued", "· running", "Once upon", "· cancelling; Ctrl-C again leaves at once"]


def test_ctrl_c_after_the_run_has_ended_shows_the_end_all_the_same() -> None:
    cloud = Cloud(lambda run: run.claim())
    cloud.meanwhile = {4: lambda run: run.end(EndReason.ANSWERED, answer="")}
    cloud.faults = {4: KeyboardInterrupt}
    assert cloud.ask() == ask.ANSWERED
    assert cloud.printed[-1] == "· the run is over; there is nothing left to cancel (run_over)"


def test_a_run_that_ends_without_an_answer_says_why_and_leaves_with_1() -> None:
    cloud = Cloud(lambda run: run.claim(), lambda run: run.end(EndReason.MAX_TURNS))
    assert cloud.ask() == ask.UNANSWERED
    assert cloud.printed[-1].startswith("The agent stopped because it needed more steps than it is allowed.")


def test_an_answer_that_begins_anew_is_said_to() -> None:
    def again(run: WrittenRun) -> None:
        run.lose()
        run.think(again=True)

    cloud = Cloud(
        lambda run: run.claim(),
        lambda run: run.think(),
        lambda run: run.stream("It is lo"),
        again,
        lambda run: run.answer("It is on its way."),
        lambda run: run.end(EndReason.ANSWERED, answer="It is on its way."),
    )
    assert cloud.ask() == ask.ANSWERED
    assert cloud.printed[2:] == ["It is lo", "· that answer was cut off; here is another attempt", "It is on its way."]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            httpx.Response(401, json={"detail": "the token is not an access token", "code": "not_authenticated"}),
            r"the token is not an access token \(not_authenticated\)",
        ),
        (httpx.Response(502, text="<html>"), "the API answered 502"),
    ],
)
def test_a_refusal_is_said_in_the_apis_own_words(fault: httpx.Response, words: str) -> None:
    cloud = Cloud()
    cloud.faults = {1: fault}
    with pytest.raises(ask.CannotAsk, match=words) as wrong:
        cloud.ask()
    assert wrong.value.code == ask.REFUSED


def command(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    monkeypatch.setenv("KEEPGATE_LOCAL", str(folder))
    app = ask.typer.Typer()
    app.command()(ask.main)
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.output


def test_without_a_cloud_it_says_how_to_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = command(tmp_path, monkeypatch, "Where is order 1001?")
    assert (code, "start `make run` first" in said) == (ask.UNREACHABLE, True)


def test_an_unknown_person_is_told_who_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = {"url": "http://127.0.0.1:1/v1", "tokens": {"acme-user": "t", "globex-user": "t"}}
    (tmp_path / "endpoint.json").write_text(json.dumps(endpoint))
    code, said = command(tmp_path, monkeypatch, "--as", "eve", "Where is order 1001?")
    assert (code, said) == (2, "error: nobody is called eve; there are acme-user, globex-user\n")


def test_a_cloud_that_does_not_listen_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = {"url": "http://127.0.0.1:1/v1", "tokens": {"acme-user": "t"}}
    (tmp_path / "endpoint.json").write_text(json.dumps(endpoint))
    code, said = command(tmp_path, monkeypatch, "Where is order 1001?")
    assert (code, "does not answer" in said) == (ask.UNREACHABLE, True)
