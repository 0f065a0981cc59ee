"""The barrier: the model is asked again only when every call of its last answer has exactly one result.

All calls were decided before this begins, and the decisions are in the log before the first call runs. Then: judge what
was left open, start what may start, send what is queued, run the rest, and park if something is still out: with the
queue, or before a person. Each step follows from the state alone, so a holder that takes over in the middle does the
same.

An open start is judged by a newer holder, or by the one that lost the call: mode `idempotent` runs again under the same
key, mode `once` never does, its outcome is unknown. Then the model is told so, or by contract a person is asked first.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial

from agent import allowances, approvals, resolutions
from agent.contracts import Contract
from agent.controls import Controls
from agent.ear import Background, TimeIsUp
from agent.errors import StoreUnavailable
from agent.events import (
    Decision,
    Payload,
    RunWaiting,
    ToolCompleted,
    ToolOutcomeUnknown,
    ToolQueued,
    ToolStarted,
    Verdict,
    WaitingFor,
)
from agent.guardrails import Settling, guarded_in
from agent.held_run import HeldRun
from agent.run_state import Turn
from agent.tool_call import Start, carry_out
from agent.tool_results import (
    MAX_TOOL_ATTEMPTS,
    breaker,
    contract_changed,
    kept_back,
    not_run,
    switched_off,
    unavailable,
    unknown,
)

TOOL_GRACE_S = 5.0
"""What the tool's function may need beyond the tool's own timeout: to start, and to report."""

MAX_PARALLEL = 8

CHECK_AGAIN = timedelta(seconds=30)
"""When an approval is looked at again that could not be checked, because nobody could say who people are."""

EXPIRED = "It did not begin in time and will not run."

Batch = Sequence[tuple[Decision, Contract]]
"""Calls that run side by side, each with the contract it was decided under."""


def play(run: HeldRun, turn: Turn, controls: Controls) -> None:
    """Bring the calls of a turn nearer to their results; the loop repeats it until the turn is settled.

    Raises:
        RunFailed: the run was cancelled or timed out in mid-call.
        LogMoved: decide again.
    """
    _judge(run, turn, controls)
    turn = run.state.turn or turn
    inline = [
        (decision, contract)
        for decision in _open_calls(run)
        if not decision.queued and (contract := _contract(run, decision))
    ]
    time_s = run.time_for(sum(map(_patience_s, _batches(inline))))
    if time_s is None:
        run.hand_over()
        return
    inline = _fitting(inline, time_s)
    starting = [d for d in _open_calls(run) if d.call_id not in turn.started and d.call_id not in turn.queued]
    allowances.take(run, starting)
    may_start = {decision.call_id for decision in _open_calls(run)}
    inline = [
        (decision, contract)
        for decision, contract in inline
        if decision.call_id in may_start and _admits(run, turn, decision, contract)
    ]
    try:
        _start(run, turn, [decision for decision, _ in inline])
        _send(run)
        for batch in _batches(inline):
            _run_batch(run, batch)
    except Exception:
        for decision, _ in inline:
            run.runtime.breakers.gave_up(breaker(decision.tool))
        raise
    _park(run)


def _open_calls(run: HeldRun) -> list[Decision]:
    """Return the newest turn's calls that have no result and wait for nobody's decision, in call order."""
    turn = run.state.turn
    return [decision for decision in _unsettled(turn) if turn and not _is_before_a_person(run, turn, decision)]


def _is_before_a_person(run: HeldRun, turn: Turn, decision: Decision) -> bool:
    """Whether a person has to decide whether a call may run, or to find out what became of it."""
    call_id = decision.call_id
    return call_id in turn.unknown or call_id in run.unchecked or approvals.is_undecided(turn, decision)


def _unsettled(turn: Turn | None) -> list[Decision]:
    """Return a turn's calls that were not denied and have no result, in call order."""
    decisions = turn.completed.decisions if turn else ()
    return [d for d in decisions if turn and d.verdict is not Verdict.DENY and d.call_id not in turn.results]


def _contract(run: HeldRun, decision: Decision) -> Contract | None:
    """Return the contract a call was decided under; None where it is gone or has changed since."""
    tool = run.runtime.tools.get(decision.tool)
    return tool.contract if tool and tool.contract.sha256() == decision.contract_sha256 else None


