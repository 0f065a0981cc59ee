"""A run's log as AG-UI events: what its user may see of it, and where in it a reader stands.

An allow-list: the user's own input, the answer's text, tool names and statuses; arguments and results only where the
decision says `shown_to_user`; of a denied call that it was denied, never why. Sequence rules are those that AG-UI's
client enforces: nothing after the end, nothing left open.

A reader's position is a `Cursor`. Text has the same offsets whether it comes from the short-lived deltas or, once they
are gone or were lost, from `model.completed`; so position and log alone say what a reader has not had, whichever pieces
it came in. Nothing else is ever said while an answer is open.

The surprise: an answer that was cut off and repeated is another message. Whoever saw a piece of the lost one gets it
closed and the messages without it; whoever did not, never hears of it.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from ag_ui.core import (
    AssistantMessage,
    BaseEvent,
    CustomEvent,
    FunctionCall,
    Message,
    MessagesSnapshotEvent,
    RunAgentInput,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedSuccessOutcome,
    RunStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCall,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
    UserMessage,
)

from agent.cursor import BEGINNING, Cursor
from agent.endings import Status
from agent.events import (
    FINDINGS,
    UNRESOLVED,
    ApprovalChoice,
    ApprovalDecided,
    ApprovalRequested,
    Decision,
    Delta,
    Event,
    ModelCompleted,
    ModelFailed,
    ModelStarted,
    RunClaimed,
    RunCreated,
    RunEnded,
    RunWaiting,
    ToolCompleted,
    ToolOutcomeUnknown,
    ToolProgress,
    ToolQueued,
    ToolStarted,
    Verdict,
)
from agent.streamed_answer import StreamedAnswer, joined

PROTOCOL_VERSION = "1.0"
STATUS = "keepgate.status"
"""Name of the custom event that says where the run stands: `{status, waiting_for}`."""
APPROVAL = "keepgate.approval"
"""Name of the custom event of a call that needs a person: `{tool_call_id, approval_id, kind, tool, status}`.

The status is `pending` (with `expires_at`), then `approved` or `rejected`; `expired` or `void` where it will not run
after all. A `resolution` becomes `happened` or `did_not_happen`, `expired` where nobody looked into it, or `void` where
nobody needs to any more. Who decided, and why, is not said: the agent tells what the user should know.
"""
_DECIDED: dict[ApprovalChoice, str] = {
    "approve": "approved",
    "reject": "rejected",
    "happened": "happened",
    "did_not_happen": "did_not_happen",
}
_GIVEN_UP = {"approval_expired": "expired", "approval_void": "void"}
"""Results by which the platform ends a call that was never started."""
TOOL_STATUS = "keepgate.tool_status"
"""Name of the custom event of a call that goes through the queue: `{tool_call_id, tool, status}`."""
TOOL_PROGRESS = "keepgate.tool_progress"
"""Name of the custom event of a call that tells how far it has come: `{tool_call_id, tool, text}`."""

_TEXT = 3
"""The index of an answer's text among the events of its `model.started`: after what closes a lost answer."""
_A_CALL = 4
"""How many indexes a call takes in `model.completed`: start, arguments, end, and the result of a denied one."""
_NO_TOOL = {"unknown_tool"}
"""Codes of calls whose tool's name the model has made up."""
_TOOL_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True)
class Positioned:
    """An AG-UI event, and where a reader stands who has had it."""

    cursor: Cursor
    event: BaseEvent

    @cached_property
    def json(self) -> str:
        """The event as it goes over the wire: in ASCII, because many readers split lines at U+2028, too."""
        return self.event.model_dump_json(by_alias=True, ensure_ascii=True)


