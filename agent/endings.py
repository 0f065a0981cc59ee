"""Where a run may stand, and how it ends: each reason with its status and its sentence for the user."""

from enum import StrEnum


class Status(StrEnum):
    """Where a run stands. The last four are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED})


class EndReason(StrEnum):
    """Why a run ended: the closed list. `END` gives each its status and its sentence for the user."""

    ANSWERED = "answered"
    MAX_TURNS = "max_turns"
    MAX_TOOL_CALLS = "max_tool_calls"
    MAX_DURATION = "max_duration"
    BUDGET_RUN = "budget_run"
    BUDGET_USER = "budget_user"
    BUDGET_TENANT = "budget_tenant"
    BUDGET_PLATFORM = "budget_platform"
    CANCELLED = "cancelled"
    DENIED_TOO_OFTEN = "denied_too_often"
    MODEL_UNAVAILABLE = "model_unavailable"
    MODEL_REFUSED = "model_refused"
    ANSWER_TRUNCATED = "answer_truncated"
    ANSWER_EMPTY = "answer_empty"
    INPUT_BLOCKED = "input_blocked"
    ANSWER_BLOCKED = "answer_blocked"
    POLICY_UNAVAILABLE = "policy_unavailable"
    RELEASE_UNAVAILABLE = "release_unavailable"
    SWITCHED_OFF = "switched_off"
    WAIT_EXPIRED = "wait_expired"
    INTERNAL_ERROR = "internal_error"


END: dict[EndReason, tuple[Status, str]] = {
    EndReason.ANSWERED: (Status.COMPLETED, "The agent answered."),
    EndReason.MAX_TURNS: (
        Status.FAILED,
        "The agent stopped because it needed more steps than it is allowed. Try a narrower question.",
    ),
    EndReason.MAX_TOOL_CALLS: (
        Status.FAILED,
        "The agent stopped because it needed more tool calls than it is allowed. Try a narrower question.",
    ),
    EndReason.MAX_DURATION: (
        Status.FAILED,
        "The agent stopped because it ran longer than it is allowed. Try a narrower question, or ask again later.",
    ),
    EndReason.BUDGET_RUN: (
        Status.FAILED,
        "The agent stopped because this question used up the money one question may cost. Try a narrower question.",
    ),
    EndReason.BUDGET_USER: (
        Status.FAILED,
        "The agent stopped because your budget is spent. It is renewed daily; ask again tomorrow.",
    ),
    EndReason.BUDGET_TENANT: (
        Status.FAILED,
        "The agent stopped because your organisation's budget is spent. Ask your operator to raise it.",
    ),
    EndReason.BUDGET_PLATFORM: (
        Status.FAILED,
        "The agent stopped because the service's budget is spent. Ask again later.",
    ),
    EndReason.CANCELLED: (Status.CANCELLED, "The run was cancelled."),
    EndReason.DENIED_TOO_OFTEN: (
        Status.FAILED,
        "The agent stopped because it kept trying what it may not do, or could not put it right. Ask in another way.",
    ),
    EndReason.MODEL_UNAVAILABLE: (Status.FAILED, "The model is not available at the moment. Ask again in a minute."),
    EndReason.MODEL_REFUSED: (Status.FAILED, "The model declined to answer this. Try to ask in another way."),
    EndReason.ANSWER_TRUNCATED: (
        Status.FAILED,
        "The answer grew longer than it may be and was cut off. Ask for a shorter one.",
    ),
    EndReason.ANSWER_EMPTY: (Status.FAILED, "The model gave no answer. Ask again."),
    EndReason.INPUT_BLOCKED: (
        Status.FAILED,
        "This question was not passed on, by a rule of this service. Ask in another way, or ask a person.",
    ),
    EndReason.ANSWER_BLOCKED: (
        Status.FAILED,
        "The answer was held back by a rule of this service. Ask in another way, or ask a person.",
    ),
    EndReason.POLICY_UNAVAILABLE: (
        Status.FAILED,
        "The agent stopped because its rules could not be checked. Ask again later.",
    ),
    EndReason.RELEASE_UNAVAILABLE: (
        Status.FAILED,
        "The agent stopped because the version this run began with is not available any more. Ask again.",
    ),
    EndReason.SWITCHED_OFF: (
        Status.FAILED,
        "The agent was stopped by its operators. Nothing is wrong with your question; ask again later.",
    ),
    EndReason.WAIT_EXPIRED: (Status.EXPIRED, "The run waited too long for something and ended. Ask again."),
    EndReason.INTERNAL_ERROR: (
        Status.FAILED,
        "Something went wrong on our side and the run ended. Ask again; if it happens again, quote the run's id.",
    ),
}
"""Each reason's status and its sentence: what happened and what to do."""
