"""Calls that need a person, from the side of the run: asked for, waited for, and consumed by their start.

A decision of the gate binds tool, contract, arguments and policy; the request adds the release and an end. Before an
approved call starts, all of that is held against the world as it is now, with the roles that requester and approver
have now, by the same gate that every call passes. What does not hold any more voids the approval: the call gets an
error as its one result, and the run goes on. Nothing the model says is ever read here.
"""

from datetime import datetime, timedelta

from agent.errors import FactsUnavailable, StoreUnavailable
from agent.events import ApprovalRequested, Decision, ToolCompleted, ToolUse, Verdict
from agent.gate import Gate
from agent.held_run import HeldRun
from agent.identity import Role, approval_id
from agent.run_state import Turn
from agent.tool_results import not_run

ANSWER_TIME = timedelta(seconds=60)
"""What is kept of a run's time behind an approval's end, so that the model can still tell the user."""

EXPIRED = "Nobody decided in time, so it did not run. Tell the user; don't ask for it again."
LATE = "It was approved, but did not begin before the approval's time was over, so it did not run. Tell the user."
REJECTED = "A person decided against it, so it did not run. Don't ask for it again."
VOID = "It was approved, but what the approval rested on has changed since, so it did not run. Tell the user."

NOT_KNOWN = frozenset({FactsUnavailable.code, "controls_unavailable", "limits_unavailable"})
"""What the gate says of a call that it could not judge at the moment."""


def request(run: HeldRun, decision: Decision) -> ApprovalRequested:
    """Return the event that puts a call before the tenant's approvers."""
    return ApprovalRequested(
        approval_id=approval_id(run.header.run_id, decision.call_id),
        call_id=decision.call_id,
        tool=decision.tool,
        release_sha256=run.release.sha256,
        expires_at=last_moment(run),
    )


def last_moment(run: HeldRun) -> datetime:
    """Return until when a person who is asked now may decide."""
    longest = timedelta(seconds=run.release.caps.max_approval_wait_s)
    return min(run.runtime.clock.now() + longest, run.header.deadline_at - ANSWER_TIME)


def is_undecided(turn: Turn, decision: Decision) -> bool:
    """Whether a call still waits for a person."""
    return decision.verdict is Verdict.ASK and decision.call_id not in turn.decided


def consumed_by(turn: Turn, decision: Decision) -> str | None:
    """Return the approval that the start of a call consumes; None for a call that needs none."""
    return turn.requested[decision.call_id].approval_id if decision.verdict is Verdict.ASK else None


def judge(run: HeldRun, turn: Turn, decision: Decision) -> ToolCompleted | None:
    """Return the result of an asked call that will not run; None where it waits, or may start now.

    Raises:
        StoreUnavailable: who requester and approver are now can't be asked; nothing starts.
    """
    requested, decided = turn.requested.get(decision.call_id), turn.decided.get(decision.call_id)
    if requested is None:
        return None
    if decided is not None and decided.decision == "reject":
        return not_run(decision, "approval_rejected", f"{REJECTED} Their reason: {decided.reason or 'none given'}")
    if run.runtime.clock.now() >= requested.expires_at:
        return not_run(decision, "approval_expired", LATE if decided else EXPIRED)
    if decided is not None and not _still_holds(run, requested, decision, approver_id=decided.by):
        return not_run(decision, "approval_void", VOID)
    return None


def _still_holds(run: HeldRun, requested: ApprovalRequested, decision: Decision, *, approver_id: str) -> bool:
    """Whether the call would be asked for today just as it was, and its approver still be one."""
    asked_by = run.state.created.principal
    directory = run.runtime.directory
    requester = directory.principal(asked_by.tenant_id, asked_by.user_id)
    approver = directory.principal(asked_by.tenant_id, approver_id)
    if requester is None or Role.USER not in requester.roles:
        return False
    if approver is None or Role.APPROVER not in approver.roles or approver_id == asked_by.user_id:
        return False
    run.require_switched_on()
    gate = Gate.of(run, requester, calls_before=0)  # the call was counted when it was asked for
    use = ToolUse(call_id=decision.call_id, tool=decision.tool, arguments=decision.arguments)
    [today] = gate.decide([use])
    if today.code in NOT_KNOWN:
        raise StoreUnavailable(f"{today.code}: not known is no no; the approval waits")
    return (
        today.verdict is not Verdict.DENY
        and run.release.sha256 == requested.release_sha256
        and today.contract_sha256 == decision.contract_sha256
        and today.arguments_sha256 == decision.arguments_sha256
        and today.policy_sha256 == decision.policy_sha256
    )
