"""Where a switch takes effect: at admission, between steps, in mid-call, before the next tool and in the queue.

Each of these is tested twice: with the switches as they are, and with a book that sees none. The second is the broken
guard, and shows that the first would not pass without it.
"""

import threading
import time
from datetime import timedelta

import pytest

from agent.contracts import canonical_json
from agent.controls import Board, Switch, Target
from agent.endings import END, Status
from agent.errors import StoreUnavailable, SwitchedOff, ToolLost, UserSwitchedOff
from agent.held_run import DEAF_S
from agent.ports.model import TextDelta
from agent.testing.controls import BlindControlBook
from agent.testing.model import asks, says
from agent.testing.rooms import FixedPolicy
from tests.sample_agent import FALLBACK, MODEL, QUESTION, SampleCloud

ACME, OWN = Board("acme"), Board("acme", by_tenant=True)
LOOK = ("look", {"item": "a"})
PAY = ("pay", {"item": "a"})
EXPORT = ("export", {"item": "a"})
HANG_S = 1.0
STOPS = ["everything", "user:ann", "agent:sample", "release:sample-1"]


def off(cloud, target="everything", *, board=ACME, minutes=60):
    kind, _, name = target.partition(":")
    now = cloud.clock.now()
    until = now + timedelta(minutes=minutes)
    at = Target(kind=kind, name=name)
    cloud.switches.switch_on(board, Switch(target=at, reason="a test", by="olga", created_at=now, expires_at=until))


class Desk(SampleCloud):
    """The sample agent, whose processes read the switches, or none of them."""

    def __init__(self, *turns, sees=True, **around):
        super().__init__(*turns, **around)
        self.switches = self.controls
        if not sees:
            self.controls = BlindControlBook()

    def reason(self, run):
        ended = self.state(run).ended
        assert ended.message == END[ended.reason][1]
        return ended.reason.value

    def results(self, run):
        return {
            event.data.call_id: getattr(event.data, "content", None) or event.data.cause
            for event in self.events(run)
            if event.type in {"tool.completed", "tool.outcome_unknown"}
        }


@pytest.fixture(params=[True, False], ids=["guarded", "broken guard"])
def sees(request):
    return request.param


# Admission


@pytest.mark.parametrize("target", [*STOPS, "new_runs"])
@pytest.mark.parametrize("board", [Board(), ACME, OWN], ids=["platform", "on tenant", "by tenant"])
def test_no_run_begins_while_it_is_switched_off(sees, target, board):
    cloud = Desk(says("Hello."), sees=sees)
    off(cloud, target, board=board)
    if not sees:
        cloud.ask(QUESTION)
        return
    with pytest.raises(UserSwitchedOff if target.startswith("user") else SwitchedOff) as refusal:
        cloud.ask(QUESTION)
    assert getattr(refusal.value, "retry_after_s", 3600) == 3600
    cloud.clock.advance(3600)
    cloud.ask(QUESTION)


@pytest.mark.parametrize("target", ["user:bob", "agent:other", "release:sample-2", "tool:look", f"model:{MODEL}"])
def test_what_is_switched_for_others_refuses_nobody_else(target):
    cloud = Desk(says("Hello."))
    off(cloud, target)
    off(cloud, "everything", board=Board("globex"))
    cloud.run_until_idle()
    assert cloud.ask(QUESTION)


def test_no_run_begins_while_the_switches_cannot_be_read():
    cloud = Desk(says("Hello."))
    cloud.switches.is_down = True
    with pytest.raises(StoreUnavailable):
        cloud.ask(QUESTION)


# Between steps


@pytest.mark.parametrize("target", STOPS)
def test_a_run_that_was_admitted_before_calls_no_model(sees, target):
    cloud = Desk(says("Hello."), sees=sees)
    run = cloud.ask(QUESTION)
    off(cloud, target)
    cloud.run_until_idle()
    assert (cloud.reason(run), len(cloud.script.requests)) == (("switched_off", 0) if sees else ("answered", 1))


def test_new_runs_alone_are_refused_where_only_they_are_switched_off():
    cloud = Desk(asks(LOOK), says("Hello."))
    run = cloud.ask(QUESTION)
    off(cloud, "new_runs")
    cloud.run_until_idle()
    assert cloud.reason(run) == "answered"


def test_a_run_is_stopped_between_its_steps(sees):
    cloud = Desk(asks(LOOK), says("Hello."), sees=sees)
    run = cloud.ask(QUESTION)
    room = cloud.tool_runner.run

    def flip(*ids, **how):
        off(cloud)
        return room(*ids, **how)

    cloud.tool_runner.run = flip
    cloud.run_until_idle()
    assert (cloud.reason(run), len(cloud.script.requests)) == (("switched_off", 1) if sees else ("answered", 2))


