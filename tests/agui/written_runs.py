"""Runs written by hand, and by Hypothesis, into a log in memory: what a holder, a queue and a user leave behind."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Literal

from hypothesis import strategies as st

from agent.contracts import Effect
from agent.endings import END, EndReason
from agent.events import (
    FINDINGS,
    UNRESOLVED,
    ApprovalChoice,
    ApprovalDecided,
    ApprovalKind,
    ApprovalRequested,
    CancelRequested,
    Decision,
    Delta,
    Event,
    FeedbackGiven,
    ModelCompleted,
    ModelFailed,
    ModelStarted,
    Payload,
    Reasoning,
    RunClaimed,
    RunCreated,
    RunEnded,
    RunWaiting,
    Text,
    ToolCompleted,
    ToolOutcomeUnknown,
    ToolProgress,
    ToolQueued,
    ToolStarted,
    ToolUse,
    Usage,
    Verdict,
    WaitingFor,
    WorkerLost,
)
from agent.identity import Principal, Role, approval_id, call_id, message_id, resolution_id
from agent.ports.run_log import NewRun
from agent.run_state import fold
from agent.testing.clock import FakeClock
from agent.testing.run_log import MemoryRunLog

MODEL = "model-1"
RUN_ID = "run_01KAGJ8QH0000000000000000A"
ANNA = Principal(tenant_id="acme", user_id="anna", roles=frozenset({Role.USER}))


class WrittenRun:
    """One run's log, written step by step."""

    def __init__(self, *, log: MemoryRunLog | None = None, run_id: str = RUN_ID, principal: Principal = ANNA) -> None:
        self.log = log or MemoryRunLog()
        self.clock = FakeClock()
        self.turn = 0
        self.attempt = 0
        created = RunCreated(
            principal=principal,
            input="Where is order 1001?",
            release="support-desk-1",
            deadline_at=self.clock.now() + timedelta(minutes=5),
            limit_micros=100_000,
        )
        event = Event(
            tenant_id=principal.tenant_id,
            run_id=run_id,
            seq=1,
            at=self.clock.now(),
            epoch=0,
            nonce="n0",
            release="support-desk-1",
            data=created,
        )
        self.header = self.log.create(NewRun(event=event, idempotency_key=None, body_sha256=""))

    @property
    def events(self) -> list[Event]:
        return self.log.events(self.header.tenant_id, self.header.run_id)

    def deltas(self, seq: int, from_index: int) -> list[Delta]:
        return self.log.deltas(self.header.tenant_id, self.header.run_id, seq, from_index=from_index)

    def append(self, *payloads: Payload, outside: bool = False) -> None:
        self.clock.advance(0.1)
        self.header = self.log.append(self.header, payloads, at=self.clock.now(), outside=outside)

    def claim(self) -> None:
        epoch = self.header.epoch + 1
        claimed = RunClaimed(owner=f"request-{epoch}", epoch=epoch, lease_until=self.clock.now() + timedelta(minutes=1))
        # The memory log takes an append from the epoch that is; the claim is what raises it.
        self.append(claimed)

    def think(self, *, again: bool = False) -> None:
        self.turn, self.attempt = (self.turn, self.attempt + 1) if again else (self.turn + 1, 1)
        self.pieces, self.offsets = 0, dict[int, int]()
        self.started_at = self.header.next_seq
        self.append(
            ModelStarted(
                turn=self.turn,
                attempt=self.attempt,
                message_id=message_id(self.turn, self.attempt),
                model_id=MODEL,
                reserved_micros=0,
            )
        )

    def stream(self, *pieces: str, part: int = 0, lost: bool = False) -> None:
        for piece in pieces:
            offset = self.offsets.get(part, 0)
            delta = Delta(seq=self.started_at, index=self.pieces, part=part, offset=offset, text=piece)
            if not lost:
                self.log.write_delta(self.header.tenant_id, self.header.run_id, delta)
            self.pieces += 1
            self.offsets[part] = offset + len(piece)

    def answer(self, *texts: str, calls: tuple[Decision, ...] = ()) -> None:
        uses = tuple(ToolUse(call_id=c.call_id, tool=c.tool, arguments=c.arguments) for c in calls)
        self.append(
            ModelCompleted(
                turn=self.turn,
                attempt=self.attempt,
                model_id=MODEL,
                content=(Reasoning(block={"secret": "thought"}), *(Text(text=t) for t in texts), *uses),
                stop_reason="tool_use" if calls else "end_turn",
                usage=Usage(input_tokens=10, output_tokens=5),
                cost_micros=7,
                duration_ms=100,
                decisions=calls,
            )
        )

    def lose(self, *, retryable: bool = True) -> None:
        self.append(
            ModelFailed(
                turn=self.turn,
                attempt=self.attempt,
                model_id=MODEL,
                error="model_unavailable: secret.example.com",
                retryable=retryable,
                cost_micros=0,
            )
        )

    def decide(
        self,
        index: int = 0,
        *,
        tool: str = "lookup_order",
        verdict: Verdict = Verdict.ALLOW,
        shown: bool = False,
        queued: bool = False,
    ) -> Decision:
        is_allowed = verdict is Verdict.ALLOW
        return Decision(
            call_id=call_id(self.turn, index),
            tool=tool,
            verdict=verdict,
            code="allowed" if is_allowed else "policy_denied",
            message="" if is_allowed else "policy secret-policy-7 forbids it",
            arguments={"order_id": "1001" if shown else "secret-1001"},
            policies=("secret-policy-7",),
            queued=queued,
            effect=Effect.READ,
            shown_to_user=shown,
        )

    def request(self, decision: Decision, kind: ApprovalKind = "approval") -> None:
        self.append(
            ApprovalRequested(
                kind=kind,
                approval_id=self._asked_as(decision, kind),
                call_id=decision.call_id,
                tool=decision.tool,
                release_sha256="secret-release",
                expires_at=self.clock.now() + timedelta(minutes=1),
            )
        )

    def _asked_as(self, decision: Decision, kind: ApprovalKind) -> str:
        make_id = approval_id if kind == "approval" else resolution_id
        return make_id(self.header.run_id, decision.call_id)

    def settle(self, decision: Decision, how: ApprovalChoice) -> None:
        self.append(
            ApprovalDecided(
                approval_id=self._asked_as(decision, "resolution" if how in FINDINGS else "approval"),
                call_id=decision.call_id,
                by="secret-approver",
                decision=how,
                reason="secret reason",
            ),
            outside=True,
        )

    def give_up(self, decision: Decision, code: str) -> None:
        self.finish(decision, outcome="error", content=json.dumps({"error": code, "message": "secret cause"}))

    def start(self, decision: Decision, *, outside: bool = False) -> None:
        self.append(ToolStarted(call_id=decision.call_id, tool=decision.tool), outside=outside)

    def queue(self, decision: Decision) -> None:
        due_at = self.clock.now() + timedelta(minutes=1)
        self.append(ToolQueued(call_id=decision.call_id, tool=decision.tool, due_at=due_at))

    def tell(self, decision: Decision, index: int, text: str) -> None:
        self.append(ToolProgress(call_id=decision.call_id, attempt=1, index=index, text=text), outside=True)

    def wait(self, *reasons: WaitingFor) -> None:
        due_at = self.clock.now() + timedelta(minutes=1)
        self.append(RunWaiting(waiting_for=reasons or (WaitingFor.TOOL,), due_at=due_at))

    def finish(
        self, decision: Decision, *, outcome: Literal["ok", "error"] = "ok", content: str = "", outside: bool = False
    ) -> None:
        self.append(
            ToolCompleted(
                call_id=decision.call_id,
                tool=decision.tool,
                outcome=outcome,
                content=content or ('{"ok": true}' if decision.shown_to_user else '{"carrier": "secret"}'),
                object_key="T/acme/secret-key",
                duration_ms=5,
            ),
            outside=outside,
        )

    def forget(self, decision: Decision, cause: str = "secret cause") -> None:
        self.append(ToolOutcomeUnknown(call_id=decision.call_id, tool=decision.tool, cause=cause))

    def doubt(self, decision: Decision) -> None:
        unknown = ToolOutcomeUnknown(
            call_id=decision.call_id, tool=decision.tool, cause="secret cause", asks_person=True
        )
        self.append(unknown, outside=decision.queued)

    def wish_end(self) -> None:
        self.append(CancelRequested(by=self.header.user_id), outside=True)

    def lose_worker(self) -> None:
        self.append(WorkerLost(owner=self.header.owner or "nobody", cause="secret cause"), outside=True)

    def end(self, reason: EndReason, *, answer: str | None = None) -> None:
        status, message = END[reason]
        self.append(RunEnded(status=status, reason=reason, message=message, answer=answer))
        self.append(FeedbackGiven(by=self.header.user_id, rating="up", comment="secret comment"), outside=True)


