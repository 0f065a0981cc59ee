"""Facts to fill logs with."""

from datetime import UTC, datetime, timedelta
from typing import Any

from ulid import ULID

from agent.events import (
    ApprovalRequested,
    CancelRequested,
    Event,
    ModelCompleted,
    RunClaimed,
    RunCreated,
    Text,
    Usage,
)
from agent.identity import Principal, Role, approval_id
from agent.ports.run_log import NewRun

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def new_run(
    *,
    tenant: str = "acme",
    user: str = "ann",
    key: str | None = None,
    body: str = "b1",
    session: str | None = None,
    at: datetime = NOW,
    text: str = "Where is order 1001?",
    run_id: str | None = None,
    **limits: Any,
) -> NewRun:
    limits = {"user_runs": 1_000, "tenant_runs": 1_000} | limits
    created = RunCreated(
        principal=Principal(tenant_id=tenant, user_id=user, roles=frozenset({Role.USER})),
        input=text,
        session_id=session,
        release="support-desk-1",
        deadline_at=at + timedelta(minutes=10),
        limit_micros=50_000,
    )
    event = Event(
        tenant_id=tenant,
        run_id=run_id or f"run_{ULID()}",
        seq=1,
        at=at,
        epoch=0,
        nonce=str(ULID()),
        release="support-desk-1",
        data=created,
    )
    return NewRun(event=event, idempotency_key=key, body_sha256=body, **limits)


def claim(epoch: int = 1, *, owner: str = "request-1", at: datetime = NOW) -> RunClaimed:
    return RunClaimed(owner=owner, epoch=epoch, lease_until=at + timedelta(minutes=4))


def requested(run_id: str, call_id: str = "call_1_0") -> ApprovalRequested:
    return ApprovalRequested(
        approval_id=approval_id(run_id, call_id),
        call_id=call_id,
        tool="pay",
        release_sha256="r",
        expires_at=NOW + timedelta(minutes=5),
    )


def cancel(by: str = "ann") -> CancelRequested:
    return CancelRequested(by=by)


def answered(text: str = "It is on its way.") -> ModelCompleted:
    return ModelCompleted(
        turn=1,
        attempt=1,
        model_id="model",
        content=(Text(text=text),),
        stop_reason="end_turn",
        usage=Usage(input_tokens=10, output_tokens=5),
        cost_micros=7,
        duration_ms=12,
    )
