"""What ends a run whatever the model wants: cancelled, out of time, out of turns, going nowhere.

Calls per turn and in all, and the size of arguments, are the gate's; the size of results is the turn's; of an answer,
`agent.answer`'s; attempts are `agent.model_choice`'s, money is `agent.budget`'s.
"""

from datetime import datetime

from agent.errors import RunFailed
from agent.events import EndReason
from agent.release import Release
from agent.runlog import RunState

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
