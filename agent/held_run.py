"""A run in the hands of one invocation: what the log says, what has happened since, and the appends that close the gap.

Facts and decisions are told apart. A *fact* has happened (a model answered, money was granted, a tool replied): it is
noted, counts at once, and is written with the next append whatever that decides. A *decision* (start a call, wait, end)
is good only for the log it was taken on: if the log has moved, the holder reloads and decides again. That is also why
a turn costs two transactions: results ride with the next `model.started`, an answer with the start of its calls.
"""

import math
from collections.abc import Callable, Sequence
from datetime import datetime

from agent.controls import Controls
from agent.endings import END, EndReason, Status
from agent.errors import ConfigurationInvalid, LogContended, LogMoved, RunFailed, StoreUnavailable, TryLater
from agent.events import (
    ModelCompleted,
    ModelFailed,
    ModelStarted,
    Payload,
    RunEnded,
    RunReleased,
    ToolCompleted,
    ToolOutcomeUnknown,
    ToolStarted,
    Usage,
)
from agent.ports.run_log import RunLog
from agent.release import Release
from agent.run_header import RunHeader, extend
from agent.run_state import RunState, step
from agent.runtime import Runtime

MAX_MOVES = 20
"""How often in a row the log may move under a holder before it gives up; the run is woken again."""

DEAF_S = 5.0
"""How long a call in progress goes on while the switches can't be read: a hiccup should not cost an answer, and a
switch should not wait longer for its effect. Nothing *begins* meanwhile."""

ASK_AGAIN_S = (0.5, 1.0, 2.0, 4.0)
"""How long a holder waits for switches that can't be read before it gives the run back: each time it does counts as a
claim that came to nothing."""

LEASE_MARGIN_S = 10.0
"""What is kept of a lease for the last appends."""

MAX_EVENTS = 60
"""In one append of a holder. The log takes more, but its items are not the only ones of the transaction: a turn's
queued calls get in line with it, a run leaves its sets."""

PAGE = 1000

OBSERVED = (ModelStarted, ModelCompleted, ModelFailed, ToolStarted, ToolCompleted, ToolOutcomeUnknown)


def read_state(log: RunLog, tenant_id: str, run_id: str, *, known: RunState | None = None) -> RunState | None:
    """Return a run's state from its log, going on from `known` where that is given; None where there is no log."""
    state = known
    while True:
        events = log.events(tenant_id, run_id, after=state.header.next_seq - 1 if state else 0, limit=PAGE)
        for event in events:
            state = step(state, event)
        if len(events) < PAGE:
            return state