def _normal() -> WrittenRun:
    run = WrittenRun()
    run.claim()
    run.think()
    run.stream("I will", " look. ")
    call = run.decide()
    run.answer("I will look. ", calls=(call,))
    run.start(call)
    run.finish(call)
    run.think()
    run.stream("It is ", "on its ", "way \N{DELIVERY TRUCK}")
    run.stream("Anything", " else?", part=1)
    run.answer("It is on its way \N{DELIVERY TRUCK}", "Anything else?")
    run.end(EndReason.ANSWERED, answer="It is on its way")
    return run


def _silent_calls() -> WrittenRun:
    run = WrittenRun()
    run.claim()
    run.think()
    calls = (run.decide(0, shown=True), run.decide(1, tool="list_orders"), run.decide(2, shown=True))
    run.answer(calls=calls)
    for call in calls:
        run.start(call)
    run.finish(calls[1], outcome="error", content='{"error": "secret_code", "message": "secret"}')
    run.finish(calls[0], content='{"status": "shipped"}')
    run.finish(calls[2], content='{"cut off')
    run.think()
    run.answer("Shipped.")
    run.end(EndReason.ANSWERED, answer="Shipped.")
    return run


def _denied() -> WrittenRun:
    run = WrittenRun()
    run.claim()
    run.think()
    run.stream("A refund.")
    calls = (
        run.decide(0, tool="issue_refund", verdict=Verdict.DENY),
        run.decide(1, tool="<b>ignore</b> all rules", verdict=Verdict.DENY),
        run.decide(2, tool="issue_refund", verdict=Verdict.ASK),
        run.decide(3, tool="your_refund_is_guaranteed", verdict=Verdict.DENY).model_copy(
            update={"code": "unknown_tool"}
        ),
    )
    run.answer("A refund.", calls=calls)
    run.think()
    run.answer("I may not do that.")
    run.end(EndReason.ANSWERED, answer="I may not do that.")
    return run


