"""The governed run. One invocation claims a run and works on it until it is over, parked, or handed over.

Each step follows from the state alone, and the state from the log, so a run that was stopped anywhere goes on from
there. `RunFailed` ends the run with its reason; `LogMoved` means that somebody else wrote first: reload, decide again;
anything else ends the invocation, and the run is woken for another one.
"""

import logging
from contextlib import suppress
from datetime import datetime

from agent import caps, guardrails, sessions, tracing
from agent.answer import conclusion
from agent.budget import assumed_failure, price_of, settle_ended
from agent.claiming import claim
from agent.endings import EndReason, Status
from agent.errors import LogMoved, RunFailed, TryLater
from agent.events import RunWaiting, WaitingFor
from agent.held_run import HeldRun
from agent.model_call import ask, was_shown
from agent.run_header import RunHeader
from agent.runtime import Runtime
from agent.turn import play

logger = logging.getLogger(__name__)


def hold(runtime: Runtime, tenant_id: str, run_id: str, *, owner: str, lease_until: datetime) -> RunHeader | None:
    """Claim a run and work on it; None where it is over, has another holder, or still waits.

    Raises:
        TryLater: a store did not answer in time. The run goes on in another invocation.
    """
    run = claim(runtime, tenant_id, run_id, owner=owner, lease_until=lease_until)
    if run is None:
        return None
    with (
        # The door's span continues the run's trace already; where there is none, this one does.
        tracing.continued(None if tracing.traceparent() else run.header.traceparent),
        tracing.invoke_agent(run.header.release, tenant_id, run_id, session_id=run.header.session_id),
    ):
        work(run)
    if run.header.epoch != run.epoch:
        return None
    if run.header.is_over:
        try:
            return settle(run)
        except TryLater as trouble:
            logger.warning("a run was not settled; the sweeper will", extra={"error": trouble.code})
            return run.header
    # The run ahead may have ended just before this one parked, and woken it in vain.
    may_go_on = WaitingFor.SESSION in run.header.waiting_for and not sessions.runs_ahead(runtime.log, run.header)
    if run.is_released or may_go_on:
        runtime.wake.wake(tenant_id, run_id, traceparent=run.header.traceparent)
    return run.header


def work(run: HeldRun) -> None:
    """Take steps while the run is this invocation's."""
    ending: RunFailed | None = None
    while run.is_held:
        try:
            if ending is None:
                take_step(run)
            else:
                run.end(EndReason(ending.reason))
        except RunFailed as failed:
            ending = failed
        except LogMoved:
            run.reload()
            ending = None


def take_step(run: HeldRun) -> None:
    """Do the next thing: end with the answer, mind switches and caps, settle what was left, play the turn, or ask."""
    turn = run.state.turn
    if turn and (end := conclusion(turn)):
        run.end(*end)
        return
    caps.require_time(run.state, run.runtime.clock.now(), was_parked=run.is_fresh and run.found is not Status.RUNNING)
    controls = run.require_switched_on()
    if lost := assumed_failure(run.state, "holder_lost", shown=was_shown(run)):
        run.note(lost)
    if turn and not turn.is_settled:
        play(run, turn, controls)
        return
    if run.state.history is None and run.header.session_id:
        if sessions.runs_ahead(run.runtime.log, run.header):
            due_at = min(run.runtime.clock.now() + sessions.LOOK_AGAIN, run.header.deadline_at)
            run.append(RunWaiting(waiting_for=(WaitingFor.SESSION,), due_at=due_at))
            return
        run.note(sessions.load(run.runtime.log, run.header, max_bytes=run.release.caps.max_session_bytes))
    guardrails.require_input(run)
    ask(run, controls)


def settle(run: HeldRun) -> RunHeader:
    """After the end: settle the model call it interrupted, at what was used if that is still told, and return money.

    Those who waited for it come first: the next run of the session, and the calls behind its own in the tenant's line.
    If that is not reached, the run stays due, and the sweeper does it all.
    """
    sessions.wake_next(run.runtime.log, run.runtime.wake, run.header)
    if run.state.turn and run.state.turn.queued:
        # Its jobs may have been dropped already, by workers that found their slots not free yet.
        run.runtime.dispatcher.send(run.header.tenant_id)
    usage = run.interrupted() if run.interrupted else None
    lost = assumed_failure(run.state, "run_ended", epoch=run.epoch)
    if usage and lost:
        cost = price_of(run, lost.model_id).cost_micros(usage)
        with suppress(LogMoved):  # feedback came first: settled below, at the whole reservation
            run.append(lost.model_copy(update={"usage": usage, "cost_micros": cost, "assumed": False}))
    runtime = run.runtime
    return settle_ended(runtime.log, runtime.ledger, runtime.allowances, runtime.clock, run.state)