class HeldRun:
    """The run one invocation works on, until the run is over, parked, released or lost to another holder."""

    def __init__(self, runtime: Runtime, state: RunState, *, owner: str, lease_until: datetime, found: Status) -> None:
        self.runtime = runtime
        self.state = state
        """What the log says and the facts since."""
        self.owner = owner
        self.epoch = state.header.epoch
        self.found = found
        """The run's status before it was claimed."""
        self.is_fresh = True
        """Whether nothing was written since the claim."""
        self.sent = set(state.turn.queued) if state.turn and found is Status.WAITING else set[str]()
        """Queued calls that were sent: by this holder, or by the one that parked the run, which sends first."""
        self.unchecked = set[str]()
        """Calls that were approved, and whose approval can't be checked at the moment: they go on waiting."""
        self.interrupted: Callable[[], Usage | None] | None = None
        """After the end of the run: reads on in the model call it interrupted, for its usage."""
        self._lease_until = lease_until
        self._heard, self._heard_at = Controls(), -math.inf
        self._logged = state
        self._facts: list[Payload] = []
        self._moves = 0
        self._release: Release | None = None

    @property
    def header(self) -> RunHeader:
        """The header, facts included."""
        return self.state.header

    @property
    def is_held(self) -> bool:
        """Whether the run is still this invocation's to work on."""
        header = self._logged.header
        return not header.is_over and (header.epoch, header.owner) == (self.epoch, self.owner)

    @property
    def is_released(self) -> bool:
        """Whether nobody holds a run that could go on: this holder let go of it before its time was up."""
        return self.header.status is Status.RUNNING and self.header.owner is None

    @property
    def release(self) -> Release:
        """The release the run is bound to.

        Raises:
            RunFailed: it is gone, or names a tool that is.
        """
        if self._release is None:
            try:
                release = self.runtime.releases(self.header.release)
            except ConfigurationInvalid as gone:
                raise RunFailed(EndReason.RELEASE_UNAVAILABLE, str(gone)) from gone
            if missing := set(release.tools) - set(release.pins) - set(self.runtime.tools):
                raise RunFailed(EndReason.RELEASE_UNAVAILABLE, f"no such tools: {sorted(missing)}")
            self._release = release
        return self._release

    def controls(self) -> Controls:
        """Return what operators' switches and modes say for this run now.

        Raises:
            StoreUnavailable: not known (fail closed).
        """
        header = self.header
        controls = self.runtime.controls.effective(
            header.tenant_id, header.user_id, release=header.release, agent=self.release.agent
        )
        self._heard, self._heard_at = controls, self.runtime.clock.monotonic()
        return controls

    def require_switched_on(self) -> Controls:
        """Check, before anything begins, that operators have not stopped the run.

        Raises:
            RunFailed: they have.
            StoreUnavailable: not known; the facts noted so far are written, for the holder that finds out.
        """
        for wait_s in (*ASK_AGAIN_S, None):
            try:
                return _require_going(self.controls())
            except StoreUnavailable:
                if self._facts:
                    self.append()
                if wait_s is None:
                    raise
                self.runtime.clock.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def note(self, fact: Payload) -> None:
        """Take a fact into account; the next append writes it."""
        self._facts.append(fact)
        self.state = self._with(self.state, [fact])
        self._tell(fact)

    def append(self, *decisions: Payload) -> None:
        """Write the facts noted so far and these decisions, in one transaction, or before it facts beyond `MAX_EVENTS`.

        Raises:
            LogMoved: somebody else wrote first. The facts are kept; `reload` and decide again.
        """
        while len(self._facts) + len(decisions) > MAX_EVENTS and self._facts:
            self._write(self._facts[:MAX_EVENTS], then=self._facts[MAX_EVENTS:])
        self._write([*self._facts, *decisions])
        for decision in decisions:
            self._tell(decision)

    def _write(self, payloads: Sequence[Payload], then: Sequence[Payload] = ()) -> None:
        after = self._with(self._logged, payloads)
        self.runtime.log.append(self._logged.header, payloads, at=after.header.updated_at)
        self._logged, self._facts = after, list(then)
        self.state = self._with(after, then)
        self._moves, self.is_fresh = 0, False

    def write(self) -> None:
        """Write the facts noted so far, if there are any. Raises as `append` does."""
        if self._facts:
            self.append()

    def end(self, reason: EndReason, answer: str | None = None) -> None:
        """Write the end of the run. A call that was started and not seen to end is recorded as unknown."""
        turn = self.state.turn
        unknown = [
            ToolOutcomeUnknown(call_id=call_id, tool=started.tool, cause=f"run_ended_{reason}")
            for call_id, (started, _) in (turn.started if turn else {}).items()
            if turn and call_id not in turn.results
        ]
        status, sentence = END[reason]
        self.append(*unknown, RunEnded(status=status, reason=reason, message=sentence, answer=answer))

    def hand_over(self) -> None:
        """Let go of the run, so that another invocation can go on with it."""
        self.append(RunReleased(owner=self.owner))

    def reload(self) -> None:
        """Read what others have written.

        Raises:
            LogContended: the log has moved too often in a row.
        """
        self._moves += 1
        if self._moves > MAX_MOVES:
            raise LogContended(f"{self.header.run_id} moved {MAX_MOVES} times in a row")
        header = self._logged.header
        self._logged = read_state(self.runtime.log, header.tenant_id, header.run_id, known=self._logged) or self._logged
        # The facts of a holder that was replaced are not facts any more: its successor has judged what was open.
        self.state = self._with(self._logged, self._facts) if self.is_held else self._logged

    def hear(self) -> Controls:
        """Read header and switches, in the middle of something slow.

        Two reads and not one: the log is the run's, the switches are everybody's and shared by who asks within a
        second, and each may be silent for a moment without making the other so. Returns the newest controls known.

        Raises:
            RunFailed: cancelled, stopped by operators, or the deadline has passed.
            LogMoved: the run has another holder.
            StoreUnavailable: the switches have not been readable for `DEAF_S`.
        """
        self._hear_log()
        try:
            return _require_going(self.controls())
        except StoreUnavailable:
            if self.runtime.clock.monotonic() - self._heard_at > DEAF_S:
                raise
            return self._heard

    def _hear_log(self) -> None:
        try:
            header = self.runtime.log.header(self.header.tenant_id, self.header.run_id)
        except TryLater:
            return  # deaf for a moment; what is under way has a timeout of its own
        if header is None or (header.epoch, header.owner) != (self.epoch, self.owner):
            raise LogMoved(f"{self.header.run_id} has another holder")
        if header.cancel_requested:
            raise RunFailed(EndReason.CANCELLED)
        if self.seconds_left() <= 0:
            raise RunFailed(EndReason.MAX_DURATION)

    def pause(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> None:
        """Wait, listening, while it is not `until`. Raises as `hear` does."""
        while seconds > 0 and not until():
            self.hear()
            piece = min(seconds, self.runtime.listen_every_s)
            self.runtime.clock.sleep(piece)
            seconds -= piece

    def seconds_left(self) -> float:
        """Return how long the run may still take."""
        return (self.header.deadline_at - self.runtime.clock.now()).total_seconds()

    def time_for(self, wanted_s: float) -> float | None:
        """Return how long something may take that wants `wanted_s`; None where the next holder must do it.

        A fresh holder begins in any case, with what time it has: handing over would give the next one no more.
        """
        left = (self._lease_until - self.runtime.clock.now()).total_seconds() - LEASE_MARGIN_S
        if left >= wanted_s:
            return wanted_s
        return left if self.is_fresh and left > 0 else None

    def _with(self, state: RunState, payloads: Sequence[Payload]) -> RunState:
        return state_after(state, payloads, self.runtime.clock.now())

    def _tell(self, payload: Payload) -> None:
        if isinstance(payload, OBSERVED):
            self.runtime.hooks.tell(self.header, payload)


def _require_going(controls: Controls) -> Controls:
    if controls.stops_run:
        raise RunFailed(EndReason.SWITCHED_OFF, controls.stops_run.target.id)
    return controls


def state_after(state: RunState, payloads: Sequence[Payload], at: datetime) -> RunState:
    """Return the state that appends of these lead to."""
    for payload in payloads:
        [event], _ = extend(state.header, [payload], at=at, nonce="")
        state = step(state, event)
    return state