def test_a_stopped_run_leaves_its_session_usable():
    cloud = Desk(says("Hello."))
    first = cloud.ask("My name is Ann.", session_id="s")
    off(cloud, minutes=1)
    cloud.run_until_idle()
    cloud.clock.advance(60)
    second = cloud.ask("What is my name?", session_id="s")
    cloud.run_until_idle()
    assert (cloud.reason(first), cloud.reason(second)) == ("switched_off", "answered")
    assert cloud.state(first).ended.status is Status.FAILED


def test_a_switch_ends_by_the_clock_whatever_is_still_stored():
    cloud = Desk(asks(LOOK), says("Hello."))
    off(cloud, minutes=1)
    off(cloud, "tool:look", minutes=1)
    cloud.clock.advance(60)
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert (cloud.reason(run), cloud.effects.total()) == ("answered", 1)


# In mid-call


def silence():
    threading.Event().wait(HANG_S)


def test_a_streaming_answer_is_cut_short(sees):
    cloud = Desk([TextDelta(0, "Let me"), lambda: off(cloud), silence, *says(" tell you.")], sees=sees)
    run = cloud.ask(QUESTION)
    began = time.monotonic()
    cloud.run_until_idle()
    assert (time.monotonic() - began < HANG_S) is sees
    assert cloud.reason(run) == ("switched_off" if sees else "answered")


def test_a_running_tool_is_not_waited_for_when_its_run_is_stopped(sees):
    cloud = Desk(asks(PAY), says("Paid."), sees=sees)
    run = cloud.ask(QUESTION)
    room = cloud.tool_runner.run

    def slow(*ids, **how):
        off(cloud)
        silence()
        return room(*ids, **how)

    cloud.tool_runner.run = slow
    began = time.monotonic()
    cloud.run_until_idle()
    assert (time.monotonic() - began < HANG_S) is sees
    assert cloud.reason(run) == ("switched_off" if sees else "answered")
    assert (cloud.results(run)["call_1_0"] == "run_ended_switched_off") is sees


def test_what_a_tool_says_that_was_switched_off_meanwhile_enters_the_run_no_more(sees):
    cloud = Desk(asks(LOOK, ("look", {"item": "b"})), says("Done."), sees=sees)
    run = cloud.ask(QUESTION)
    room, quick = cloud.tool_runner.run, threading.Event()

    def slow(tenant_id, run_id, call_id, **how):
        if call_id == "call_1_0":
            reply = room(tenant_id, run_id, call_id, **how)
            quick.set()
            return reply
        quick.wait(5)
        threading.Event().wait(0.2)
        off(cloud, "tool:look")
        silence()
        return room(tenant_id, run_id, call_id, **how)

    cloud.tool_runner.run = slow
    cloud.run_until_idle()
    assert cloud.reason(run) == "answered"
    results = cloud.results(run)
    assert "looked a" in results["call_1_0"]
    assert results["call_1_1"] == ("switched_off" if sees else canonical_json({"done": "looked b"}))


# The next tool


def test_a_tool_that_was_switched_off_while_the_model_wrote_does_not_begin(sees):
    cloud = Desk([lambda: off(cloud, "tool:pay"), *asks(PAY)], says("I can't."), sees=sees)
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    [decision] = cloud.state(run).turns[0].completed.decisions
    assert decision.code == ("tool_switched_off" if sees else "allowed")
    assert (cloud.reason(run), cloud.effects.total()) == ("answered", 0 if sees else 1)
    told = canonical_json(cloud.script.requests[-1].messages[-1])
    assert ("switched off by its operators" in told) is sees


def test_a_call_that_was_allowed_does_not_begin_once_its_tool_is_switched_off(sees):
    """The switch falls while a call before it in the same turn runs: both starts are in the log already."""
    cloud = Desk(asks(("save", {"item": "a"}), PAY), says("Done."), sees=sees)
    run = cloud.ask(QUESTION)
    room = cloud.tool_runner.run

    def flip(*ids, **how):
        off(cloud, "tool:pay")
        return room(*ids, **how)

    cloud.tool_runner.run = flip
    cloud.run_until_idle()
    assert [name.split()[0] for name in cloud.effects] == (["save"] if sees else ["save", "pay"])
    assert ("tool_switched_off" in cloud.results(run)["call_1_1"]) is sees
    assert cloud.reason(run) == "answered"


