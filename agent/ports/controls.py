"""What operators switch and change, and the audit of it."""

from typing import Protocol

from agent.audit import Change
from agent.controls import Board, Controls, Switch, Target


class AuditTrail(Protocol):
    """What operators have changed."""

    def changes(self, tenant_id: str, *, limit: int, before: str | None = None) -> tuple[list[Change], str | None]:
        """Return the newest changes for a tenant, or with an empty id for everybody, and the next `before`.

        Raises:
            StoreUnavailable: no answer within the bounded retries.
        """
        ...

    def note(self, change: Change) -> None:
        """Write an entry about what was changed elsewhere, once however often called with the same id.

        Raises:
            StoreUnavailable: perhaps not written.
        """
        ...


class ControlBook(Protocol):
    """What operators have switched off, or made stricter."""

    @property
    def audit(self) -> AuditTrail:
        """Where its changes are told, and those of limits."""
        ...

    def switches(self, board: Board) -> tuple[Switch, ...]:
        """Return the switches of a board that are on.

        Raises:
            StoreUnavailable: not known.
        """
        ...

    def switch_on(self, board: Board, switch: Switch) -> None:
        """Put a switch on a board, in place of one with the same target, and its entry in the audit.

        Raises:
            InputInvalid: it is not bounded in time, or the board is full.
            StoreUnavailable: perhaps not done; doing it again is harmless.
        """
        ...

    def switch_off(self, board: Board, target: Target, *, by: str, reason: str) -> None:
        """Take a switch off a board, with an entry in the audit.

        Raises:
            NotFound: there is none with this target.
            StoreUnavailable: perhaps not done.
        """
        ...

    def effective(self, tenant_id: str, user_id: str, *, release: str, agent: str) -> Controls:
        """Return what holds for the runs of a user under an agent's release, at most 2 s old.

        Raises:
            StoreUnavailable: not known (fail closed: no new run, no new model call, no new tool call).
        """
        ...