class Projection:
    """One reader's view of one run. Feed it the log's events in order, from event 1."""

    def __init__(self, deltas: Callable[[int, int], list[Delta]], *, after: Cursor = BEGINNING) -> None:
        """Begin a view.

        Args:
            deltas: returns the pieces streamed after the `model.started` at a sequence number, from an index on.
            after: what the reader has had; nothing up to there is said again.
        """
        self.seq = 0
        """The newest log entry seen."""
        self.is_over = False
        self._deltas = deltas
        self._after = after
        self._run_id = ""
        self._status = Status.QUEUED
        self._messages: list[Message] = []
        self._answer: StreamedAnswer | None = None
        self._calls: dict[str, Decision] = {}
        self._asked: dict[str, ApprovalRequested] = {}
        """Calls that need a person: to be started, or to know what became of them."""

    def feed(self, event: Event) -> list[Positioned]:
        """Return what the reader has not had of one more log entry. After the end that is nothing."""
        if self.is_over:
            return []
        self.seq = event.seq
        return [said for said in self._say(event) if said.cursor > self._after]

    def listen(self) -> list[Positioned]:
        """Return what has been streamed of an answer that is still open."""
        if self._answer is None or not self._answer.is_streaming:
            return []
        return list(self._streamed(self._answer))

    def _say(self, event: Event) -> Iterator[Positioned]:
        def at(index: int, said: BaseEvent) -> Positioned:
            said.timestamp = int(event.at.timestamp() * 1000)
            return Positioned(Cursor(event.seq, index), said)

        match event.data:
            case RunCreated() as created:
                yield from (at(i, said) for i, said in enumerate(self._begin(event.run_id, created), 1))
            case RunClaimed() if self._status is not Status.RUNNING:
                yield at(1, self._now(Status.RUNNING))
            case RunWaiting(waiting_for=waiting_for):
                yield at(1, self._now(Status.WAITING, *waiting_for))
            case ModelStarted() as started:
                yield from (at(i, said) for i, said in self._drop_lost_answer(event.seq))
                is_here = self._after_is(event.seq, _TEXT)
                self._answer = StreamedAnswer(event.seq, started.message_id, self._after.offset if is_here else None)
            case ModelFailed():
                yield from self._last_of_lost_answer(event.seq)
            case ModelCompleted() as completed:
                yield from self._complete(completed, at)
            case ApprovalRequested() | ApprovalDecided() as change:
                yield from (at(i, said) for i, said in enumerate(self._on_approval(change), 1))
            case ToolQueued() | ToolStarted() | ToolProgress() | ToolCompleted() | ToolOutcomeUnknown() as change:
                yield from (at(i, said) for i, said in enumerate(self._on_call(change), 1))
            case RunEnded() as ended:
                yield from self._last_of_lost_answer(event.seq)
                yield from (at(i, said) for i, said in self._end(ended))

    def _after_is(self, seq: int, index: int) -> bool:
        return (self._after.seq, self._after.index) == (seq, index)

    def _begin(self, run_id: str, created: RunCreated) -> Iterator[BaseEvent]:
        # One run is one thread: a snapshot must hold the whole thread, and ids are unique within one.
        self._run_id = run_id
        self._messages.append(UserMessage(id="msg_input", content=created.input))
        asked = RunAgentInput(thread_id=run_id, run_id=run_id, messages=list(self._messages))
        yield RunStartedEvent(thread_id=run_id, run_id=run_id, protocol_version=PROTOCOL_VERSION, input=asked)
        yield self._now(Status.QUEUED)

    def _now(self, status: Status, *waiting_for: str) -> CustomEvent:
        self._status = status
        return CustomEvent(name=STATUS, value={"status": status.value, "waiting_for": [str(w) for w in waiting_for]})

    def _text_upto(self, answer: StreamedAnswer, text: str) -> Iterator[Positioned]:
        if answer.sent is None and text:
            answer.sent = 0
            opened = TextMessageStartEvent(message_id=answer.message_id, role="assistant")
            yield Positioned(Cursor(answer.seq, _TEXT, 0), opened)
        if answer.sent is not None and len(text) > answer.sent:
            more = TextMessageContentEvent(message_id=answer.message_id, delta=text[answer.sent :])
            answer.sent = len(text)
            yield Positioned(Cursor(answer.seq, _TEXT, len(text)), more)

    def _streamed(self, answer: StreamedAnswer) -> Iterator[Positioned]:
        answer.extend(self._deltas(answer.seq, answer.pieces))
        yield from self._text_upto(answer, answer.text())

    def _last_of_lost_answer(self, closed_at: int) -> Iterator[Positioned]:
        answer = self._answer
        if answer is not None and answer.is_streaming:
            answer.is_streaming = False
            if self._after.seq < closed_at:
                yield from self._streamed(answer)

    def _drop_lost_answer(self, seq: int) -> Iterator[tuple[int, BaseEvent]]:
        answer, self._answer = self._answer, None
        if answer is not None and (answer.sent is not None or self._after_is(seq, 1)):
            yield 1, TextMessageEndEvent(message_id=answer.message_id)
            yield 2, MessagesSnapshotEvent(messages=list(self._messages))

    def _complete(self, completed: ModelCompleted, at: Callable[[int, BaseEvent], Positioned]) -> Iterator[Positioned]:
        answer, self._answer = self._answer, None
        if answer is None:
            raise ValueError("a model.completed without its model.started")
        if completed.replacement is not None:
            yield from self._replace(answer, completed.replacement, at)
            return
        text = joined(completed.shown_texts())
        yield from self._text_upto(answer, text)
        if answer.sent is not None:
            yield at(1, TextMessageEndEvent(message_id=answer.message_id))
        calls = [
            ToolCall(id=d.call_id, function=FunctionCall(name=_shown_name(d), arguments=_shown_arguments(d)))
            for d in completed.decisions
        ]
        if text or calls:
            self._messages.append(
                AssistantMessage(id=answer.message_id, content=text or None, tool_calls=calls or None)
            )
        for number, (decision, call) in enumerate(zip(completed.decisions, calls, strict=True)):
            first = 2 + number * _A_CALL
            self._calls[call.id] = decision
            name = call.function.name
            yield at(
                first,
                ToolCallStartEvent(tool_call_id=call.id, tool_call_name=name, parent_message_id=answer.message_id),
            )
            if call.function.arguments:
                yield at(first + 1, ToolCallArgsEvent(tool_call_id=call.id, delta=call.function.arguments))
            yield at(first + 2, ToolCallEndEvent(tool_call_id=call.id))
            if decision.verdict is Verdict.DENY:
                yield at(first + 3, self._result(call.id, "denied"))

    def _replace(
        self, answer: StreamedAnswer, text: str, at: Callable[[int, BaseEvent], Positioned]
    ) -> Iterator[Positioned]:
        """Take back what was shown of an answer before a guard held it back, and show what stands in its place."""
        if answer.sent is not None or self._after.seq == self.seq:
            yield at(1, TextMessageEndEvent(message_id=answer.message_id))
            yield at(2, MessagesSnapshotEvent(messages=list(self._messages)))
        if text:
            message_id = f"{answer.message_id}_instead"
            yield at(3, TextMessageStartEvent(message_id=message_id, role="assistant"))
            yield at(4, TextMessageContentEvent(message_id=message_id, delta=text))
            yield at(5, TextMessageEndEvent(message_id=message_id))
            self._messages.append(AssistantMessage(id=message_id, content=text))

    def _on_approval(self, change: ApprovalRequested | ApprovalDecided) -> Iterator[BaseEvent]:
        if isinstance(change, ApprovalRequested):
            self._asked[change.call_id] = change
            yield self._approval(change, "pending", expires_at=change.expires_at.isoformat())
        elif change.call_id in self._asked:
            yield self._approval(self._asked[change.call_id], _DECIDED[change.decision])
            if change.decision in FINDINGS:
                del self._asked[change.call_id]

    def _approval(self, asked: ApprovalRequested, status: str, **more: str) -> CustomEvent:
        tool = _shown_name(self._calls[asked.call_id])
        about = {"tool_call_id": asked.call_id, "approval_id": asked.approval_id, "kind": asked.kind}
        return CustomEvent(name=APPROVAL, value={**about, "tool": tool, "status": status, **more})

    def _on_call(
        self, change: ToolQueued | ToolStarted | ToolProgress | ToolCompleted | ToolOutcomeUnknown
    ) -> Iterator[BaseEvent]:
        decision = self._calls.get(change.call_id)
        if decision is None:  # it has its one result already
            return
        if isinstance(change, ToolOutcomeUnknown) and change.asks_person:
            return  # the result comes when a person has been asked, and that they are asked comes next
        asked = self._asked.pop(change.call_id, None)
        if asked and asked.kind == "resolution" and isinstance(change, ToolCompleted | ToolOutcomeUnknown):
            is_expired = isinstance(change, ToolOutcomeUnknown) and change.cause == UNRESOLVED
            yield self._approval(asked, "expired" if is_expired else "void")
        match change:
            case ToolCompleted(content=content) if asked and (given_up := _GIVEN_UP.get(_error_code(content))):
                yield self._approval(asked, given_up)
                yield self._result(change.call_id, change.outcome, change)
            case ToolQueued():
                yield self._tool_status(change.call_id, "queued")
            case ToolStarted() if decision.queued:
                yield self._tool_status(change.call_id, "started")
            case ToolProgress(text=text) if decision.shown_to_user:
                value = {"tool_call_id": change.call_id, "tool": _shown_name(decision), "text": text}
                yield CustomEvent(name=TOOL_PROGRESS, value=value)
            case ToolCompleted():
                yield self._result(change.call_id, change.outcome, change)
            case ToolOutcomeUnknown():
                yield self._result(change.call_id, "unknown")

    def _tool_status(self, call_id: str, status: str) -> CustomEvent:
        tool = _shown_name(self._calls[call_id])
        return CustomEvent(name=TOOL_STATUS, value={"tool_call_id": call_id, "tool": tool, "status": status})

    def _result(self, call_id: str, status: str, done: ToolCompleted | None = None) -> ToolCallResultEvent:
        """Give a call its one result; a late second one finds no open call."""
        decision = self._calls.pop(call_id)
        content: dict[str, object] = {"status": status}
        if done is not None and decision.shown_to_user:
            content["result"] = _json_or_text(done.content)
        message = ToolMessage(id=f"result_{call_id}", tool_call_id=call_id, content=json.dumps(content))
        self._messages.append(message)
        return ToolCallResultEvent(message_id=message.id, tool_call_id=call_id, content=message.content)

    def _end(self, ended: RunEnded) -> Iterator[tuple[int, BaseEvent]]:
        self.is_over = True
        if self._answer is not None and self._answer.sent is not None:
            yield 1, TextMessageEndEvent(message_id=self._answer.message_id)
        unfinished = list(self._calls)
        for index, call_id in enumerate(unfinished, 2):
            yield index, self._result(call_id, "unfinished")
        yield 2 + len(unfinished), self._last(ended)

    def _last(self, ended: RunEnded) -> BaseEvent:
        result = {"status": ended.status.value, "reason": ended.reason.value, "message": ended.message}
        outcome: RunFinishedSuccessOutcome | RunFinishedCancelledOutcome
        match ended.status:
            case Status.COMPLETED:
                outcome = RunFinishedSuccessOutcome()
            case Status.CANCELLED:
                outcome = RunFinishedCancelledOutcome()
            case _:
                return RunErrorEvent(message=ended.message, code=ended.reason.value)
        return RunFinishedEvent(thread_id=self._run_id, run_id=self._run_id, result=result, outcome=outcome)


def _shown_name(decision: Decision) -> str:
    # The model may ask for a tool by any text at all, and no guard has judged it: what is shown is a tool's name.
    is_one = decision.code not in _NO_TOOL and _TOOL_NAME.fullmatch(decision.tool)
    return decision.tool if is_one else "unknown"


def _shown_arguments(decision: Decision) -> str:
    return json.dumps(decision.arguments, ensure_ascii=False) if decision.shown_to_user else ""


def _error_code(content: str) -> str:
    value = _json_or_text(content)
    return str(value.get("error", "")) if isinstance(value, dict) else ""


def _json_or_text(content: str) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return content