def _batches(calls: Sequence[tuple[Decision, Contract]]) -> list[list[tuple[Decision, Contract]]]:
    """Return the calls in call order, neighbours together that may run side by side."""
    batches: list[list[tuple[Decision, Contract]]] = []
    for call in calls:
        last = batches[-1] if batches else []
        if last and last[-1][1].parallel and call[1].parallel and len(last) < MAX_PARALLEL:
            last.append(call)
        else:
            batches.append([call])
    return batches


def _fitting(calls: Batch, time_s: float) -> list[tuple[Decision, Contract]]:
    """Return the first calls, as many as end in the time there is; the first batch in any case.

    What begins later than this holder may live would be unknown afterwards, though it never began.
    """
    fitting: list[tuple[Decision, Contract]] = []
    for batch in _batches(calls):
        time_s -= _patience_s(batch)
        if fitting and time_s < 0:
            break
        fitting += batch
    return fitting


def _patience_s(batch: Batch) -> float:
    return max(contract.timeout_s for _, contract in batch) + TOOL_GRACE_S


def _judge(run: HeldRun, turn: Turn, controls: Controls) -> None:
    """Note the results of calls that nobody will bring any more, or that operators have switched off meanwhile."""
    now = run.runtime.clock.now()
    run.unchecked.clear()
    late: list[Payload] = []
    for decision in _unsettled(turn):
        if decision.call_id in turn.unknown:
            if found := resolutions.judge(run, turn, decision):
                late.append(found)
            continue
        started, _ = turn.started.get(decision.call_id, (None, 0))
        queued = turn.queued.get(decision.call_id)
        if queued is not None:
            if now >= queued.due_at:
                late.append(unknown(decision, "expired") if started else not_run(decision, "expired", EXPIRED))
            continue
        contract = _contract(run, decision)
        is_asked = approvals.is_undecided(turn, decision) and decision.call_id in turn.requested
        if not is_asked and (result := kept_back(controls, decision, has_started=started is not None)):
            run.note(result)
        elif started is None:
            if decision.verdict is Verdict.ASK:
                _judge_asked(run, turn, decision)
            elif contract is None:
                run.note(contract_changed(decision))
        elif contract is None or contract.mode == "once" or started.attempt >= MAX_TOOL_ATTEMPTS:
            run.note(unknown(decision, "lost"))
    if late:
        # No facts: the queue's worker, or a person, may write about these calls too, and who is first is right.
        run.append(*late)


def _admits(run: HeldRun, turn: Turn, decision: Decision, contract: Contract) -> bool:
    """Tell whether the tool's breaker lets a call through; note the result of one that it does not."""
    if run.runtime.breakers.admits(breaker(decision.tool), patience_s=contract.timeout_s + TOOL_GRACE_S):
        return True
    before, _ = turn.started.get(decision.call_id, (None, 0))
    run.note(unavailable(decision, attempt=before.attempt + 1 if before else 1))
    return False


def _judge_asked(run: HeldRun, turn: Turn, decision: Decision) -> None:
    try:
        if result := approvals.judge(run, turn, decision):
            run.note(result)
    except StoreUnavailable:
        run.unchecked.add(decision.call_id)


def _start(run: HeldRun, turn: Turn, inline: Sequence[Decision]) -> None:
    """Write that the calls begin, before any does, and ask people about others: whether they may run, or have."""
    starts: list[Payload] = []
    for decision in inline:
        before, _ = turn.started.get(decision.call_id, (None, 0))
        starts.append(
            ToolStarted(
                call_id=decision.call_id,
                tool=decision.tool,
                attempt=before.attempt + 1 if before else 1,
                approval_id=approvals.consumed_by(turn, decision),
            )
        )
    longest_wait = timedelta(seconds=run.release.caps.max_wait_s)
    due_at = min(run.runtime.clock.now() + longest_wait, run.header.deadline_at)
    starts += [
        ToolQueued(
            call_id=decision.call_id,
            tool=decision.tool,
            due_at=due_at,
            approval_id=approvals.consumed_by(turn, decision),
        )
        for decision in _open_calls(run)
        if decision.queued and decision.call_id not in turn.queued
    ]
    starts += [
        approvals.request(run, decision)
        for decision in _unsettled(turn)
        if approvals.is_undecided(turn, decision) and decision.call_id not in turn.requested
    ]
    starts += [
        resolutions.request(run, decision)
        for decision in _unsettled(turn)
        if decision.call_id in turn.unknown and decision.call_id not in turn.checks and resolutions.is_time_left(run)
    ]
    if starts:
        run.append(*starts)