def test_a_lost_call_is_not_begun_again_once_its_tool_is_switched_off(sees):
    cloud = Desk(asks(LOOK), says("Done."), sees=sees)
    run = cloud.ask(QUESTION)
    room, losses = cloud.tool_runner.run, iter([True])

    def lossy(*ids, **how):
        if next(losses, False):
            off(cloud, "tool:look")
            raise ToolLost("gone")
        return room(*ids, **how)

    cloud.tool_runner.run = lossy
    cloud.run_until_idle()
    assert cloud.effects.total() == (0 if sees else 1)
    assert (cloud.results(run)["call_1_0"] == "switched_off") is sees


@pytest.mark.parametrize("target", ["tool:pay", "everything"])
def test_an_approved_call_does_not_begin_once_it_is_switched_off(sees, target):
    cloud = Desk(asks(PAY), says("Done."), sees=sees, policy=FixedPolicy({"pay": "ask"}))
    run = cloud.ask(QUESTION)
    cloud.deliver()
    [request] = cloud.state(run).header.approvals
    off(cloud, target)
    cloud.decide(request.approval_id)
    cloud.run_until_idle()
    assert cloud.effects.total() == (0 if sees else 1)
    assert cloud.reason(run) == ("answered" if not sees or target == "tool:pay" else "switched_off")


def test_an_approval_waits_while_its_tool_is_switched_off_and_holds_when_it_is_on_again():
    cloud = Desk(asks(PAY), says("Done."), policy=FixedPolicy({"pay": "ask"}))
    run = cloud.ask(QUESTION)
    cloud.deliver()
    off(cloud, "tool:pay", minutes=5)
    cloud.invoke("acme", run)
    assert cloud.state(run).header.status is Status.WAITING
    cloud.clock.advance(301)
    cloud.decide(cloud.state(run).header.approvals[0].approval_id)
    cloud.run_until_idle()
    assert cloud.effects.total() == 1


# The queue


@pytest.mark.parametrize("target", ["tool:ship", "everything", "user:ann", "read_only"])
def test_a_queued_call_does_not_begin_once_it_is_switched_off(sees, target):
    cloud = Desk(asks(("ship", {"item": "a"})), says("Done."), sees=sees)
    run = cloud.ask(QUESTION)
    cloud.invoke("acme", run)
    cloud.wake.runs.clear()
    assert cloud.state(run).header.status is Status.WAITING
    off(cloud, target)
    cloud.run_until_idle()
    assert cloud.effects.total() == (0 if sees else 1)
    assert cloud.reason(run) == ("answered" if not sees or target in {"tool:ship", "read_only"} else "switched_off")


def test_a_queued_call_waits_in_the_queue_while_the_switches_cannot_be_read():
    cloud = Desk(asks(EXPORT), says("Done."))
    run = cloud.ask(QUESTION)
    cloud.invoke("acme", run)
    cloud.wake.runs.clear()
    cloud.switches.is_down = True
    cloud.invoke("acme", run)
    assert cloud.effects.total() == 0
    cloud.switches.is_down = False
    cloud.run_until_idle()
    assert (cloud.reason(run), cloud.effects.total()) == ("answered", 1)


# Models


def with_fallback(cloud):
    other = cloud.release.model.model_copy(update={"id": FALLBACK})
    cloud.release = cloud.release.model_copy(update={"fallback": other})


@pytest.mark.parametrize("fallback", [True, False])
def test_the_fallback_takes_over_from_a_model_that_is_switched_off(sees, fallback):
    cloud = Desk(says("Hello."), sees=sees)
    if fallback:
        with_fallback(cloud)
    off(cloud, f"model:{MODEL}", board=Board())
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    asked = [request.model_id for request in cloud.script.requests]
    assert asked == ([MODEL] if not sees else [FALLBACK] if fallback else [])
    assert cloud.reason(run) == ("answered" if fallback or not sees else "switched_off")


@pytest.mark.parametrize("shown", [True, False])
def test_a_model_that_is_switched_off_in_mid_answer_is_followed_by_another_unless_text_was_shown(shown):
    first = [*([TextDelta(0, "Let me")] if shown else []), lambda: off(cloud, f"model:{MODEL}"), silence]
    cloud = Desk(says("Hello."), failing={0: [first]})
    with_fallback(cloud)
    run = cloud.ask(QUESTION)
    began = time.monotonic()
    cloud.run_until_idle()
    assert time.monotonic() - began < HANG_S
    asked = [request.model_id for request in cloud.script.requests]
    assert (cloud.reason(run), asked) == (("switched_off", [MODEL]) if shown else ("answered", [MODEL, FALLBACK]))
    assert next(e.data.error for e in cloud.events(run) if e.type == "model.failed") == "model_switched_off"
    assert not cloud.breakers.failures


