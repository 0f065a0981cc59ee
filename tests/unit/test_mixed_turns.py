"""Calls of every kind in one turn, in any combination and order of completion: one result each, in call order."""

from collections import Counter
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from agent import messages
from agent.endings import Status
from agent.events import ToolCompleted, ToolOutcomeUnknown, Verdict
from agent.run_state import fold, step
from agent.testing.model import asks, says
from agent.testing.rooms import FixedPolicy
from tests.converse import problems
from tests.sample_agent import QUESTION, SampleCloud, release

KINDS = {
    "allowed": ("look", "a"),
    "failing": ("look", "nothing"),
    "writing": ("save", "a"),
    "asked": ("pay", "a"),
    "queued": ("export", "a"),
    "queued and asked": ("ship", "a"),
    "denied": ("unheard_of", "a"),
}
ASKED = {"asked", "queued and asked"}
POLICY = FixedPolicy({"pay": "ask", "ship": "ask"})


def live(cloud: SampleCloud, run: str, wanted: dict[str, str], draw: Callable[[st.SearchStrategy], object]) -> None:
    """Let wakes, jobs and people come in any order."""
    for _ in range(100):
        pending = {asked.call_id: asked.approval_id for asked in cloud.state(run).header.approvals}
        todo = [("wake", n) for n in range(len(cloud.wake.runs))]
        todo += [("job", n) for n in range(len(cloud.queue.jobs))]
        todo += [("decide", call_id) for call_id in pending if wanted.get(call_id) in {"approve", "reject"}]
        if not todo:
            return
        what, which = draw(st.sampled_from(todo))
        if what == "wake":
            cloud.wake.runs.rotate(-which)
            cloud.invoke(*cloud.wake.runs.popleft())
        elif what == "job":
            cloud.queue.jobs.rotate(-which)
            cloud.work(cloud.queue.jobs.popleft())
        else:
            cloud.decide(pending[which], wanted[which])
    raise AssertionError("it does not come to rest")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=7), st.data())
def test_each_call_of_a_mixed_turn_gets_one_result_in_call_order(kinds, data):
    calls = [(tool, {"item": item}) for tool, item in map(KINDS.__getitem__, kinds)]
    cloud = SampleCloud(asks(*calls), says("Done."), policy=POLICY)
    wanted = {
        f"call_1_{index}": data.draw(st.sampled_from(["approve", "reject", "nothing"]))
        for index, kind in enumerate(kinds)
        if kind in ASKED
    }
    run = cloud.ask(QUESTION)
    live(cloud, run, wanted, data.draw)
    cloud.run_until_idle()

    state = cloud.state(run)
    assert (state.header.status, state.ended.answer) == (Status.COMPLETED, "Done.")
    results = [e.data for e in cloud.events(run) if isinstance(e.data, ToolCompleted | ToolOutcomeUnknown)]
    by_call = Counter(result.call_id for result in results)
    effects = Counter()
    for index, (kind, decision) in enumerate(zip(kinds, state.turns[0].completed.decisions, strict=True)):
        call_id = f"call_1_{index}"
        assert by_call[call_id] == (0 if decision.verdict is Verdict.DENY else 1)
        tool, _ = KINDS[kind]
        if kind != "denied" and wanted.get(call_id, "approve") == "approve":
            effects[f"{tool} {run}/{call_id}"] = 1
    assert cloud.effects == effects

    told = cloud.script.requests[-1].messages
    assert [message["role"] for message in told] == ["user", "assistant", "user"]
    answered = [block["toolResult"]["toolUseId"] for block in told[-1]["content"]]
    assert answered == [f"call_1_{index}" for index in range(len(kinds))]
    prefix = None
    for event in cloud.events(run):
        prefix = step(prefix, event)
        assert problems(messages.request(prefix, release(), release().model, cloud.tools)) == []
    assert fold(cloud.events(run)).header == state.header
