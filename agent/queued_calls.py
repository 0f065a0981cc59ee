"""Calls that go through the queue: from a job to the call's one result in the log, and the run woken.

A job may come twice, late, or while another worker has it: what the log shows decides, never the job. A call that is
not decided, queued and open is dropped. One that was started and not ended is somebody's work still in progress until
its time is over; then it runs again under the same key, or, mode `once`, its outcome is unknown.

The surprise: a job is *returned* to the queue by raising. Everything else, a dropped job too, is done with it.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from agent import tracing
from agent.contracts import Contract
from agent.decided_call import find_call
from agent.dispatch import Dispatcher
from agent.errors import (
    JobPoisoned,
    KeepgateError,
    LogContended,
    LogMoved,
    TryLater,
)
from agent.events import Decision, ToolCompleted, ToolOutcomeUnknown, ToolProgress, ToolStarted
from agent.execution import ToolJob
from agent.guardrails import Settling, guarded_in
from agent.held_run import read_state
from agent.ports.breakers import Breakers
from agent.ports.clock import Clock
from agent.ports.controls import ControlBook
from agent.ports.jobs import ProgressNotes
from agent.ports.run_log import RunLog
from agent.ports.tool_room import ToolRunner
from agent.ports.wake import Wake
from agent.release import Release
from agent.run_state import RunState, Turn
from agent.tool_call import Start, carry_out
from agent.tool_results import (
    MAX_TOOL_ATTEMPTS,
    breaker,
    contract_changed,
    kept_back,
    tool_failed,
    unavailable,
    unknown,
)
from agent.tools import Tool

logger = logging.getLogger(__name__)

MAX_MOVES = 20
"""How often in a row the log may move under a worker before it returns the job."""

GRACE_S = 10.0
"""What a call may need beyond its tool's own timeout: to reach the tool's function, and to report."""

Done = Literal["completed", "unknown", "dropped"]


@dataclass(frozen=True)
class QueueWorker:
    """What the queue's worker works with: it appends outside events and has no right on tenant data."""

    log: RunLog
    tool_runner: ToolRunner
    wake: Wake
    dispatcher: Dispatcher
    breakers: Breakers
    notes: ProgressNotes
    tools: Mapping[str, Tool[Any]]
    """For the contracts; the functions in them run in the tool room."""
    clock: Clock
    controls: ControlBook
    agent: str
    """Whose tools these are."""
    releases: Callable[[str], Release]
    """For the guards that look at results. Raises `ConfigurationInvalid` for a release there is not."""
    relay_every_s: float = 2.0
    """How often a running tool's notes are looked for."""


@dataclass(frozen=True)
class QueuedCall:
    """An open call of the queue, as the log shows it."""

    state: RunState
    decision: Decision
    contract: Contract | None
    """None where it is not the one the call was decided under."""
    started: ToolStarted | None
    calls: int
    """In its turn."""

    @property
    def attempt(self) -> int:
        """The number of the next start."""
        return self.started.attempt + 1 if self.started else 1


def work(worker: QueueWorker, job: ToolJob, *, until: datetime) -> Done:
    """Bring a queued call to its result, append it, wake the run, and send the tenant's next, before the time `until`.

    Raises:
        TryLater: not now; let the job come again.
    """
    done = _bring(worker, job, until)
    # A job that comes again because this failed finds its call with a result, and gets here once more.
    worker.dispatcher.send(job.tenant_id)
    return done


def _bring(worker: QueueWorker, job: ToolJob, until: datetime) -> Done:
    seen_lost = False
    for _ in range(MAX_MOVES):
        call = _open_call(worker, job)
        if call is None:
            return "dropped"
        settled = _result_without_running(worker, job, call, seen_lost=seen_lost) or _not_let_through(
            worker, call, until
        )
        if settled:
            return _settle(worker, job, [settled], began=call.attempt - 1)
        try:
            results = _run(worker, job, call)
        except LogMoved:
            continue
        if not results:
            # Seen by this very worker: nobody else is at it, and what becomes of it is decided at once.
            seen_lost = True
            continue
        return _settle(worker, job, results, began=call.attempt)
    raise LogContended(f"the log of {job.run_id} keeps moving")


