"""What operators are told of a run's events: who did what, and no word that people or a model wrote."""

import pytest

from agent.contracts import Effect
from agent.endings import EndReason
from agent.events import (
    ApprovalDecided,
    CancelRequested,
    Decision,
    FeedbackGiven,
    ModelCompleted,
    Payload,
    RunEnded,
    Status,
    ToolCompleted,
    ToolStarted,
    Verdict,
)
from ops.run_story import in_brief

SECRET = "what somebody wrote"


def completed(decision: Decision) -> ModelCompleted:
    return ModelCompleted(
        turn=1,
        attempt=1,
        model_id="m",
        content=(),
        stop_reason="tool_use",
        usage=None,
        cost_micros=0,
        assumed=True,
        duration_ms=1,
        decisions=(decision,),
    )


ASK = Decision(call_id="call_1_0", tool="pay", verdict=Verdict.ASK, code="approval_needed", effect=Effect.DESTRUCTIVE)
UNKNOWN = Decision(call_id="call_1_0", tool=SECRET, verdict=Verdict.DENY, code="unknown_tool", message=SECRET)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (
            ApprovalDecided(
                approval_id="apr_01JABCDEFGHJKMNPQRSTVWXYZ0_1_0",
                call_id="call_1_0",
                by="olga",
                decision="reject",
                reason=SECRET,
            ),
            "call_1_0: reject by olga",
        ),
        (CancelRequested(by="ann"), "by ann"),
        (FeedbackGiven(by="ann", rating="down", comment=SECRET), "by ann"),
        (completed(ASK), "call_1_0 pay: ask (approval_needed)"),
        (completed(UNKNOWN), "call_1_0 no tool: deny (unknown_tool)"),
        (ToolStarted(call_id="call_1_0", tool="pay", attempt=1), "call_1_0 pay"),
        (
            ToolCompleted(call_id="call_1_0", tool="pay", outcome="ok", content=SECRET, trusted=True, duration_ms=1),
            "call_1_0: ok",
        ),
        (
            RunEnded(status=Status.COMPLETED, reason=EndReason.ANSWERED, message=SECRET, answer=SECRET),
            "completed: answered",
        ),
    ],
)
def test_an_event_is_told_in_brief(data: Payload, told: str) -> None:
    assert in_brief(data) == told