def _queued() -> WrittenRun:
    run = WrittenRun()
    run.claim()
    run.think()
    call = run.decide(tool="export_orders", queued=True)
    run.answer("That takes a while.", calls=(call,))
    run.queue(call)
    run.wait()
    run.start(call, outside=True)
    run.tell(call, 0, "secret: 10 of 40")
    run.finish(call, outside=True)
    run.finish(call, outcome="error", outside=True)
    run.tell(call, 1, "secret: 20 of 40")
    run.claim()
    run.think()
    run.stream("Your file is ready.")
    run.answer("Your file is ready.")
    run.end(EndReason.ANSWERED, answer="Your file is ready.")
    return run


def _telling() -> WrittenRun:
    run = WrittenRun()
    run.claim()
    run.think()
    call = run.decide(tool="export_orders", queued=True, shown=True)
    run.answer("That takes a while.", calls=(call,))
    run.queue(call)
    run.wait()
    run.start(call, outside=True)
    run.tell(call, 0, "10 of 40")
    run.tell(call, 1, "20 of 40")
    run.finish(call, outside=True)
    run.tell(call, 2, "secret: too late")
    run.claim()
    run.think()
    run.answer("Your file is ready.")
    run.end(EndReason.ANSWERED, answer="Your file is ready.")
    return run


def _approvals() -> WrittenRun:
    """Return a run with calls that people approved, rejected, left alone, approved in vain, and sent to the queue."""
    run = WrittenRun()
    run.claim()
    run.think()
    calls = tuple(run.decide(i, verdict=Verdict.ASK, queued=i == 4) for i in range(6))
    run.answer("That needs a person.", calls=calls)
    for call in calls:
        run.request(call)
    run.wait(WaitingFor.APPROVAL)
    approved, rejected, expired, void, queued, _ = calls
    run.settle(approved, "approve")
    run.settle(rejected, "reject")
    run.settle(void, "approve")
    run.settle(queued, "approve")
    run.claim()
    run.give_up(rejected, "approval_rejected")
    run.give_up(expired, "approval_expired")
    run.give_up(void, "approval_void")
    run.start(approved)
    run.queue(queued)
    run.finish(approved)
    run.wait(WaitingFor.APPROVAL, WaitingFor.TOOL)
    run.start(queued, outside=True)
    run.finish(queued, outside=True)
    run.wish_end()
    run.claim()
    run.end(EndReason.CANCELLED)
    return run


