"""What calls use up over runs: taken before a call starts, given back where it surely did not run.

A contract names its allowances: rates (`calls.user_minute`) and sums of an argument (`amount_cents.tenant_day`), so
that ten small refunds don't pass where one large one would not. The gate puts what a call uses into its decision; here
it is taken, once for each run and call, when the call is about to start. For an asked call that is when its approval is
consumed: while people think, nothing is held.

The surprise: the model's answer is written before anything is taken for its calls. Otherwise a holder that dies in
between would leave something taken under an id that the next answer's call, perhaps another one, has too. It costs one
more transaction for a turn with such calls. What a run took for calls that did not run flows back at its end, with its
money; what has an unknown outcome stays counted.
"""

from collections.abc import Sequence
from datetime import datetime

from agent.errors import StoreUnavailable
from agent.events import Decision, ToolCompleted, Verdict
from agent.held_run import HeldRun
from agent.ports.limits import Allowances, Reached, Taking
from agent.run_state import RunState, Turn
from agent.tool_results import not_run

UNCHECKED = "The tool's limits could not be checked, so it did not run. Tell the user; it may work later."


def take(run: HeldRun, calls: Sequence[Decision]) -> None:
    """Take what these calls use up, and note the result of each that may not start.

    A call without a result afterwards may start, unless it was approved and its limits can't be checked at the moment:
    then it goes on waiting.

    Raises:
        LogMoved: decide again.
    """
    counted = [decision for decision in calls if decision.uses]
    if not counted:
        return
    run.write()
    for decision in counted:
        taking = Taking(
            tenant_id=run.header.tenant_id,
            user_id=run.header.user_id,
            run_id=run.header.run_id,
            call_id=decision.call_id,
            tool=decision.tool,
            uses=decision.uses,
        )
        try:
            reached = run.runtime.allowances.take(taking, at=run.runtime.clock.now())
        except StoreUnavailable:
            if decision.verdict is Verdict.ASK:
                run.unchecked.add(decision.call_id)
            else:
                run.note(not_run(decision, "limits_unavailable", UNCHECKED))
            continue
        if reached:
            run.note(not_run(decision, "limit_reached", limit_reached(reached)))


def limit_reached(reached: Reached) -> str:
    """Return the sentence for the model: which limit and when it renews, and not what others have used."""
    return (
        f"{_named(reached.name, reached.limit)}; this call would exceed it and did not run. The limit renews at"
        f" {reached.renews_at:%Y-%m-%d %H:%M} UTC. Nobody can lift it for this call: tell the user, don't try again."
    )


def too_much(name: str, limit: int) -> str:
    """Return the sentence for the model about a call that exceeds an allowance all by itself."""
    return f"{_named(name, limit)}, and this call alone exceeds it. Tell the user, don't try again."


def _named(name: str, limit: int) -> str:
    what, _, rest = name.partition(".")
    sharer, window = rest.split("_")
    return f"The limit of this tool is {limit} {what} per {sharer} and {window}"


def unused(state: RunState) -> list[str]:
    """Return the calls of an ended run that surely did nothing, of those that use something up.

    A call did nothing if it was never started, or if its only start was answered by the platform instead of the tool.
    """
    return [
        decision.call_id
        for turn in state.turns
        for decision in turn.completed.decisions
        if decision.uses and not _may_have_run(turn, decision.call_id)
    ]


def _may_have_run(turn: Turn, call_id: str) -> bool:
    started, _ = turn.started.get(call_id, (None, 0))
    result = turn.results.get(call_id)
    if started is None:
        return False
    return started.attempt > 1 or not (isinstance(result, ToolCompleted) and result.did_not_run)


def give_back(allowances: Allowances, state: RunState, *, at: datetime) -> None:
    """Return what an ended run took for calls that did not run; harmless when repeated.

    Raises:
        StoreUnavailable: not all was returned.
    """
    for call_id in unused(state):
        allowances.give_back(state.header.tenant_id, state.header.run_id, call_id, at=at)
