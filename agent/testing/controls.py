"""Switches in memory: the twin of `agent.aws.controls.DynamoDbControlBook`, held to the same contract suite."""

import threading

from agent.audit import of_switch
from agent.controls import Board, Controls, Switch, Target, boards, changed, standing
from agent.errors import NotFound, StoreUnavailable
from agent.ports.clock import Clock
from agent.ports.controls import AuditTrail
from agent.testing.audit import MemoryAuditTrail


class MemoryControlBook:
    """`ports.ControlBook` for tests: what is switched holds at once."""

    def __init__(self, clock: Clock, audit: MemoryAuditTrail | None = None) -> None:
        self.clock = clock
        self._trail = audit or MemoryAuditTrail()
        self.is_down = False
        """Whether nobody can read or write it."""
        self._lock = threading.Lock()
        self._boards: dict[Board, tuple[Switch, ...]] = {}

    def effective(self, tenant_id: str, user_id: str, *, release: str, agent: str) -> Controls:
        """See `ports.ControlBook`."""
        self._require_up()
        with self._lock:
            switches = [switch for board in boards(tenant_id) for switch in self._boards.get(board, ())]
        return Controls.of(switches, user_id=user_id, agent=agent, release=release, now=self.clock.now())

    @property
    def audit(self) -> AuditTrail:
        """See `ports.ControlBook`."""
        return self._trail

    def switches(self, board: Board) -> tuple[Switch, ...]:
        """See `ports.ControlBook`."""
        self._require_up()
        with self._lock:
            return tuple(switch for switch in self._boards.get(board, ()) if switch.is_on(self.clock.now()))

    def switch_on(self, board: Board, switch: Switch) -> None:
        """See `ports.ControlBook`."""
        self._change(board, switch.target, switch, by=switch.by, reason=switch.reason)

    def switch_off(self, board: Board, target: Target, *, by: str, reason: str) -> None:
        """See `ports.ControlBook`."""
        self._change(board, target, None, by=by, reason=reason)

    def _change(self, board: Board, target: Target, switch: Switch | None, *, by: str, reason: str) -> None:
        self._require_up()
        now = self.clock.now()
        with self._lock:
            before = self._boards.get(board, ())
            found = standing(before, target, now)
            if switch is None and found is None:
                raise NotFound("there is no such switch")
            self._boards[board] = changed(before, target, switch, now)
            change = of_switch(board, target, found, switch, by=by, reason=reason, at=now)
            version = self._trail.next_version(board.key)
        self._trail.note(change.model_copy(update={"version": version}))

    def _require_up(self) -> None:
        if self.is_down:
            raise StoreUnavailable("the switches can't be read")


class BlindControlBook:
    """A book that sees no switch: what a runtime would do that does not ask."""

    def effective(self, tenant_id: str, user_id: str, *, release: str, agent: str) -> Controls:  # noqa: ARG002 - the port's
        """See `ports.ControlBook`."""
        return Controls()
