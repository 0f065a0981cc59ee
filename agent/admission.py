"""A new run: what a user asks becomes event 1 of a log, and the agent is woken.

Everything a resumed run must see again is fixed here: the principal, the release, the deadline, the money. Budgets are
not asked: this room has no right on the ledger, and a run whose budget is spent ends with a sentence that says so.
"""

import hashlib
import logging
import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ulid import ULID

from agent import tracing
from agent.contracts import Contract, canonical_json
from agent.errors import InputTooLarge, StoreUnavailable, SwitchedOff, UserSwitchedOff
from agent.events import Event, RunCreated
from agent.identity import Principal
from agent.ports.clock import Clock
from agent.ports.controls import ControlBook
from agent.ports.limits import LimitBook
from agent.ports.money import Accounts
from agent.ports.run_log import NewRun, RunLog
from agent.ports.wake import Wake
from agent.release import Release
from agent.run_header import RunHeader

MAX_INPUT_BYTES = 32_768
"""Of UTF-8. The log keeps the input in one item, far below DynamoDB's 400 KB."""

logger = logging.getLogger(__name__)


def new_run_id(now: datetime) -> str:
    """Return an id that sorts by time and can't be guessed: 80 of its bits are random."""
    return f"run_{ULID.from_datetime(now)}"


def new_nonce() -> str:
    """Return a word by which a writer recognises its own event."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class Room1:
    """What the run API needs: no model, no tool, no ledger, no tenant data."""

    log: RunLog
    wake: Wake
    clock: Clock
    limits: LimitBook
    release: Release
    """The one that new runs are bound to."""
    controls: ControlBook
    accounts: Accounts | None = None
    """To tell people what they have spent; None where that is not told."""
    contracts: Mapping[str, Contract] = field(default_factory=dict)
    """Of the tools as they are deployed now, for what approvers are shown."""
    new_run_id: Callable[[datetime], str] = new_run_id
    new_nonce: Callable[[], str] = new_nonce


@dataclass(frozen=True)
class Question:
    """What a user asks for, already validated in shape."""

    input: str
    session_id: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def admit(room: Room1, principal: Principal, question: Question, *, idempotency_key: str | None) -> RunHeader:
    """Create the run, or find the one this key has created before, and wake the agent.

    Raises:
        SwitchedOff: operators take no new runs of this kind at the moment.
        UserSwitchedOff: or none of this user.
        StoreUnavailable: whether they do is not known.
        InputTooLarge: the input has more than `MAX_INPUT_BYTES`.
        IdempotencyKeyReused: the key came with another question before.
        TooManyRuns: the user or the tenant has as many runs in flight as allowed.
        SessionBusy: an earlier run of the session is not over, and the release takes one at a time.
        LogContended: not written within the bounded retries; asking again with the same key is safe.
    """
    if len(question.input.encode()) > MAX_INPUT_BYTES:
        raise InputTooLarge(f"the input may have at most {MAX_INPUT_BYTES} bytes of UTF-8", field="body.input")
    _require_switched_on(room, principal)
    now = room.clock.now()
    caps = room.release.caps
    run_id = room.new_run_id(now)
    created = RunCreated(
        principal=principal,
        input=question.input,
        session_id=question.session_id,
        metadata=question.metadata,
        release=room.release.name,
        deadline_at=now + timedelta(seconds=caps.max_duration_s),
        limit_micros=caps.limit_micros,
        traceparent=tracing.traceparent(),
    )
    event = Event(
        tenant_id=principal.tenant_id,
        run_id=run_id,
        seq=1,
        at=now,
        epoch=0,
        nonce=room.new_nonce(),
        release=room.release.name,
        data=created,
    )
    body = canonical_json([question.input, question.session_id, question.metadata])
    digest = hashlib.sha256(body.encode()).hexdigest()
    limits = room.limits.of(principal.tenant_id, principal.user_id)
    new = NewRun(
        event=event,
        idempotency_key=idempotency_key,
        body_sha256=digest,
        user_runs=limits.user_runs,
        tenant_runs=limits.tenant_runs,
        is_alone=room.release.session_conflict == "refuse",
    )
    header = room.log.create(new)
    if not header.is_over:
        wake(room, header)
    return header


def _require_switched_on(room: Room1, principal: Principal) -> None:
    controls = room.controls.effective(
        principal.tenant_id, principal.user_id, release=room.release.name, agent=room.release.agent
    )
    off = [switch for switch in (controls.stops_run, controls.refuses_new_runs) if switch]
    if not off:
        return
    if off[0].target.kind == "user":
        raise UserSwitchedOff("your operators have switched you off here; ask them")
    left = (max(switch.expires_at for switch in off) - room.clock.now()).total_seconds()
    raise SwitchedOff("operators have switched this off; ask again later", retry_after_s=max(1, math.ceil(left)))


def wake(room: Room1, header: RunHeader) -> None:
    """Ask the agent to work on a run. Failing is no error to the user: the run's `due_at` is set, the sweeper wakes."""
    try:
        room.wake.wake(header.tenant_id, header.run_id, traceparent=header.traceparent)
    except StoreUnavailable:
        logger.warning("the agent was not woken; the sweeper will", extra={"run_id": header.run_id})
