"""One model call: paid for, recorded, streamed under a hard timeout, settled, and its tool calls decided.

Text goes out as deltas while it comes in. Nothing of the answer counts until the model has stopped; then the gate
decides every call it asks for, and answer and decisions become one fact.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from agent import budget, caps, messages, tracing
from agent.answer import MALFORMED, Answer
from agent.ear import Background, TimeIsUp
from agent.errors import HookFailed, ModelError, ModelTimedOut, ModelUnavailable, RunFailed, TryLater
from agent.events import Delta, EndReason, ModelCompleted, ModelFailed, ModelStarted, ToolUse, Verdict
from agent.gate import Gate
from agent.held_run import HeldRun
from agent.hooks import ModelAsking, tighten
from agent.identity import message_id
from agent.ports import ModelPart, ModelRequest, TextDelta, UsageReported

BACKOFF_FIRST_S = 0.5
BACKOFF_LONGEST_S = 8.0
"""Full jitter between attempts (AWS Architecture Blog, "Exponential Backoff And Jitter")."""

FLUSH_EVERY_S = 0.25
FLUSH_CHARACTERS = 500
"""Streamed text is written when one of these is reached: often enough to read along, seldom enough to pay for."""


def ask(run: HeldRun) -> None:
    """Make the run's next model call and note what it came to.

    Raises:
        RunFailed: no further call is allowed or can be paid, or the run was cancelled or timed out in mid-call.
        LogMoved: decide again.
    """
    caps.require_turn(run.state, run.release)
    attempt = run.state.failed_attempts + 1
    if attempt > 1:
        run.pause(run.runtime.random() * min(BACKOFF_LONGEST_S, BACKOFF_FIRST_S * 2 ** (attempt - 2)))
    timeout_s = run.time_for(run.release.model.timeout_s)
    if timeout_s is None:
        run.hand_over()
        return
    request = _request(run)
    started = ModelStarted(
        turn=len(run.state.turns) + 1,
        attempt=attempt,
        message_id=message_id(len(run.state.turns) + 1, attempt),
        model_id=request.model_id,
        reserved_micros=budget.reserve(run, request),
    )
    run.append(started)
    run.note(_stream(run, started, request, timeout_s))