def give_up(worker: QueueWorker, job: ToolJob) -> None:
    """Tell the run of a job that was delivered in vain too often; do nothing where the call is not open any more.

    Raises:
        JobPoisoned: the run was told; the job is for people to look at.
        TryLater: it could not be told; its own deadlines are left.
    """
    call = _open_call(worker, job)
    if call is None:
        return
    result = unknown(call.decision, "lost") if call.started else tool_failed(call.decision)
    _settle(worker, job, [result], began=call.attempt - 1)
    worker.dispatcher.send(job.tenant_id)
    raise JobPoisoned("the job was delivered in vain too often")


def _open_call(worker: QueueWorker, job: ToolJob) -> QueuedCall | None:
    """Return the call where it is to be brought to a result; None, with a line in the log, where it is not."""
    state = read_state(worker.log, job.tenant_id, job.run_id)
    found = find_call(state, job.call_id) if state else None
    if state is None or found is None:
        why = "there is no such call in the newest turn of such a run"
    elif job.call_id not in found[0].queued or not found[0].is_cleared(found[1]):
        why = "the call was not decided and queued"
    elif state.is_over or state.header.cancel_requested:
        why = "the run is over, or about to be"
    elif found[0].is_closed(job.call_id):
        why = "the call has its result, or is before a person"
        # An earlier delivery may have got this far and no further.
        _wake(worker, job)
    elif job.call_id not in found[0].started and worker.clock.now() >= found[0].queued[job.call_id].due_at:
        why = "the call came too late to begin"
    else:
        return _as_queued(worker, state, *found)
    _tell_dropped(why)
    return None


def _as_queued(worker: QueueWorker, state: RunState, turn: Turn, decision: Decision) -> QueuedCall:
    tool = worker.tools.get(decision.tool)
    contract = tool.contract if tool and tool.contract.sha256() == decision.contract_sha256 else None
    started, _ = turn.started.get(decision.call_id, (None, 0))
    return QueuedCall(state, decision, contract, started, calls=len(turn.completed.decisions))


def _tell_dropped(why: str) -> None:
    logger.warning("a job was dropped", extra={"why": why})


def _result_without_running(
    worker: QueueWorker, job: ToolJob, call: QueuedCall, *, seen_lost: bool
) -> ToolCompleted | ToolOutcomeUnknown | None:
    if call.started is None:
        if call.contract is None:
            return contract_changed(call.decision)
        return _result_if_kept_back(worker, call)
    if call.contract is None:
        return unknown(call.decision, "contract_changed")
    patience = timedelta(seconds=call.contract.timeout_s + GRACE_S)
    if not seen_lost and worker.clock.now() < _started_at(worker, job) + patience:
        raise TryLater("another worker may be at this call", retry_after_s=call.contract.timeout_s)
    if call.contract.mode == "once" or call.started.attempt >= MAX_TOOL_ATTEMPTS:
        return unknown(call.decision, "lost")
    return _result_if_kept_back(worker, call)


def _result_if_kept_back(worker: QueueWorker, call: QueuedCall) -> ToolCompleted | ToolOutcomeUnknown | None:
    """Return the result where operators have stopped the run, which its holder then ends, or such calls.

    Raises:
        StoreUnavailable: not known; the job comes again.
    """
    header = call.state.header
    controls = worker.controls.effective(header.tenant_id, header.user_id, release=header.release, agent=worker.agent)
    return kept_back(controls, call.decision, has_started=call.started is not None)


def _started_at(worker: QueueWorker, job: ToolJob) -> datetime:
    moments: list[datetime] = []
    after = 0
    while events := worker.log.events(job.tenant_id, job.run_id, after=after):
        moments += [e.at for e in events if isinstance(e.data, ToolStarted) and e.data.call_id == job.call_id]
        after = events[-1].seq
    return moments[-1]


def _not_let_through(
    worker: QueueWorker, call: QueuedCall, until: datetime
) -> ToolCompleted | ToolOutcomeUnknown | None:
    """Return the result of a call that its tool's breaker does not let through.

    Raises:
        TryLater: there is no time left for the call.
    """
    assert call.contract is not None  # noqa: S101 - `_result_without_running` has just given a result otherwise
    patience_s = call.contract.timeout_s + GRACE_S
    if worker.clock.now() + timedelta(seconds=patience_s) > until:
        raise TryLater("this worker has no time left for the call")
    if worker.breakers.admits(breaker(call.decision.tool), patience_s=patience_s):
        return None
    return unavailable(call.decision, attempt=call.attempt)


