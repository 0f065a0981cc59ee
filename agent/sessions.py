"""What a run is told of the earlier runs of its session: their texts, newest first until the byte cap is reached.

Only text is replayed, never tool turns. A run that ended without an answer is told as the sentence its user saw, so the
conversation alternates and stays usable after a cancelled or failed run. Loaded once and fixed in the log.

Taint is replayed too: a session that was tainted once stays so, also when the text that did it is not told any more,
because what was told since may repeat it.

Runs of a session go one after another, in the order in which the log took them in. That is not the order of their ids:
those come from clocks, which two processes read differently, and in the same instant chance decides. A release says
what becomes of a second run: refused at admission, or parked here until those ahead of it are over; whoever settles
the end of a run wakes the next.
"""

from collections.abc import Sequence
from datetime import timedelta
from itertools import takewhile

from agent.endings import EndReason
from agent.events import RunCreated, RunEnded, SessionLoaded, SessionMessage
from agent.ports.run_log import RunLog
from agent.ports.wake import Wake
from agent.run_header import RunHeader

MAX_EARLIER_RUNS = 20

LOOK_AGAIN = timedelta(seconds=60)
"""After which the sweeper asks whether a parked run may go on, should the wake from the run ahead be lost."""


def runs_ahead(log: RunLog, header: RunHeader) -> list[str]:
    """Return the runs of a run's session that were created before it and are not over, oldest first."""
    if header.session_id is None:
        return []
    open_runs = log.open_runs_of_session(header.tenant_id, header.user_id, header.session_id)
    return list(takewhile(lambda run_id: run_id != header.run_id, open_runs))


def wake_next(log: RunLog, wake: Wake, ended: RunHeader) -> None:
    """Wake the run of a session that may go on now that this one is over; harmless when repeated.

    Raises:
        StoreUnavailable: not asked; the sweeper will.
    """
    if ended.session_id is None:
        return
    for run_id in log.open_runs_of_session(ended.tenant_id, ended.user_id, ended.session_id)[:1]:
        wake.wake(ended.tenant_id, run_id, traceparent=None)


def load(log: RunLog, header: RunHeader, *, max_bytes: int) -> SessionLoaded:
    """Return the session's earlier texts, oldest first, and its taint. A run still under way is not among them."""
    if header.session_id is None:
        return SessionLoaded(messages=(), tainted=False)
    newest = log.runs_of_session(header.tenant_id, header.user_id, header.session_id, limit=MAX_EARLIER_RUNS + 1)
    earlier = [run for run in newest if run.is_over and run.run_id != header.run_id]
    messages: list[SessionMessage] = []
    left = max_bytes
    for run in reversed(earlier):
        pair = _texts(log, run)
        left -= sum(len(message.text.encode()) for message in pair)
        if left < 0:
            break
        messages[:0] = pair
    return SessionLoaded(
        messages=tuple(messages), tainted=_are_tainted(earlier, are_all=len(newest) <= MAX_EARLIER_RUNS)
    )


def _are_tainted(earlier: Sequence[RunHeader], *, are_all: bool) -> bool:
    """Whether earlier runs, the newest of a session or all of them, or one before them was tainted.

    Each inherits from those before it when it loads the session. One that ended before it did knows nothing of them.
    """
    return any(run.tainted for run in earlier) or not (are_all or any(run.turns for run in earlier))


def _texts(log: RunLog, run: RunHeader) -> list[SessionMessage]:
    """Return what was asked and what was answered; two small reads instead of the whole log."""
    first = log.events(run.tenant_id, run.run_id, limit=1)
    last = log.events(run.tenant_id, run.run_id, after=(run.end_seq or 1) - 1, limit=1)
    if not (first and last and isinstance(first[0].data, RunCreated) and isinstance(last[0].data, RunEnded)):
        return []  # expired meanwhile
    answer = last[0].data.answer or f"[No answer. The user was told: {last[0].data.message}]"
    # What a guard kept from the model then must not reach it now.
    is_blocked = last[0].data.reason is EndReason.INPUT_BLOCKED
    return [
        SessionMessage(role="user", text="[This message was held back.]" if is_blocked else first[0].data.input),
        SessionMessage(role="assistant", text=answer),
    ]
