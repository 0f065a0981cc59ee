"""One model call: paid for, recorded, streamed under a hard timeout, settled, and its tool calls decided.

Text goes out as deltas while it comes in. Nothing of the answer counts until the model has stopped; then the gate
decides every call it asks for, and answer and decisions become one fact.
"""

import math
from dataclasses import dataclass, replace

from agent import budget, caps, messages, tracing
from agent.answer import MALFORMED, Answer, mended
from agent.ear import Background, TimeIsUp
from agent.errors import HookFailed, ModelError, ModelTimedOut, ModelUnavailable, RunFailed, TryLater
from agent.events import Delta, EndReason, ModelCompleted, ModelFailed, ModelStarted, ToolUse, Usage, Verdict
from agent.gate import Gate
from agent.held_run import HeldRun
from agent.hooks import ModelAsking, tighten
from agent.identity import message_id
from agent.ports import ModelPart, ModelRequest, TextDelta

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


def _request(run: HeldRun) -> ModelRequest:
    request = messages.request(run.state, run.release, run.runtime.tools)
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
) -> ModelCompleted | ModelFailed:
    clock = run.runtime.clock
    begun_at = clock.monotonic()
    answer = Answer()
    deltas = Deltas(run, started_seq=run.header.next_seq - 1)
    call = Background[ModelPart](clock, listen_every_s=run.runtime.listen_every_s)
    with tracing.chat(
        request.model_id,
        turn=started.turn,
        attempt=started.attempt,
        max_tokens=request.max_tokens,
        reserved_micros=started.reserved_micros,
    ) as span:
        call.start(lambda: run.runtime.model.stream(request, timeout_s=timeout_s))
        try:
            for part in call.read(run.hear, until=begun_at + timeout_s):
                if not answer.take(part):
                    break
                if isinstance(part, TextDelta):
                    deltas.add(answer.part_of(part.block), mended(part.text))
            outcome: ModelCompleted | ModelFailed = _completed(
                run, started, request, answer, round((clock.monotonic() - begun_at) * 1000)
            )
        except TimeIsUp:
            outcome = _failed(run, started, answer, ModelTimedOut())
        except ModelError as error:
            outcome = _failed(run, started, answer, error)
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
    return outcome


def _completed(
    run: HeldRun, started: ModelStarted, request: ModelRequest, answer: Answer, duration_ms: int
) -> ModelCompleted:
    if answer.stop_reason is None or answer.stop_reason in MALFORMED:
        raise ModelUnavailable("the stream broke off" if answer.stop_reason is None else answer.stop_reason)
    content = answer.content(started.turn, tools_offered=bool(request.tools))
    gate = Gate(
        tools=run.runtime.tools,
        release=run.release,
        policy=run.runtime.policy,
        hooks=run.runtime.hooks.deciding,
        principal=run.state.created.principal,
        calls_before=sum(
            1 for turn in run.state.turns for d in turn.completed.decisions if d.verdict is not Verdict.DENY
        ),
        seconds_left=run.seconds_left(),
    )
    cost, assumed = budget.settled(budget.price_of(run), answer.usage, started.reserved_micros)
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


def _failed(run: HeldRun, started: ModelStarted, answer: Answer, error: ModelError) -> ModelFailed:
    cost, assumed = budget.settled(budget.price_of(run), answer.usage, started.reserved_micros)
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
    _index: int = 0
    _part: int = 0
    _offset: int = 0
    _text: str = ""
    _written_at: float = -math.inf

    def add(self, part: int, text: str) -> None:
        """Take text of a part, which begins where the last text of that part ended."""
        if part != self._part:
            self._flush()
            self._part, self._offset = part, 0
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
        delta = Delta(seq=self.started_seq, index=self._index, part=self._part, offset=self._offset, text=self._text)
        try:
            self.run.runtime.log.write_delta(header.tenant_id, header.run_id, delta)
        except TryLater:
            return  # kept, and tried again with the next text
        self._index += 1
        self._offset += len(self._text)
        self._text = ""
