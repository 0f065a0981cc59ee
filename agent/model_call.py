"""One model call: paid for, recorded, streamed under a hard timeout, settled, and its tool calls decided.

Text goes out as deltas while it comes in, as far as the release's guards can tell already that they will let it pass.
Nothing of the answer counts until the model has stopped; then the gate decides every call it asks for, the guards judge
the whole, and answer and decisions become one fact.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent import budget, caps, guardrails, messages, model_choice, tracing
from agent.answer import MALFORMED, Answer, mended
from agent.controls import Controls
from agent.ear import Background, TimeIsUp
from agent.endings import EndReason
from agent.errors import (
    HookFailed,
    ModelError,
    ModelSwitchedOff,
    ModelTimedOut,
    ModelUnavailable,
    RunFailed,
    TryLater,
)
from agent.events import Delta, GuardFired, ModelCompleted, ModelFailed, ModelStarted, ToolUse, Usage, Verdict
from agent.gate import Gate
from agent.held_run import HeldRun
from agent.hold_back import HoldBack
from agent.hooks import ModelAsking, tighten
from agent.identity import message_id
from agent.ports.model import ModelPart, ModelRequest, TextDelta
from agent.release import ModelChoice

BACKOFF_FIRST_S = 0.5
BACKOFF_LONGEST_S = 8.0
"""Full jitter between attempts (AWS Architecture Blog, "Exponential Backoff And Jitter")."""

FLUSH_EVERY_S = 0.25
FLUSH_CHARACTERS = 500
"""Streamed text is written when one of these is reached: often enough to read along, seldom enough to pay for."""


def ask(run: HeldRun, controls: Controls) -> None:
    """Make the run's next model call and note what it came to.

    Raises:
        RunFailed: no further call is allowed or can be paid, or the run was cancelled or timed out in mid-call.
        LogMoved: decide again.
    """
    caps.require_turn(run.state, run.release)
    breakers, choices = run.runtime.breakers, model_choice.left(run.state, run.release, controls)
    if _back_off(run, choices):
        controls = run.require_switched_on()
        choices = model_choice.left(run.state, run.release, controls)
    for choice in choices:
        timeout_s = run.time_for(choice.timeout_s)
        if timeout_s is None:
            run.hand_over()
            return
        if breakers.admits(model_choice.breaker(choice.id), patience_s=timeout_s):
            break
    else:
        failures = [failure.error for failure in run.state.failures]
        off = model_choice.is_switched_off(run.release, controls)
        reason = EndReason.SWITCHED_OFF if off else EndReason.MODEL_UNAVAILABLE
        raise RunFailed(reason, f"failed attempts: {failures}; open breakers: {len(choices)}")
    try:
        outcome, fired = _outcome(run, _request(run, choice), timeout_s)
    except Exception:
        breakers.gave_up(model_choice.breaker(choice.id))
        raise
    run.note(outcome)
    for event in fired:
        run.note(event)
    model_choice.tell(breakers, outcome)


def _outcome(
    run: HeldRun, request: ModelRequest, timeout_s: float
) -> tuple[ModelCompleted | ModelFailed, tuple[GuardFired, ...]]:
    attempt = len(run.state.failures) + 1
    started = ModelStarted(
        turn=len(run.state.turns) + 1,
        attempt=attempt,
        message_id=message_id(len(run.state.turns) + 1, attempt),
        model_id=request.model_id,
        reserved_micros=budget.reserve(run, request),
    )
    run.append(started)
    return _stream(run, started, request, timeout_s)


def was_shown(run: HeldRun) -> bool:
    """Whether text of an open model call, which a dead holder left behind, may have reached the user."""
    call, header = run.state.open_model, run.header
    return call is not None and bool(run.runtime.log.deltas(header.tenant_id, header.run_id, call.seq))


def _back_off(run: HeldRun, choices: Sequence[ModelChoice]) -> bool:
    """Wait before a model is asked again, but not for one whose breaker is, or falls, open meanwhile.

    Tells whether there was anything to wait for.
    """
    failed = model_choice.tried(run.state, choices[0]) if choices else 0
    if failed:
        longest_s = min(BACKOFF_LONGEST_S, BACKOFF_FIRST_S * 2 ** (failed - 1))
        name = model_choice.breaker(choices[0].id)
        run.pause(run.runtime.random() * longest_s, until=lambda: run.runtime.breakers.is_open(name))
    return failed > 0


def _request(run: HeldRun, choice: ModelChoice) -> ModelRequest:
    request = messages.request(run.state, run.release, choice, run.runtime.tools)
    event = ModelAsking(
        principal=run.state.created.principal,
        model_id=request.model_id,
        turn=len(run.state.turns) + 1,
        max_tokens=request.max_tokens,
    )
    try:
        event = tighten(run.runtime.hooks.asking, event)
    except HookFailed as broken:
        raise RunFailed(EndReason.POLICY_UNAVAILABLE, str(broken)) from broken
    return replace(request, max_tokens=event.max_tokens)


def _stream(
    run: HeldRun, started: ModelStarted, request: ModelRequest, timeout_s: float
) -> tuple[ModelCompleted | ModelFailed, tuple[GuardFired, ...]]:
    clock = run.runtime.clock
    begun_at = clock.monotonic()
    answer = Answer()
    held = guardrails.hold_back(run)
    deltas = Deltas(run, started_seq=run.header.next_seq - 1)
    fired: tuple[GuardFired, ...] = ()
    call = Background[ModelPart](clock, listen_every_s=run.runtime.listen_every_s)

    def hear() -> None:
        if run.hear().model_off(request.model_id):
            raise ModelSwitchedOff

    with tracing.chat(
        request.model_id,
        turn=started.turn,
        attempt=started.attempt,
        max_tokens=request.max_tokens,
        reserved_micros=started.reserved_micros,
    ) as span:
        call.start(lambda: run.runtime.model.stream(request, timeout_s=timeout_s))
        try:
            for part in call.read(hear, until=begun_at + timeout_s):
                if not answer.take(part):
                    break
                if isinstance(part, TextDelta):
                    for number, text in held.add(answer.part_of(part.block), mended(part.text)):
                        deltas.add(number, text)
            duration_ms = round((clock.monotonic() - begun_at) * 1000)
            outcome: ModelCompleted | ModelFailed
            outcome, fired = _judged(run, _completed(run, started, request, answer, duration_ms), answer, held)
        except TimeIsUp:
            outcome = _failed(run, started, answer, ModelTimedOut(), shown=deltas.shown)
        except ModelError as error:
            outcome = _failed(run, started, answer, error, shown=deltas.shown)
        except RunFailed:
            # The end is recorded first; then `loop.settle` reads on for the usage.
            run.interrupted = lambda: _drained(call, answer, until=clock.monotonic() + run.runtime.drain_s)
            raise
        finally:
            if run.interrupted is None:
                call.abandon()
        if isinstance(outcome, ModelFailed):
            tracing.fail(span, outcome.error)
        tracing.settle(span, usage=outcome.usage, cost_micros=outcome.cost_micros, stop_reason=answer.stop_reason)
    return outcome, fired


def _judged(
    run: HeldRun, completed: ModelCompleted, answer: Answer, held: HoldBack
) -> tuple[ModelCompleted, tuple[GuardFired, ...]]:
    """Return the answer as its guards leave it, and what fired. One that is held back asks for no calls."""
    service = answer.interventions if completed.stop_reason == guardrails.INTERVENED else None
    judgement = guardrails.judge(run, completed.shown_texts(), completed.decisions, held=held, service=service)
    if judgement.replacement is not None:
        content = tuple(block for block in completed.content if not isinstance(block, ToolUse))
        held_back = {"replacement": judgement.replacement, "content": content, "decisions": ()}
        completed = completed.model_copy(update=held_back)
    return completed, judgement.fired


def _completed(
    run: HeldRun, started: ModelStarted, request: ModelRequest, answer: Answer, duration_ms: int
) -> ModelCompleted:
    if answer.stop_reason is None or answer.stop_reason in MALFORMED:
        raise ModelUnavailable("the stream broke off" if answer.stop_reason is None else answer.stop_reason)
    content = answer.content(started.turn, tools_offered=bool(request.tools))
    passed = [d for turn in run.state.turns for d in turn.completed.decisions if d.verdict is not Verdict.DENY]
    gate = Gate.of(run, run.state.created.principal, calls_before=len(passed))
    cost, assumed = budget.settled(budget.price_of(run, started.model_id), answer.usage, started.reserved_micros)
    return ModelCompleted(
        turn=started.turn,
        attempt=started.attempt,
        model_id=started.model_id,
        content=content,
        stop_reason=answer.stop_reason,
        usage=answer.usage,
        cost_micros=cost,
        assumed=assumed,
        duration_ms=duration_ms,
        decisions=gate.decide([block for block in content if isinstance(block, ToolUse)]),
    )


def _failed(run: HeldRun, started: ModelStarted, answer: Answer, error: ModelError, *, shown: bool) -> ModelFailed:
    cost, assumed = budget.settled(budget.price_of(run, started.model_id), answer.usage, started.reserved_micros)
    if assumed and not error.billed:
        cost, assumed = 0, False  # the service said that it did nothing
    return ModelFailed(
        turn=started.turn,
        attempt=started.attempt,
        model_id=started.model_id,
        error=error.code,
        retryable=error.retryable,
        usage=answer.usage,
        cost_micros=cost,
        assumed=assumed,
        shown=shown,
    )


def _drained(call: Background[ModelPart], answer: Answer, *, until: float) -> Usage | None:
    """Read an interrupted stream on for its usage, and then give it up."""
    try:
        for part in call.read(lambda: None, until=until):
            if not answer.take(part):
                break
    except (TimeIsUp, ModelError):
        pass
    finally:
        call.abandon()
    return answer.usage


@dataclass
class Deltas:
    """Streamed text on its way into the log: gathered, then written in pieces."""

    run: HeldRun
    started_seq: int
    shown: bool = False
    """Whether any text may have been written, and so read."""
    _given_up: bool = False
    _index: int = 0
    _part: int = 0
    _offset: int = 0
    _text: str = ""
    _written_at: float = -math.inf

    def add(self, part: int, text: str) -> None:
        """Take text of a part, which begins where the last text of that part ended."""
        if self._given_up:
            return
        if part != self._part:
            self._flush()
            # What could not be written can't be made up in another part; `model.completed` has it all.
            self._given_up = bool(self._text)
            self._part, self._offset = part, 0
        if self._given_up:
            return
        self._text += text
        now = self.run.runtime.clock.monotonic()
        if len(self._text) >= FLUSH_CHARACTERS or now - self._written_at >= FLUSH_EVERY_S:
            self._flush()
            self._written_at = now

    def _flush(self) -> None:
        # What is left at the end needs no delta: `model.completed` follows with all of it.
        if not self._text:
            return
        header = self.run.header
        self.shown = True
        delta = Delta(seq=self.started_seq, index=self._index, part=self._part, offset=self._offset, text=self._text)
        try:
            self.run.runtime.log.write_delta(header.tenant_id, header.run_id, delta)
        except TryLater:
            return  # kept, and tried again with the next text
        self._index += 1
        self._offset += len(self._text)
        self._text = ""