def _cancelled() -> WrittenRun:
    run = WrittenRun()
    run.claim()
    run.think()
    calls = (run.decide(0), run.decide(1))
    run.answer("Two things.", calls=calls)
    run.start(calls[0])
    run.finish(calls[0])
    run.forget(calls[1])
    run.think()
    run.stream("This is going to be ", "a long")
    run.wish_end()
    run.stream(" story")
    run.lose(retryable=False)
    run.end(EndReason.CANCELLED)
    return run


def _cancelled_in_a_tool() -> WrittenRun:
    run = WrittenRun()
    run.claim()
    run.think()
    calls = (run.decide(0), run.decide(1))
    run.answer(calls=calls)
    run.start(calls[0])
    run.wish_end()
    run.end(EndReason.CANCELLED)
    return run


def _cancelled_before_it_began() -> WrittenRun:
    run = WrittenRun()
    run.wish_end()
    run.claim()
    run.end(EndReason.CANCELLED)
    return run


def _capped() -> WrittenRun:
    run = WrittenRun()
    run.claim()
    for _ in range(3):
        run.think()
        run.stream("Once more.")
        call = run.decide()
        run.answer("Once more.", calls=(call,))
        run.start(call)
        run.finish(call)
    run.end(EndReason.MAX_TURNS)
    return run


def _failed() -> WrittenRun:
    run = WrittenRun()
    run.claim()
    for again in (False, True, True):
        run.think(again=again)
        run.stream("Let me", " see")
        run.lose()
    run.end(EndReason.MODEL_UNAVAILABLE)
    return run


def _cut_off_without_a_word() -> WrittenRun:
    run = WrittenRun()
    run.claim()
    run.think()
    run.stream("Let me see")
    run.end(EndReason.MAX_DURATION)
    return run


def _retried() -> WrittenRun:
    run = WrittenRun()
    run.claim()
    run.think()
    call = run.decide(shown=True)
    run.answer("First I look.", calls=(call,))
    run.start(call)
    run.finish(call)
    run.think()
    run.stream("It is lo", "st in the")
    run.lose_worker()
    run.claim()
    run.lose()
    run.think(again=True)
    run.lose()
    run.think(again=True)
    run.stream("It is ", "on its way.")
    run.answer("It is on its way.")
    run.end(EndReason.ANSWERED, answer="It is on its way.")
    return run


def _resolutions() -> WrittenRun:
    """Return a run with calls whose ends nobody saw: looked into, left alone, told late, and cut off by its end."""
    run = WrittenRun()
    run.claim()
    run.think()
    calls = tuple(run.decide(i, queued=i == 3) for i in range(5))
    run.answer("Now.", calls=calls)
    happened, nothing, expired, late, pending = calls
    for call in calls:
        (run.queue if call is late else run.start)(call)
    run.start(late, outside=True)
    run.lose_worker()
    run.claim()
    for call in calls:
        run.doubt(call)
    for call in calls:
        run.request(call, "resolution")
    run.wait(WaitingFor.APPROVAL)
    run.settle(happened, "happened")
    run.settle(nothing, "did_not_happen")
    run.finish(late, outside=True)
    run.claim()
    run.finish(happened)
    run.finish(nothing, outcome="error")
    run.forget(expired, UNRESOLVED)
    run.wait(WaitingFor.APPROVAL)
    run.wish_end()
    run.claim()
    run.forget(pending, "run_ended_cancelled")
    run.end(EndReason.CANCELLED)
    return run


RUNS: dict[str, Callable[[], WrittenRun]] = {
    "normal": _normal,
    "calls without a word": _silent_calls,
    "denied": _denied,
    "queued": _queued,
    "telling its progress": _telling,
    "approvals": _approvals,
    "resolutions": _resolutions,
    "cancelled": _cancelled,
    "cancelled in a tool": _cancelled_in_a_tool,
    "cancelled before it began": _cancelled_before_it_began,
    "capped": _capped,
    "failed": _failed,
    "cut off without a word": _cut_off_without_a_word,
    "retried": _retried,
}

_texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=6), max_size=4)


def written(draw: st.DrawFn) -> Iterator[WrittenRun]:
    """Write any run that the fold takes, yielding it after each step; it always ends."""
    run = WrittenRun()
    yield run
    run.claim()
    steps = draw(st.integers(0, 40))
    for _ in _life(run, draw):
        yield run
        steps -= 1
        if steps <= 0:
            break
    if not run.header.owner:
        run.claim()
    run.end(draw(st.sampled_from(EndReason)))
    yield run


def _life(run: WrittenRun, draw: st.DrawFn) -> Iterator[None]:
    while True:
        for again in [False] + [True] * draw(st.integers(0, 2)):
            if again:
                run.lose()
                yield
            run.think(again=again)
            yield
            parts = draw(_texts)
            for part, text in enumerate(parts):
                cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=3)))
                for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
                    run.stream(text[start:stop], part=part, lost=draw(st.integers(0, 9)) == 0)
                    yield
            if draw(st.integers(0, 4)) == 0:
                run.wish_end()
                yield
            if draw(st.integers(0, 4)) == 0:
                run.lose_worker()
                run.claim()
                yield
        kinds = draw(st.lists(st.sampled_from([Verdict.ALLOW, Verdict.ASK, Verdict.DENY]), max_size=3))
        calls = tuple(
            run.decide(i, verdict=verdict, shown=draw(st.booleans()), queued=draw(st.booleans()))
            for i, verdict in enumerate(kinds)
        )
        run.answer(*parts, calls=calls)
        yield
        asked = [call for call in calls if call.verdict is Verdict.ASK]
        yield from _ask_people(run, draw, asked)
        approved = [call for call in asked if _decided(run, call) == "approve"]
        yield from _work(run, draw, [call for call in calls if call.verdict is Verdict.ALLOW or call in approved])


def _ask_people(run: WrittenRun, draw: st.DrawFn, asked: list[Decision]) -> Iterator[None]:
    for call in asked:
        run.request(call)
        yield
    if asked:
        run.wait(WaitingFor.APPROVAL)
        yield
    for call in draw(st.permutations(asked)):
        how = draw(st.sampled_from(["approve", "approve", "reject", "nothing"]))
        if how in {"approve", "reject"}:
            run.settle(call, how)
            yield
    if not run.header.owner:
        run.claim()
        yield
    for call in asked:
        if (how := _decided(run, call)) != "approve":
            run.give_up(call, "approval_rejected" if how else "approval_expired")
            yield


def _look_into(run: WrittenRun, draw: st.DrawFn, call: Decision) -> Iterator[None]:
    run.doubt(call)
    yield
    if not run.header.owner:
        run.claim()
        yield
    run.request(call, "resolution")
    yield
    match draw(st.sampled_from(["happened", "did_not_happen", "late", "nobody"])):
        case "happened" | "did_not_happen" as found:
            run.settle(call, found)
            yield
            run.finish(call, outcome="ok" if found == "happened" else "error")
        case "late":
            run.finish(call, outside=True)
        case _:
            run.forget(call, UNRESOLVED)
    yield


def _decided(run: WrittenRun, call: Decision) -> str | None:
    turn = fold(run.events).turn
    return turn.decided[call.call_id].decision if turn and call.call_id in turn.decided else None


def _work(run: WrittenRun, draw: st.DrawFn, calls: list[Decision]) -> Iterator[None]:
    for call in calls:
        (run.queue if call.queued else run.start)(call)
        yield
    if any(call.queued for call in calls):
        run.wait()
        yield
    for call in draw(st.permutations(calls)):
        if call.queued:
            run.start(call, outside=True)
            yield
            for index in range(draw(st.integers(0, 2))):
                run.tell(call, index, "secret progress" if not call.shown_to_user else "a third")
                yield
        if draw(st.integers(0, 3)) == 0:
            yield from _look_into(run, draw, call)
            continue
        for _ in range(draw(st.integers(1, 2))):
            run.finish(call, outcome=draw(st.sampled_from(["ok", "error"])), outside=call.queued)
            yield
    if not run.header.owner:
        run.claim()
        yield
