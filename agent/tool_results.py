"""A call's one result, as the log takes it: whoever runs the call, the loop or the queue's worker."""

import json

from agent.answer import mended
from agent.events import Decision, ToolCompleted, ToolOutcomeUnknown
from agent.ports import ToolReply
from agent.tools import Contract, canonical_json

MAX_TOOL_ATTEMPTS = 3
"""How often an idempotent call is started before its outcome counts as unknown."""

MAX_RESULT_BYTES = 300_000
MAX_TURN_RESULT_BYTES = 3_000_000
"""As stored: an item of the log takes 400 KB, a transaction 4 MB."""


def completed(decision: Decision, contract: Contract, reply: ToolReply, *, calls: int) -> ToolCompleted:
    """Return the result of a call that came to its end, in a turn of so many calls. One too large is an error."""
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
        object_key=reply.object_key,
        duration_ms=reply.duration_ms,
    )


def refused(decision: Decision) -> ToolCompleted:
    """Return the result of a call that room 3 would not run."""
    return failed(decision, "call_refused", "The call was refused and did not run.")


def breaker(tool: str) -> str:
    """Return the name of a tool's breaker."""
    return f"tool#{tool}"


def unavailable(decision: Decision, *, attempt: int) -> ToolCompleted | ToolOutcomeUnknown:
    """Return the result of a call whose start number `attempt` did not come about; an earlier one may have acted."""
    if attempt > 1:
        return unknown(decision, "lost")
    return failed(decision, "tool_unavailable", "The tool is not available at the moment and did not run.")


def tool_failed(decision: Decision) -> ToolCompleted:
    """Return the result of a call that never began, however often it was tried."""
    return failed(decision, "tool_failed", "The tool could not be run.")


def contract_changed(decision: Decision) -> ToolCompleted:
    """Return the result of a call whose tool was deployed anew between decision and start."""
    return failed(decision, "contract_changed", "The tool has changed since the call was decided.")


def failed(decision: Decision, code: str, message: str) -> ToolCompleted:
    """Return a result that tells the model why there is none."""
    content = canonical_json({"error": code, "message": message})
    return ToolCompleted(call_id=decision.call_id, tool=decision.tool, outcome="error", content=content, duration_ms=0)


def unknown(decision: Decision, cause: str) -> ToolOutcomeUnknown:
    """Return the result of a call that began, and whose end nobody saw."""
    return ToolOutcomeUnknown(call_id=decision.call_id, tool=decision.tool, cause=cause)
