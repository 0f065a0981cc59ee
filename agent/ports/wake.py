"""How a run gets a holder."""

from typing import Protocol


class Wake(Protocol):
    """Starts the agent on a run. Waking any number of times, at any time, is harmless."""

    def wake(self, tenant_id: str, run_id: str, *, traceparent: str | None) -> None:
        """Ask for the run to be worked on, soon and asynchronously.

        Raises:
            StoreUnavailable: not asked; the sweeper will, once `due_at` has passed.
        """
        ...
