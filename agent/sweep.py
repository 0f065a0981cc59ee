"""The net under everything: no run that is not finished with stays unseen, whatever was lost on the way.

Once a minute, due runs are taken from the index, moved on *before* they are touched (so one that breaks the sweeper
can't block the others), and woken; ended ones are settled and their money is returned. A failed invocation is reported
by Lambda itself: that proves its death, so the run is woken at once. All of it is harmless when repeated.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from agent.budget import settle_ended
from agent.dispatch import Dispatcher
from agent.errors import LogMoved, TryLater, describe
from agent.events import RunClaimed, WaitingFor, WorkerLost
from agent.held_run import MAX_MOVES, read_state
from agent.ports.clock import Clock
from agent.ports.limits import Allowances
from agent.ports.money import Ledger
from agent.ports.run_log import RunLog
from agent.ports.wake import Wake
from agent.run_header import START_GRACE, RunHeader
from agent.sessions import runs_ahead, wake_next

logger = logging.getLogger(__name__)

SHORTEST_BACKOFF = timedelta(seconds=30)
LONGEST_BACKOFF = timedelta(minutes=15)
ONCE_MORE = START_GRACE + timedelta(seconds=1)
"""When the sweep looks after a run that was woken once more: beyond the grace, which shows that it was."""


@dataclass(frozen=True, kw_only=True)
class Sweeper:
    """What sweeping needs: no model, no tool."""

    log: RunLog
    ledger: Ledger
    allowances: Allowances
    wake: Wake
    dispatcher: Dispatcher
    clock: Clock

    def sweep(self, *, limit: int, until: datetime | None = None) -> Counter[str]:
        """Look after at most `limit` due runs; return how many were `woken`, `settled`, `moved_on`, `left` or `failed`.

        No run is begun with after `until`: what is left of the caller's time then is for the lines.

        Raises:
            Exception: of the last run with which something is wrong that time doesn't heal; all else is looked after.
        """
        seen: Counter[str] = Counter()
        broken: Exception | None = None
        for header in self.log.due_runs(self.clock.now(), limit=limit):
            if until is not None and self.clock.now() >= until:
                break
            try:
                seen[self._look_after(header)] += 1
            except TryLater as trouble:
                seen["failed"] += 1
                logger.warning("sweep failed", extra={"run_id": header.run_id, "error": trouble.code})
            except Exception as error:  # noqa: BLE001 - raised again, once nobody else has to wait for it
                broken = error
                logger.error("a run is broken", extra={"run_id": header.run_id, **describe(error)})  # noqa: TRY400 - as in `execution`
        seen += self._move_lines(limit=limit)
        if broken is not None:
            raise broken
        return seen

    def _move_lines(self, *, limit: int) -> Counter[str]:
        """Send what waits in line though it has a slot, or could have one; count the jobs as `sent`."""
        sent: Counter[str] = Counter()
        for line in self.dispatcher.lines.due_lines(self.clock.now(), limit=limit):
            try:
                sent["sent"] += self.dispatcher.send(line.tenant_id)
                self.dispatcher.lines.looked_after(line, at=self.clock.now())
            except TryLater as trouble:
                logger.warning("a line did not move", extra={"tenant_id": line.tenant_id, "error": trouble.code})
        return +sent

    def bury(self, tenant_id: str, run_id: str, *, owner: str, cause: str) -> None:
        """Record that the invocation `owner` died on a run, and wake the run.

        An invocation that died before it claimed anything, or recorded nothing after its claim, is made up for once.
        The next is left to the sweep: a function that always dies at its start makes no storm, and a store that is
        silent for some minutes costs a run these minutes, not all the claims that may come to nothing.

        Raises:
            TryLater: not recorded; the run stays due at the end of the dead holder's lease.
        """
        for _ in range(MAX_MOVES):
            header = self.log.header(tenant_id, run_id)
            if header is None:
                return
            if header.owner != owner:
                self._wake_once_more(header)
                return
            lost = WorkerLost(owner=owner, cause=cause)
            try:
                self.log.append(header, [lost], at=self.clock.now(), outside=True)
            except LogMoved:
                continue
            if not self._came_to_nothing_again(header):
                self.wake.wake(tenant_id, run_id, traceparent=header.traceparent)
            return

    def _came_to_nothing_again(self, dead: RunHeader) -> bool:
        """Whether the dead holder recorded nothing, like the one before it."""
        last = self.log.events(dead.tenant_id, dead.run_id, after=max(0, dead.next_seq - 3), limit=2)
        return [type(event.data) for event in last] == [WorkerLost, RunClaimed]

    def _wake_once_more(self, header: RunHeader) -> None:
        """Wake a run that nobody holds, unless that was done, or the sweep has come by, since its last event."""
        now = self.clock.now()
        if header.is_over or header.has_live_holder(now) or header.due_at is None:
            return
        # What can go on is due when it was written, or a grace after that; what only waits is due far later.
        if header.due_at > header.updated_at + START_GRACE:
            return
        if self.log.postpone(header, now + ONCE_MORE):
            self.wake.wake(header.tenant_id, header.run_id, traceparent=header.traceparent)

    def _look_after(self, header: RunHeader) -> str:
        now = self.clock.now()
        age = now - header.updated_at
        again_at = now + min(max(age, SHORTEST_BACKOFF), LONGEST_BACKOFF)
        if not header.is_over and now < header.deadline_at:
            again_at = min(again_at, header.deadline_at)
        if not self.log.postpone(header, again_at):
            return "moved_on"
        if header.is_over:
            wake_next(self.log, self.wake, header)
            if state := read_state(self.log, header.tenant_id, header.run_id):
                settle_ended(self.log, self.ledger, self.allowances, self.clock, state)
            return "settled"
        if self._waits_for_session(header):
            return "left"
        self.wake.wake(header.tenant_id, header.run_id, traceparent=header.traceparent)
        return "woken"

    def _waits_for_session(self, header: RunHeader) -> bool:
        """Whether a run has to wait for one ahead of it: for days perhaps, and a wake would only ask the same."""
        is_parked = WaitingFor.SESSION in header.waiting_for and not header.cancel_requested
        return is_parked and self.clock.now() < header.deadline_at and bool(runs_ahead(self.log, header))