def _send(run: HeldRun) -> None:
    """Have the queued calls sent, also those that a holder before this one wrote and perhaps did not get sent."""
    waiting = {decision.call_id for decision in _open_calls(run) if decision.queued}
    if waiting - run.sent:
        run.runtime.dispatcher.send(run.header.tenant_id)
        run.sent |= waiting


class _Settled(Exception):
    """No call of a batch is waited for any more."""


def _run_batch(run: HeldRun, batch: Batch) -> None:
    """Run calls side by side and note their results. A call whose end is not seen stays open, and is judged next.

    A tool that is switched off while it runs is not waited for: its result enters the run no more.
    """
    until = run.runtime.clock.monotonic() + _patience_s(batch)
    calls = Background[Sequence[Settling]](run.runtime.clock, listen_every_s=run.runtime.listen_every_s)
    out = dict[str, Decision]()

    def hear() -> None:
        try:
            controls = run.hear()
        except StoreUnavailable:
            return  # a call that runs can't be stopped from here; and nothing else begins
        for decision in [decision for decision in out.values() if controls.tool_off(decision.tool)]:
            run.note(switched_off(out.pop(decision.call_id), has_started=True))
        if not out:
            raise _Settled

    for decision, contract in _may_begin(run, batch):
        out[decision.call_id] = decision
        calls.start(partial(_results, run, decision, contract))
    try:
        for results in calls.read(hear, until=until):
            if out.pop(results[0].call_id or "", None):
                for result in results:
                    run.note(result)
    except (TimeIsUp, _Settled):
        pass
    finally:
        calls.abandon()


def _may_begin(run: HeldRun, batch: Batch) -> Batch:
    """Return the calls that operators let begin, the batch before having taken its time; note results of the others."""
    try:
        controls: Controls | None = run.require_switched_on()
    except StoreUnavailable:
        controls = None
    passed: list[tuple[Decision, Contract]] = []
    for decision, contract in batch:
        started, _ = run.state.turn.started[decision.call_id] if run.state.turn else (None, 0)
        attempt = started.attempt if started else 1
        if controls is None:
            result: ToolCompleted | ToolOutcomeUnknown | None = unavailable(decision, attempt=attempt)
        else:
            result = kept_back(controls, decision, has_started=attempt > 1)
        if result is None:
            passed.append((decision, contract))
            continue
        run.note(result)
        run.runtime.breakers.gave_up(breaker(decision.tool))
    return passed


def _results(run: HeldRun, decision: Decision, contract: Contract) -> Iterator[Sequence[Settling]]:
    """Yield a call's result and what guards found in it; nothing where its end was not seen. On a thread of its own."""
    turn = run.state.turn
    if turn is not None:
        started, _ = turn.started[decision.call_id]
        start = Start(
            run.header.tenant_id,
            run.header.run_id,
            decision,
            contract,
            attempt=started.attempt,
            calls=len(turn.completed.decisions),
        )
        if result := carry_out(start, run.runtime.tool_runner, run.runtime.breakers):
            yield guarded_in(run.state, lambda _: run.release, result)


def _park(run: HeldRun) -> None:
    """Wait without compute where nothing is out but queued calls and calls before a person."""
    turn = run.state.turn
    deadlines: dict[WaitingFor, list[datetime]] = {}
    for decision in _unsettled(turn):
        wait = _wait(run, turn, decision) if turn else None
        if wait is None:
            return
        deadlines.setdefault(wait[0], []).append(wait[1])
    if deadlines:
        run.append(RunWaiting(waiting_for=tuple(sorted(deadlines)), due_at=min(map(min, deadlines.values()))))


def _wait(run: HeldRun, turn: Turn, decision: Decision) -> tuple[WaitingFor, datetime] | None:
    """Return what a call waits for, and until when; None where there is something to do about it."""
    call_id = decision.call_id
    if call_id in turn.unknown:
        asked = turn.checks.get(call_id)
        return (WaitingFor.APPROVAL, asked.expires_at) if asked else None
    if call_id in run.unchecked:
        return WaitingFor.APPROVAL, min(run.runtime.clock.now() + CHECK_AGAIN, turn.requested[call_id].expires_at)
    if approvals.is_undecided(turn, decision):
        return WaitingFor.APPROVAL, turn.requested[call_id].expires_at
    return (WaitingFor.TOOL, turn.queued[call_id].due_at) if decision.queued else None
