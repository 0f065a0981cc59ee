"""A call's one result, as the log takes it: whoever runs the call, the loop or the queue's worker."""

import json
from typing import Literal

from agent.answer import mended
from agent.contracts import Contract, Effect, canonical_json
from agent.controls import Controls
from agent.events import Decision, ToolCompleted, ToolOutcomeUnknown, Verdict
from agent.ports.tool_room import ToolReply

MAX_TOOL_ATTEMPTS = 3
"""How often an idempotent call is started before its outcome counts as unknown."""

MAX_RESULT_BYTES = 300_000
MAX_TURN_RESULT_BYTES = 3_000_000
"""As stored: an item of the log takes 400 KB, a transaction 4 MB."""


def completed(decision: Decision, contract: Contract, reply: ToolReply, *, calls: int) -> ToolCompleted:
    """Return the result of a call that came to its end, in a turn of so many calls. One too large is an error.

    A tool's error is never trusted: a contract promises the shape of its results, and nothing about its sentences.
    """
    room = min(MAX_RESULT_BYTES, MAX_TURN_RESULT_BYTES // calls)
    content = mended(reply.content)
    stored = len(json.dumps(content, ensure_ascii=False).encode())
    if len(content.encode()) > contract.max_result_bytes or stored > room:
        return failed(decision, "result_too_large", "The result was too large. Ask for less.")
    return ToolCompleted(
        call_id=decision.call_id,
        tool=decision.tool,
        outcome=reply.outcome,
        content=content,
        trusted=contract.trusted and reply.outcome == "ok",
        object_key=reply.object_key,
        duration_ms=reply.duration_ms,
    )


def refused(decision: Decision) -> ToolCompleted:
    """Return the result of a call that room 3 would not run."""
    return not_run(decision, "call_refused", "The call was refused and did not run.")


SWITCHED_OFF = "This tool is switched off by its operators and did not run. Go on without it; tell the user."


def switched_off(decision: Decision, *, has_started: bool) -> ToolCompleted | ToolOutcomeUnknown:
    """Return the result of a call whose tool operators have switched off; what has begun may have acted."""
    if has_started:
        return unknown(decision, "switched_off")
    return not_run(decision, "tool_switched_off", SWITCHED_OFF)


REVIEW = "It did not run: since it was allowed, operators want a person to see it first. Call it again to have it seen."


def kept_back(
    controls: Controls, decision: Decision, *, has_started: bool
) -> ToolCompleted | ToolOutcomeUnknown | None:
    """Return the result of a call that was decided before operators kept such calls from beginning; else None."""
    has_effect, is_reviewed = decision.effect is not Effect.READ, decision.verdict is Verdict.ASK
    why = controls.keeps_back(decision.tool, has_effect=has_effect, is_reviewed=is_reviewed)
    if why is None:
        return None
    if why == "review" and not has_started:
        return not_run(decision, "review_needed", REVIEW)
    return switched_off(decision, has_started=has_started)


def breaker(tool: str) -> str:
    """Return the name of a tool's breaker."""
    return f"tool#{tool}"


def unavailable(decision: Decision, *, attempt: int) -> ToolCompleted | ToolOutcomeUnknown:
    """Return the result of a call whose start number `attempt` did not come about; an earlier one may have acted."""
    if attempt > 1:
        return unknown(decision, "lost")
    return not_run(decision, "tool_unavailable", "The tool is not available at the moment and did not run.")


def tool_failed(decision: Decision) -> ToolCompleted:
    """Return the result of a call that never began, however often it was tried."""
    return not_run(decision, "tool_failed", "The tool could not be run.")


def contract_changed(decision: Decision) -> ToolCompleted:
    """Return the result of a call whose tool was deployed anew between decision and start."""
    return not_run(decision, "contract_changed", "The tool has changed since the call was decided.")


def failed(decision: Decision, code: str, message: str) -> ToolCompleted:
    """Return a result that tells the model why there is none, in the platform's words. The tool may have acted."""
    return told(decision, "error", {"error": code, "message": message})


def told(decision: Decision, outcome: Literal["ok", "error"], what: dict[str, str]) -> ToolCompleted:
    """Return a result in the platform's words instead of the tool's."""
    content = canonical_json(what)
    return ToolCompleted(
        call_id=decision.call_id, tool=decision.tool, outcome=outcome, content=content, trusted=True, duration_ms=0
    )


def not_run(decision: Decision, code: str, message: str) -> ToolCompleted:
    """Return the result of a call that surely did nothing when it got this result."""
    return failed(decision, code, message).model_copy(update={"did_not_run": True})


def unknown(decision: Decision, cause: str) -> ToolOutcomeUnknown:
    """Return that a call began and nobody saw its end: its result, or by its contract a question to a person."""
    asks = decision.if_unknown == "ask_person"
    return ToolOutcomeUnknown(call_id=decision.call_id, tool=decision.tool, cause=cause, asks_person=asks)
