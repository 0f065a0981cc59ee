"""Circuit breakers, shared by all processes."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class BreakerRules:
    """When a breaker opens, and for how long."""

    failures: int
    """This many within one window open it. The windows stand fixed in time."""
    window_s: int
    open_s: int
    """After which one call, the probe, is let through. Not shorter than a window, or old failures would count again."""

    def __post_init__(self) -> None:
        if not 0 < self.window_s <= self.open_s or self.failures < 1:
            raise ValueError(f"no rules for a breaker: {self}")


class Breakers(Protocol):
    """Circuit breakers, shared by all processes: closed, open, half-open. Names are `model#<id>` and `tool#<name>`.

    A breaker protects, it permits nothing: one that can't be read counts as closed, and no method raises for trouble of
    the store. What others did is seen after two seconds at most.
    """

    def admits(self, name: str, *, patience_s: float) -> bool:
        """Tell whether a call may be made now.

        When the breaker's time is up, exactly one caller is let through, as the probe; the next, should it never tell
        what came of it, after `patience_s`.
        """
        ...

    def is_open(self, name: str) -> bool:
        """Tell whether no call may be made, without becoming the probe."""
        ...

    def failed(self, name: str) -> None:
        """Count a failure. A failed probe opens the breaker anew."""
        ...

    def gave_up(self, name: str) -> None:
        """Tell that nothing will be known of a call: if it was the probe, the next caller is. Else it costs nothing."""
        ...

    def succeeded(self, name: str) -> None:
        """Tell of a success: a probe's closes the breaker; any other changes nothing, and costs nothing."""
        ...
