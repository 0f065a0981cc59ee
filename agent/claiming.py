"""How an invocation becomes the holder of a run, and when it had better not.

Waking is harmless because of this: a run that is over, is held, or still waits for something is left as it is.
"""

import logging
from datetime import datetime, timedelta

from agent.endings import Status
from agent.errors import ConfigurationInvalid, LogContended, LogMoved
from agent.events import RunClaimed
from agent.held_run import MAX_MOVES, HeldRun, read_state, state_after
from agent.ports.run_log import RunLog
from agent.run_state import RunState, Turn
from agent.runtime import Runtime
from agent.sessions import runs_ahead

logger = logging.getLogger(__name__)

RELEASE_PATIENCE = timedelta(minutes=15)
"""How long a new run waits for its release: who admits runs may be deployed before who works on them."""


def claim(runtime: Runtime, tenant_id: str, run_id: str, *, owner: str, lease_until: datetime) -> HeldRun | None:
    """Become the holder of a run; None where it is over, has a live holder, or still waits for something.

    Raises:
        LogContended: the log moved too often in a row.
    """
    for _ in range(MAX_MOVES):
        state = read_state(runtime.log, tenant_id, run_id)
        now = runtime.clock.now()
        if state is None or state.is_over or state.header.has_live_holder(now):
            return None
        if _still_waits(runtime.log, state, now):
            _sleep_on(runtime, state)
            return None
        if _is_ahead_of_us(runtime, state, now):
            return None
        claimed = RunClaimed(owner=owner, epoch=state.header.epoch + 1, lease_until=lease_until)
        try:
            runtime.log.append(state.header, [claimed], at=now)
        except LogMoved:
            continue
        found = state.header.status
        return HeldRun(runtime, state_after(state, [claimed], now), owner=owner, lease_until=lease_until, found=found)
    raise LogContended(f"{run_id} moved {MAX_MOVES} times in a row")


def _still_waits(log: RunLog, state: RunState, now: datetime) -> bool:
    """Whether a parked run has nothing to do yet; then waking it, however often, writes nothing."""
    header, turn = state.header, state.turn
    if header.status is not Status.WAITING or header.cancel_requested or now >= header.deadline_at:
        return False
    if turn is None:
        return bool(runs_ahead(log, header))
    open_calls = (d.call_id for d in turn.completed.decisions if d.call_id not in turn.results)
    return not turn.is_settled and not any(_is_ripe(turn, call_id, now) for call_id in open_calls)


def _is_ahead_of_us(runtime: Runtime, state: RunState, now: datetime) -> bool:
    """Whether a new run is bound to a release that this process doesn't have, and may be about to get: it stays due."""
    header = state.header
    patience_ends = min(header.created_at + RELEASE_PATIENCE, header.deadline_at)
    if header.status is not Status.QUEUED or header.cancel_requested or now >= patience_ends:
        return False
    try:
        runtime.releases(header.release)
    except ConfigurationInvalid:
        logger.warning("a run waits for its release", extra={"run_id": header.run_id, "release": header.release})
        return True
    return False


def _is_ripe(turn: Turn, call_id: str, now: datetime) -> bool:
    """Whether a holder could do something about a call that a parked run waits for."""
    due_at = _due_at(turn, call_id)
    if call_id in turn.unknown:
        return due_at is None or now >= due_at or call_id in turn.findings
    return due_at is not None and (now >= due_at or (call_id in turn.decided and call_id not in turn.queued))


def _due_at(turn: Turn, call_id: str) -> datetime | None:
    """Return when a call's wait ends: before a person who looks into it, in the queue, or before one who allows it."""
    if call_id in turn.unknown:
        asked = turn.checks.get(call_id)
        return asked.expires_at if asked else None
    if queued := turn.queued.get(call_id):
        return queued.due_at
    requested = turn.requested.get(call_id)
    return requested.expires_at if requested else None


def _sleep_on(runtime: Runtime, state: RunState) -> None:
    """Make a run that was woken too early due when its next wait ends.

    What came in meanwhile made it due at once, and a sweep since perhaps a backoff later: it could oversleep.
    """
    header = runtime.log.header(state.header.tenant_id, state.header.run_id)
    if state.turn is None or header is None or header.next_seq != state.header.next_seq:
        return
    open_calls = (d.call_id for d in state.turn.completed.decisions if d.call_id not in state.turn.results)
    waits = [due_at for call_id in open_calls if (due_at := _due_at(state.turn, call_id))]
    due_at = min([header.deadline_at, *waits])
    if header.due_at != due_at:
        runtime.log.postpone(header, due_at)
