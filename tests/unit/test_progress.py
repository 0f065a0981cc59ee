"""How far a queued tool has come: told by the tool, kept within bounds, relayed into the log, shown to its user."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from agent.contracts import Effect
from agent.errors import ConfigurationInvalid, StoreUnavailable
from agent.events import ToolCompleted, ToolProgress
from agent.execution import ToolJob, execute
from agent.project_agui import Projection
from agent.queued_calls import QueueWorker, work
from agent.testing.breakers import STEADY, BreakerItems, MemoryBreakers
from agent.testing.cloud import MemoryCloud
from agent.testing.decided_run import CALL, RUN, DecidedRun
from agent.testing.model import ScriptedModel, asks, says
from agent.testing.rooms import InProcessToolRunner, MemoryWake
from agent.tools import Arguments, Tool, ToolContext, by_name, tool
from tests import sample_agent
from tests.sample_agent import PRICES, Done, release

JOB = ToolJob(tenant_id="acme", run_id=RUN, call_id=CALL)


class Nothing(Arguments):
    pass


def telling(tell: Callable[[ToolContext], None], **promises: Any) -> Tool[Any]:
    """Return a tool of the queue that tells its progress so."""

    @tool(effect=Effect.READ, mode="idempotent", resource="Count::all", **{"queued": True, **promises})
    def count(args: Nothing, context: ToolContext) -> Done:
        """Count for a while and tell how far it has come."""
        tell(context)
        return Done(done="counted")

    return count


class Queue(DecidedRun):
    """A run with one queued call, and its worker, which looks often."""

    def __init__(self, tested: Tool[Any]) -> None:
        super().__init__(tested)
        self.decide({})
        self.queue()
        self.worker = QueueWorker(
            self.log,
            InProcessToolRunner(self.room),
            MemoryWake(),
            self.dispatcher(),
            MemoryBreakers(BreakerItems(), STEADY, self.clock),
            self.notes,
            self.room.tools,
            self.clock,
            self.controls,
            "sample",
            relay_every_s=0.005,
            releases=lambda _: sample_agent.release(),
        )

    def work(self) -> None:
        assert work(self.worker, JOB, until=self.clock.now().replace(year=2030)) == "completed"

    def told(self) -> list[str]:
        return [data.text for data in self.payloads() if isinstance(data, ToolProgress)]


def slowly(queue: list[Queue], *texts: str) -> Callable[[ToolContext], None]:
    def tell(context: ToolContext) -> None:
        for text in texts:
            context.progress(text)
            queue[0].clock.advance(1)

    return tell


def test_what_a_tool_tells_stands_in_the_log_before_its_result() -> None:
    desks: list[Queue] = []
    desks.append(desk := Queue(telling(slowly(desks, "a third", "two thirds"))))
    desk.work()
    assert [data.type for data in desk.payloads()] == [
        "tool.queued",
        "tool.started",
        "tool.progress",
        "tool.progress",
        "tool.completed",
    ]
    assert desk.told() == ["a third", "two thirds"]


def test_a_note_is_relayed_while_the_tool_still_works() -> None:
    desks: list[Queue] = []

    def tell(context: ToolContext) -> None:
        context.progress("half")
        for _ in range(1000):
            if desks[0].told():
                return
            threading.Event().wait(0.005)
        raise TimeoutError("nobody relayed it")

    desks.append(desk := Queue(telling(tell)))
    desk.work()
    [result] = [data for data in desk.payloads() if isinstance(data, ToolCompleted)]
    assert result.outcome == "ok"
    assert desk.told() == ["half"]


def test_notes_are_bounded_in_number_length_and_frequency() -> None:
    desks: list[Queue] = []

    def tell(context: ToolContext) -> None:
        context.progress("  ")
        for number in range(30):
            context.progress(f"{number} " + "x" * 300 + "\ud800")
            context.progress("too soon")
            desks[0].clock.advance(1)

    desks.append(desk := Queue(telling(tell)))
    desk.work()
    assert [text.split()[0] for text in desk.told()] == [str(number) for number in range(20)]
    assert {len(text) for text in desk.told()} == {200}


def test_a_call_that_is_not_queued_keeps_its_progress_to_itself() -> None:
    desk = DecidedRun(telling(lambda context: context.progress("half"), queued=False))
    desk.decide({})
    desk.start()
    assert execute(desk.room, "acme", RUN, CALL).outcome == "ok"
    assert not desk.notes.notes


@pytest.mark.parametrize("trouble", [StoreUnavailable, ConfigurationInvalid])
@pytest.mark.parametrize("method", ["write", "read"])
def test_trouble_with_the_notes_is_no_trouble_of_the_tools(trouble: type[Exception], method: str) -> None:
    desk = Queue(telling(lambda context: context.progress("half")))

    def fail(*_: Any, **__: Any) -> Any:
        raise trouble("no")

    setattr(desk.notes, method, fail)
    desk.work()
    assert desk.told() == []
    assert desk.payloads()[-1].type == "tool.completed"


def test_a_repeated_start_tells_anew() -> None:
    desks: list[Queue] = []
    desks.append(desk := Queue(telling(slowly(desks, "a", "b"))))
    desk.start()
    desk.clock.advance(60)
    desk.work()
    assert [(data.attempt, data.index) for data in desk.payloads() if isinstance(data, ToolProgress)] == [
        (2, 0),
        (2, 1),
    ]


@pytest.mark.parametrize("shown", [True, False])
def test_its_user_sees_progress_where_the_contract_shows_the_call_and_the_model_never_does(shown: bool) -> None:
    tested = telling(lambda context: context.progress("half"), shown_to_user=shown)
    script = ScriptedModel(asks(("count", {})), says("Done."))
    only = release().model_copy(update={"tools": ("count",)})
    cloud = MemoryCloud(only, by_name([tested]), script, prices=PRICES)
    run = cloud.ask("Count.")
    cloud.run_until_idle()
    view = Projection(lambda *_: [])
    said = [positioned.event for event in cloud.events(run) for positioned in view.feed(event)]
    values = [event.value for event in said if getattr(event, "name", "") == "keepgate.tool_progress"]
    assert values == ([{"tool_call_id": "call_1_0", "tool": "count", "text": "half"}] if shown else [])
    assert "half" not in str([request.messages for request in script.requests])
