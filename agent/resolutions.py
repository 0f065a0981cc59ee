"""Calls whose outcome nobody saw and whose contract asks a person: asked for, waited for, and told to the model.

A *resolution* goes the way of an approval (`agent.approving` has the person's side), yet gives no leave: nothing runs
after it. What the person found becomes the call's one result; where nobody looks in time, that is once more "unknown".
Whoever decided was an approver when they did. It is not asked again, as for an approval: a finding acts on nothing.
"""

from agent.approvals import last_moment
from agent.events import UNRESOLVED, ApprovalRequested, Decision, ToolOutcomeUnknown
from agent.held_run import HeldRun
from agent.identity import resolution_id
from agent.run_state import Result, Turn
from agent.tool_results import failed, told

HAPPENED = "The end of the call was not seen; a person has checked that it did what it was asked. Its result is lost."
DID_NOT_HAPPEN = "The end of the call was not seen; a person has checked that it did nothing. It was not run again."


def is_time_left(run: HeldRun) -> bool:
    """Whether a person who is asked now could still answer."""
    return run.runtime.clock.now() < last_moment(run)


def request(run: HeldRun, decision: Decision) -> ApprovalRequested:
    """Return the event that asks the tenant's approvers what became of a call."""
    return ApprovalRequested(
        kind="resolution",
        approval_id=resolution_id(run.header.run_id, decision.call_id),
        call_id=decision.call_id,
        tool=decision.tool,
        release_sha256=run.release.sha256,
        expires_at=last_moment(run),
    )


def judge(run: HeldRun, turn: Turn, decision: Decision) -> Result | None:
    """Return the result of a call that a person is asked about; None while it waits for them."""
    found = turn.findings.get(decision.call_id)
    if found is not None:
        # However late it is acted on: what was found stays true.
        if found.decision == "happened":
            return told(decision, "ok", {"outcome": "happened", "message": HAPPENED, "reason": found.reason})
        # Not `not_run`: a person says so, and no approver gives back what a call took of a limit.
        return failed(decision, "did_not_happen", f"{DID_NOT_HAPPEN} Their reason: {found.reason}")
    asked = turn.checks.get(decision.call_id)
    is_in_time = run.runtime.clock.now() < asked.expires_at if asked else is_time_left(run)
    if not is_in_time:
        return ToolOutcomeUnknown(call_id=decision.call_id, tool=decision.tool, cause=UNRESOLVED)
    return None
