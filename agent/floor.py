"""What no policy file can undo: the least that is demanded of a call, by its effect and what holds around it.

Policies may say the same, and the support desk's do; this holds where one forgets. The gate keeps to it when it
decides, and the tools' room holds every decision it finds in a log against it once more.
"""

from collections.abc import Collection

from agent.contracts import Effect
from agent.events import Mode, Verdict


def floor(effect: Effect, *, tainted: bool, modes: Collection[Mode]) -> Verdict:
    """Return the mildest verdict that a call may have. To read is free; sending to a server outside is no reading."""
    if effect is Effect.READ:
        return Verdict.ALLOW
    if "read_only" in modes:
        return Verdict.DENY
    return Verdict.ASK if tainted or "force_review" in modes else Verdict.ALLOW