# Failing closed


def test_nothing_begins_while_the_switches_cannot_be_read_and_nothing_is_lost():
    cloud = Desk([lambda: down(True), *asks(PAY)], says("Done."))

    def down(is_down):
        cloud.switches.is_down = is_down

    run = cloud.ask(QUESTION)
    cloud.invoke("acme", run)
    [decision] = cloud.state(run).turns[0].completed.decisions
    assert decision.code == "controls_unavailable"
    cloud.invoke("acme", run)
    assert (len(cloud.script.requests), cloud.effects.total()) == (1, 0)
    down(False)
    cloud.run_until_idle()
    assert (cloud.reason(run), len(cloud.script.requests)) == ("answered", 2)


def test_a_tool_result_is_kept_while_the_switches_cannot_be_read():
    cloud = Desk(asks(PAY), says("Done."))
    run = cloud.ask(QUESTION)
    room = cloud.tool_runner.run

    def fall(*ids, **how):
        cloud.switches.is_down = True
        return room(*ids, **how)

    cloud.tool_runner.run = fall
    cloud.invoke("acme", run)
    assert "paid" in cloud.results(run)["call_1_0"]
    cloud.switches.is_down = False
    cloud.run_until_idle()
    assert (cloud.reason(run), cloud.effects.total()) == ("answered", 1)


@pytest.mark.parametrize(("seconds", "goes_on"), [(DEAF_S - 1, True), (DEAF_S + 1, False)])
def test_a_streaming_answer_outlives_a_hiccup_of_the_switches_and_no_more(seconds, goes_on):
    def hiccup():
        cloud.switches.is_down = True
        cloud.clock.advance(seconds)
        threading.Event().wait(0.2)
        cloud.switches.is_down = not goes_on

    cloud = Desk(says("Hello."), failing={0: [[TextDelta(0, "So"), hiccup, *says(" be it.")]]})
    run = cloud.ask(QUESTION)
    cloud.invoke("acme", run)
    assert cloud.state(run).header.is_over is goes_on
    cloud.switches.is_down = False
    cloud.run_until_idle()
    assert cloud.reason(run) == "answered"
    assert len(cloud.script.requests) == (1 if goes_on else 2)


def test_an_approval_is_not_voided_because_the_switches_cannot_be_read():
    cloud = Desk(asks(PAY), says("Done."), policy=FixedPolicy({"pay": "ask"}))
    run = cloud.ask(QUESTION)
    cloud.deliver()
    cloud.decide(cloud.state(run).header.approvals[0].approval_id)
    cloud.switches.is_down = True
    cloud.invoke("acme", run)
    assert cloud.effects.total() == 0
    cloud.switches.is_down = False
    cloud.run_until_idle()
    assert (cloud.reason(run), cloud.effects.total()) == ("answered", 1)


def test_a_running_tool_is_waited_for_while_the_switches_cannot_be_read():
    """It can't be stopped from outside, and what it did would not be known."""
    cloud = Desk(asks(PAY), says("Done."))
    run = cloud.ask(QUESTION)
    room = cloud.tool_runner.run

    def slow(*ids, **how):
        cloud.switches.is_down = True
        cloud.clock.advance(DEAF_S + 1)
        threading.Event().wait(0.2)
        reply = room(*ids, **how)
        cloud.switches.is_down = False
        return reply

    cloud.tool_runner.run = slow
    cloud.run_until_idle()
    assert (cloud.reason(run), cloud.effects.total()) == ("answered", 1)
    assert "paid" in cloud.results(run)["call_1_0"]


def test_a_probe_that_operators_hold_back_leaves_the_breaker_to_the_next_caller():
    cloud = Desk(asks(("save", {"item": "a"}), PAY), says("Done."))
    run = cloud.ask(QUESTION)
    room = cloud.tool_runner.run
    cloud.breakers.open_until["tool#pay"] = cloud.clock.now().timestamp() - 1

    def flip(*ids, **how):
        off(cloud, "tool:pay")
        return room(*ids, **how)

    cloud.tool_runner.run = flip
    cloud.run_until_idle()
    assert "tool_switched_off" in cloud.results(run)["call_1_1"]
    assert cloud.breakers.open_until["tool#pay"] <= cloud.clock.now().timestamp()
