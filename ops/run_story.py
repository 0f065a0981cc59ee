"""What an event of a run tells in a few words: who, which call, what came of it. Nothing that people or models wrote.

A tool is named only where there is one: what a model calls a tool that there is not is the model's text.
"""

from agent.events import (
    ApprovalDecided,
    ApprovalRequested,
    CancelRequested,
    Decision,
    FeedbackGiven,
    GuardFired,
    ModelCompleted,
    ModelFailed,
    ModelStarted,
    Payload,
    RunClaimed,
    RunCreated,
    RunEnded,
    RunReleased,
    RunWaiting,
    ToolCompleted,
    ToolOutcomeUnknown,
    ToolQueued,
    ToolStarted,
    WorkerLost,
)


def in_brief(data: Payload) -> str:
    """Return the words; none for an event whose type says it all."""
    match data:
        case RunCreated():
            return f"by {data.principal.user_id} ({', '.join(sorted(data.principal.roles))}) under {data.release}"
        case CancelRequested() | FeedbackGiven():
            return f"by {data.by}"
        case RunClaimed() | RunReleased() | WorkerLost():
            return data.owner
        case RunWaiting():
            return f"for {', '.join(data.waiting_for)}"
        case RunEnded():
            return f"{data.status.value}: {data.reason.value}"
        case ModelStarted() | ModelFailed():
            return data.model_id
        case GuardFired():
            return f"{data.guard} at {data.at}: {data.response}"
    return _of_calls(data)


def _of_calls(data: Payload) -> str:
    match data:
        case ModelCompleted():
            return "; ".join(map(_decided, data.decisions))
        case ApprovalRequested():
            return f"{data.call_id} {data.tool}: {data.kind} until {data.expires_at:%Y-%m-%dT%H:%M:%SZ}"
        case ApprovalDecided():
            return f"{data.call_id}: {data.decision} by {data.by}"
        case ToolStarted() | ToolQueued():
            return f"{data.call_id} {data.tool}"
        case ToolCompleted():
            return f"{data.call_id}: {data.outcome}"
        case ToolOutcomeUnknown():
            return data.call_id
    return ""


def _decided(decision: Decision) -> str:
    # A decision has an effect where there is a contract, so where there is such a tool.
    tool = decision.tool if decision.effect is not None else "no tool"
    return f"{decision.call_id} {tool}: {decision.verdict.value} ({decision.code})"
