"""What ends a run whatever the model wants: cancelled, out of time, out of turns, going nowhere, denied.

Calls per turn and in all, and the size of arguments, are the gate's; the size of results is the turn's; of an answer,
`agent.answer`'s; attempts are `agent.model_choice`'s, money is `agent.budget`'s.
"""

from collections import Counter
from datetime import datetime

from agent.endings import EndReason
from agent.errors import RunFailed
from agent.events import Verdict
from agent.release import Release
from agent.run_state import RunState

NO_FAULT = frozenset({"too_many_calls"})
"""Denials that ask the model to come again with the very same call."""

MAX_IDLE_CLAIMS = 5
"""How many holders in a row may die without having recorded anything."""


def require_time(state: RunState, now: datetime, *, was_parked: bool) -> None:
    """Check what can end a run at any moment.

    Raises:
        RunFailed: with the reason.
    """
    if state.header.cancel_requested:
        raise RunFailed(EndReason.CANCELLED)
    if now >= state.header.deadline_at:
        raise RunFailed(EndReason.WAIT_EXPIRED if was_parked else EndReason.MAX_DURATION)
    if state.idle_claims > MAX_IDLE_CLAIMS:
        raise RunFailed(EndReason.INTERNAL_ERROR, f"{state.idle_claims} holders in a row died without a trace")


def require_turn(state: RunState, release: Release) -> None:
    """Check what can forbid the next model call.

    Raises:
        RunFailed: with the reason.
    """
    if len(state.turns) >= release.caps.max_turns:
        raise RunFailed(EndReason.MAX_TURNS)
    if denied := [tool for tool, turns in denied_turns(state).items() if turns >= release.caps.max_denied_turns]:
        raise RunFailed(EndReason.DENIED_TOO_OFTEN, f"denied in too many turns: {denied}")


def denied_turns(state: RunState) -> Counter[str]:
    """Return in how many turns calls of a tool were denied, by tool; tools that there are not count as one.

    A denial tells the model what is wrong, so that it may correct itself: so often, and not for ever.
    """
    turns: Counter[str] = Counter()
    for turn in state.turns:
        denied = [d for d in turn.completed.decisions if d.verdict is Verdict.DENY and d.code not in NO_FAULT]
        turns.update({"" if decision.code == "unknown_tool" else decision.tool for decision in denied})
    return turns
