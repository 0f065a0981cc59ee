"""Money: a model call is paid for before it begins, and what an ended run has left flows back.

A run holds a slice on its header. Reserving and settling touch only that; the ledger is asked when the slice is too
small. The grant's number follows from the header, so a holder that dies between grant and append leaves nothing behind:
the next one asks for the same number and gets the same money.
"""

import json

from agent.allowances import give_back
from agent.endings import EndReason
from agent.errors import ConfigurationInvalid, LogContended, LogMoved, RunFailed
from agent.events import BudgetGranted, BudgetReturned, ModelFailed, Usage
from agent.held_run import MAX_MOVES, HeldRun, read_state
from agent.ports.clock import Clock
from agent.ports.limits import Allowances
from agent.ports.model import ModelRequest
from agent.ports.money import Grant, Ledger
from agent.ports.run_log import RunLog
from agent.pricing import Price
from agent.run_header import RunHeader
from agent.run_state import RunState

OVERHEAD_TOKENS = 1_000
"""What a provider adds to a request on its own: its tool instructions and the framing of messages."""

MAX_GRANTS = 3
"""Grants for one call: an earlier one that a dead holder took may be too small."""


def price_of(run: HeldRun, model_id: str) -> Price:
    """Return the price of a model.

    Raises:
        RunFailed: it has none; a call that can't be counted is not made.
    """
    try:
        return run.runtime.prices.of(model_id)
    except ConfigurationInvalid as unknown:
        raise RunFailed(EndReason.RELEASE_UNAVAILABLE, str(unknown)) from unknown


def reserve(run: HeldRun, request: ModelRequest) -> int:
    """Return what to reserve for a model call, having made sure that the slice holds it.

    Raises:
        RunFailed: the run, the user, the tenant or the platform has too little left.
        LogMoved: the run has ended under another holder.
    """
    need = price_of(run, request.model_id).bound_micros(input_bound(run.state, request), request.max_tokens)
    if run.header.spent_micros + need > run.header.limit_micros:
        raise RunFailed(EndReason.BUDGET_RUN)
    for _ in range(MAX_GRANTS):
        header = run.header
        short = need - header.slice_micros
        if short <= 0:
            return need
        want = max(short, min(run.release.caps.slice_micros, header.limit_micros - header.granted_micros))
        answer = run.runtime.ledger.grant(
            Grant(header.tenant_id, header.user_id, header.run_id, header.grants + 1, want, short),
            at=run.runtime.clock.now(),
        )
        if isinstance(answer, str):
            raise RunFailed(EndReason(f"budget_{answer}"))
        if answer == 0:
            raise LogMoved(f"{header.run_id} is over: its money was returned")
        run.note(BudgetGranted(grant=header.grants + 1, amount_micros=answer))
    raise RunFailed(EndReason.INTERNAL_ERROR, f"{MAX_GRANTS} grants did not cover one call")


def input_bound(state: RunState, request: ModelRequest) -> int:
    """Return an upper bound of a request's input tokens.

    A token is at least one byte. What the last turn's request and answer came to is known exactly, so only what is new
    since then (the results, the last message) is counted in bytes.
    """
    last = state.turn.completed if state.turn else None
    if last is not None and last.usage is not None and last.model_id == request.model_id:
        usage = last.usage
        known = usage.input_tokens + usage.output_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        return known + _bytes(request.messages[-1]) + OVERHEAD_TOKENS
    tools = [[tool.name, tool.description, tool.schema] for tool in request.tools]
    return _bytes([request.system, request.messages, tools]) + OVERHEAD_TOKENS


def _bytes(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())


def settled(price: Price, usage: Usage | None, reserved_micros: int) -> tuple[int, bool]:
    """Return what a call cost, and whether that is assumed: all that was reserved, where nobody told the usage."""
    return (reserved_micros, True) if usage is None else (price.cost_micros(usage), False)


def assumed_failure(state: RunState, error: str, *, epoch: int | None = None, shown: bool = True) -> ModelFailed | None:
    """Return the settlement of a model call that was begun (in that epoch) and whose end nobody saw, or None."""
    if state.open_model is None or epoch not in {None, state.open_model.epoch}:
        return None
    started = state.open_model.started
    return ModelFailed(
        turn=started.turn,
        attempt=started.attempt,
        model_id=started.model_id,
        error=error,
        retryable=True,
        cost_micros=started.reserved_micros,
        assumed=True,
        shown=shown,
    )


def settle_ended(log: RunLog, ledger: Ledger, allowances: Allowances, clock: Clock, state: RunState) -> RunHeader:
    """Settle what an ended run left open, return its money and what its calls did not use; harmless when repeated.

    Raises:
        LogContended: the log moved too often in a row.
        StoreUnavailable: ledger or allowances did not answer; the run stays due.
    """
    for _ in range(MAX_MOVES):
        header = state.header
        if not state.is_over or header.due_at is None:
            return header
        try:
            if failure := assumed_failure(state, "run_ended"):
                header = log.append(header, [failure], at=clock.now())
            give_back(allowances, state, at=clock.now())
            ledger.give_back(header, at=clock.now())
            return log.append(header, [BudgetReturned(amount_micros=header.slice_micros)], at=clock.now(), outside=True)
        except LogMoved:
            state = read_state(log, header.tenant_id, header.run_id, known=state) or state
    raise LogContended(f"{state.header.run_id} moved {MAX_MOVES} times in a row")
