"""The barrier: the model is asked again only when every call of its last answer has exactly one result.

All calls were decided before this begins, and the decisions are in the log before the first call runs. Then: judge what
was left open, start what may start, send what is queued, run the rest, and park if something is still out: with the
queue, or before a person. Each step follows from the state alone, so a holder that takes over in the middle does the
same.

An open start is judged by a newer holder, or by the one that lost the call: mode `idempotent` runs again under the same
key, mode `once` never does, its outcome is unknown.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial

from agent import approvals, tracing
from agent.ear import Background, TimeIsUp
from agent.errors import CallNotDecided, StoreUnavailable, ToolLost, ToolUnreached, TryLater
from agent.events import (
    Decision,
    Payload,
    RunWaiting,
    ToolQueued,
    ToolStarted,
    Verdict,
    WaitingFor,
)
from agent.held_run import HeldRun
from agent.runlog import Turn
from agent.tool_results import (
    MAX_TOOL_ATTEMPTS,
    breaker,
    completed,
    contract_changed,
    failed,
    refused,
    unavailable,
    unknown,
)
from agent.tools import Contract

TOOL_GRACE_S = 5.0
"""What the tool's function may need beyond the tool's own timeout: to start, and to report."""

MAX_PARALLEL = 8

CHECK_AGAIN = timedelta(seconds=30)
"""When an approval is looked at again that could not be checked, because nobody could say who people are."""

EXPIRED = "It did not begin in time and will not run."

Batch = Sequence[tuple[Decision, Contract]]
"""Calls that run side by side, each with the contract it was decided under."""


def play(run: HeldRun, turn: Turn) -> None:
    """Bring the calls of a turn nearer to their results; the loop repeats it until the turn is settled.

    Raises:
        RunFailed: the run was cancelled or timed out in mid-call.
        LogMoved: decide again.
    """
    _judge(run, turn)
    inline = [
        (decision, contract)
        for decision in _open_calls(run)
        if not decision.queued and (contract := _contract(run, decision))
    ]
    if run.time_for(sum(map(_patience_s, _batches(inline)))) is None:
        run.hand_over()
        return
    inline = [(decision, contract) for decision, contract in inline if _admits(run, turn, decision, contract)]
    _start(run, turn, [decision for decision, _ in inline])
    _send(run)
    for batch in _batches(inline):
        _run_batch(run, batch)
    _park(run)


def _open_calls(run: HeldRun) -> list[Decision]:
    """Return the newest turn's calls that have no result and wait for nobody's decision, in call order."""
    turn = run.state.turn
    return [decision for decision in _unsettled(turn) if turn and not _is_before_a_person(run, turn, decision)]


def _is_before_a_person(run: HeldRun, turn: Turn, decision: Decision) -> bool:
    return approvals.is_undecided(turn, decision) or decision.call_id in run.unchecked


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


def _patience_s(batch: Batch) -> float:
    return max(contract.timeout_s for _, contract in batch) + TOOL_GRACE_S


def _judge(run: HeldRun, turn: Turn) -> None:
    """Note the results of calls that nobody will bring any more."""
    now = run.runtime.clock.now()
    run.unchecked.clear()
    for decision in _unsettled(turn):
        started, _ = turn.started.get(decision.call_id, (None, 0))
        queued = turn.queued.get(decision.call_id)
        if queued is not None:
            if now >= queued.due_at:
                run.note(unknown(decision, "expired") if started else failed(decision, "expired", EXPIRED))
            continue
        contract = _contract(run, decision)
        if started is None:
            if decision.verdict is Verdict.ASK:
                _judge_asked(run, turn, decision)
            elif contract is None:
                run.note(contract_changed(decision))
        elif contract is None or contract.mode == "once" or started.attempt >= MAX_TOOL_ATTEMPTS:
            run.note(unknown(decision, "lost"))


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
    """Write that the calls begin, before any does, and ask for the approvals that others need."""
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
    if starts:
        run.append(*starts)


def _send(run: HeldRun) -> None:
    """Have the queued calls sent, also those that a holder before this one wrote and perhaps did not get sent."""
    waiting = {decision.call_id for decision in _open_calls(run) if decision.queued}
    if waiting - run.sent:
        run.runtime.dispatcher.send(run.header.tenant_id)
        run.sent |= waiting


def _run_batch(run: HeldRun, batch: Batch) -> None:
    """Run calls side by side and note their results. A call whose end is not seen stays open, and is judged next."""
    until = run.runtime.clock.monotonic() + _patience_s(batch)
    calls = Background[Payload](run.runtime.clock, listen_every_s=run.runtime.listen_every_s)
    for decision, contract in batch:
        calls.start(partial(_call, run, decision, contract))
    try:
        for result in calls.read(run.hear, until=until):
            run.note(result)
    except TimeIsUp:
        pass
    finally:
        calls.abandon()


def _call(run: HeldRun, decision: Decision, contract: Contract) -> Iterator[Payload]:
    """Yield a call's result, or nothing where its end was not seen. Runs on a thread of its own."""
    header = run.header
    with tracing.execute_tool(
        decision.tool, decision.call_id, tenant_id=header.tenant_id, run_id=header.run_id
    ) as span:
        try:
            reply = run.runtime.tool_runner.run(
                header.tenant_id,
                header.run_id,
                decision.call_id,
                timeout_s=contract.timeout_s,
                traceparent=tracing.traceparent(),
            )
        except CallNotDecided:
            tracing.fail(span, CallNotDecided.code)
            yield refused(decision)
        except ToolUnreached as unreached:
            tracing.fail(span, unreached.code)
            run.runtime.breakers.failed(breaker(decision.tool))
            started, _ = run.state.turn.started[decision.call_id] if run.state.turn else (None, 0)
            yield unavailable(decision, attempt=started.attempt if started else 1)
        except (ToolLost, TryLater) as lost:
            tracing.fail(span, lost.code)
            run.runtime.breakers.failed(breaker(decision.tool))
        else:
            run.runtime.breakers.succeeded(breaker(decision.tool))
            span.set_attribute(tracing.OUTCOME, reply.outcome)
            calls = len(run.state.turn.completed.decisions) if run.state.turn else 1
            yield completed(decision, contract, reply, calls=calls)


def _park(run: HeldRun) -> None:
    """Wait without compute where nothing is out but queued calls and calls before a person."""
    turn = run.state.turn
    deadlines: dict[WaitingFor, list[datetime]] = {}
    soon = run.runtime.clock.now() + CHECK_AGAIN
    for decision in _unsettled(turn):
        if turn and _is_before_a_person(run, turn, decision):
            expires_at = turn.requested[decision.call_id].expires_at
            due_at = min(soon, expires_at) if decision.call_id in run.unchecked else expires_at
            deadlines.setdefault(WaitingFor.APPROVAL, []).append(due_at)
        elif turn and decision.queued:
            deadlines.setdefault(WaitingFor.TOOL, []).append(turn.queued[decision.call_id].due_at)
        else:
            return
    if deadlines:
        run.append(RunWaiting(waiting_for=tuple(sorted(deadlines)), due_at=min(map(min, deadlines.values()))))
