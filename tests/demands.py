"""What must hold of a run however often its processes died, said once for all suites that kill them."""

from collections import Counter
from collections.abc import Sequence

from agent import messages, sessions
from agent.events import BudgetReturned, Event, RunCreated, ToolCompleted, ToolOutcomeUnknown
from agent.identity import Principal, Role
from agent.ports.run_log import RunLog
from agent.run_header import RunHeader, advance
from agent.run_state import RunState, step
from tests.converse import problems
from tests.sample_agent import SampleCloud, release, tools

RELEASE, TOOLS = release(), tools(Counter())
"""What is asked with. Which tools there are matters little to a request: they are named, and none is run."""

CONTINUES = 10**25
"""Number of a run that comes after all others of its session."""


def require_sound(header: RunHeader, events: Sequence[Event], where: str = "") -> RunState:
    """Demand a gapless log whose header is its projection, one result a call, and every prefix fit to be sent."""
    assert [event.seq for event in events] == list(range(1, len(events) + 1)), where
    state: RunState | None = None
    for event in events:
        state = step(state, event)
        require_sendable(state, where)
    assert state is not None, where
    # The sweeper moves `due_at` on without an event.
    assert header.model_copy(update={"due_at": state.header.due_at}) == state.header, where
    results = Counter(result.call_id for result in results_of(events))
    assert all(count == 1 for count in results.values()), (where, results)
    return state


def results_of(events: Sequence[Event]) -> list[ToolCompleted | ToolOutcomeUnknown]:
    """Return the results of the calls; that a person is asked about one is none yet."""
    ends = [event.data for event in events if isinstance(event.data, ToolCompleted | ToolOutcomeUnknown)]
    return [end for end in ends if isinstance(end, ToolCompleted) or not end.asks_person]


def is_refused(result: ToolCompleted | ToolOutcomeUnknown | None, where: str) -> bool:
    """Whether a call did not run because a check could not be made that must be a yes: that port failed."""
    could_not = "error" in where and ("MemoryControlBook" in where or "MemoryAllowances" in where)
    return could_not and isinstance(result, ToolCompleted) and result.did_not_run


def require_settled(state: RunState, events: Sequence[Event], where: str = "") -> None:
    """Demand that the run is over, and that all money granted to it was spent or returned, once."""
    header = state.header
    returned = [event.data.amount_micros for event in events if isinstance(event.data, BudgetReturned)]
    assert header.is_over, where
    assert len(returned) == 1, where
    assert header.reserved_micros == 0, where
    assert header.granted_micros == header.spent_micros + returned[0], where
    kinds = Counter(event.type for event in events)
    assert kinds["run.ended"] == 1, where
    assert kinds["model.started"] == kinds["model.completed"] + kinds["model.failed"], where


def require_sendable(state: RunState, where: str = "") -> None:
    """Demand that the model can be asked on from here."""
    wrong = problems(messages.request(state, RELEASE, RELEASE.model, TOOLS))
    assert wrong == [], (where, state.header.run_id, state.header.next_seq - 1, wrong)


def require_session_goes_on(log: RunLog, header: RunHeader) -> None:
    """Demand that one more run of this run's session can ask the model."""
    created = RunCreated(
        principal=Principal(tenant_id=header.tenant_id, user_id=header.user_id, roles=frozenset({Role.USER})),
        input="And now?",
        session_id=header.session_id,
        release=header.release,
        deadline_at=header.deadline_at,
        limit_micros=header.limit_micros,
    )
    event = Event(
        tenant_id=header.tenant_id,
        run_id=f"run_{CONTINUES:026d}",
        seq=1,
        at=header.updated_at,
        epoch=0,
        nonce="n",
        release=header.release,
        data=created,
    )
    next_run = advance(None, event)
    loaded = event.model_copy(update={"seq": 2, "data": sessions.load(log, next_run, max_bytes=100_000)})
    require_sendable(step(step(None, event), loaded))


def require_counted(cloud: SampleCloud, state: RunState, where: str = "") -> None:
    """Demand that what is used up is what ran, and besides only what nobody knows of."""
    used: Counter[tuple[str, str]] = Counter()
    for turn in state.turns:
        for decision in turn.completed.decisions:
            call_id = decision.call_id
            result = turn.results.get(call_id)
            # To the platform an error of the tool's room is one of the tool: it may have acted, and stays counted.
            may_have = isinstance(result, ToolCompleted) and result.outcome == "error" and not result.did_not_run
            nobody_knows = call_id in turn.unknown or isinstance(result, ToolOutcomeUnknown) or may_have
            if nobody_knows or cloud.effects[f"{decision.tool} {state.header.run_id}/{call_id}"]:
                used.update({(decision.tool, name): amount for name, amount in decision.uses.items()})
    for tool, made in cloud.tools.items():
        days = [name for name in made.contract.allowances if name.endswith("_day")]
        header = state.header
        found = cloud.allowances.used(header.tenant_id, header.user_id, tool, days, at=cloud.clock.now())
        assert found == {name: used[tool, name] for name in days}, (where, tool)