def _run(worker: QueueWorker, job: ToolJob, call: QueuedCall) -> list[Settling]:
    """Start the call in the log and run it; return its result, and what the release's guards found in it.

    Nothing where its end was not seen.

    Raises:
        LogMoved: before the start; nothing ran.
    """
    decision, contract = call.decision, call.contract
    assert contract is not None  # noqa: S101 - as above
    name = breaker(decision.tool)
    start = ToolStarted(call_id=decision.call_id, tool=decision.tool, attempt=call.attempt)
    try:
        worker.log.append(call.state.header, [start], at=worker.clock.now(), outside=True)
        with _relaying(worker, job, start):
            result = carry_out(
                Start(job.tenant_id, job.run_id, decision, contract, attempt=call.attempt, calls=call.calls),
                worker.tool_runner,
                worker.breakers,
            )
    except Exception:
        worker.breakers.gave_up(name)
        raise
    return list(guarded_in(call.state, worker.releases, result)) if result else []


@contextmanager
def _relaying(worker: QueueWorker, job: ToolJob, start: ToolStarted) -> Iterator[None]:
    """Pass what the tool tells on into the log, while it runs and once at its end."""
    relayed = 0
    ended = threading.Event()

    def relay() -> None:
        nonlocal relayed
        try:
            texts = worker.notes.read(job.tenant_id, job.run_id, job.call_id, attempt=start.attempt, from_index=relayed)
            header = worker.log.header(job.tenant_id, job.run_id) if texts else None
            if header is None or header.is_over:
                return
            notes = [
                ToolProgress(call_id=start.call_id, attempt=start.attempt, index=index, text=text)
                for index, text in enumerate(texts, relayed)
            ]
            worker.log.append(header, notes, at=worker.clock.now(), outside=True)
            relayed += len(notes)
        except KeepgateError as trouble:  # the next look has them; and no note is worth a result
            logger.warning("progress was not passed on", extra={"error": trouble.code})

    def keep_relaying() -> None:
        while not ended.wait(worker.relay_every_s):
            relay()

    thread = threading.Thread(target=keep_relaying, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        relay()


def _settle(worker: QueueWorker, job: ToolJob, results: list[Settling], *, began: int) -> Done:
    """Append the result and what comes with it, wherever the log is by now, unless the call has one; wake the run.

    Raises:
        TryLater: the call did not run, as far as its start number `began`; another worker has begun it since.
    """
    for _ in range(MAX_MOVES):
        state = read_state(worker.log, job.tenant_id, job.run_id)
        found = find_call(state, job.call_id) if state else None
        if state is None or found is None or state.is_over or _has_answer(found[0], results[0]):
            _tell_dropped("the run went on without the call's result")
            return "dropped"
        if _has_begun_since(found[0], results[0], began):
            raise TryLater("another worker is at this call")
        try:
            worker.log.append(state.header, results, at=worker.clock.now(), outside=True)
        except LogMoved:
            continue
        _wake(worker, job)
        return "completed" if isinstance(results[0], ToolCompleted) else "unknown"
    raise LogContended(f"the log of {job.run_id} keeps moving")


def _has_begun_since(turn: Turn, result: Settling, began: int) -> bool:
    """Whether a result says that the call did not run, and a job that was delivered twice has made that untrue."""
    started, _ = turn.started.get(result.call_id or "", (None, 0))
    return isinstance(result, ToolCompleted) and result.did_not_run and started is not None and started.attempt > began


def _has_answer(turn: Turn, result: Settling) -> bool:
    """Whether a result comes too late. What the tool itself says does not while a person is still asked about it."""
    call_id = result.call_id or ""
    return call_id in turn.results if isinstance(result, ToolCompleted) else turn.is_closed(call_id)


def _wake(worker: QueueWorker, job: ToolJob) -> None:
    worker.wake.wake(job.tenant_id, job.run_id, traceparent=tracing.traceparent() or job.traceparent)
