"""Builds a door before its first event comes: clients, policies, releases.

Lambda gives a function that starts a burst of CPU, and from the first event on the share that goes with its memory. So
a cold start is shorter where everything is built while it starts. Elsewhere importing a door does nothing, and nor does
it in the function of another door, which may read it for its routes.
"""

import os
from collections.abc import Callable

PHASE = "AWS_LAMBDA_INITIALIZATION_TYPE"
"""Set by Lambda's own runtime, and by nothing else."""
ENTRY = "_HANDLER"
"""Where Lambda says which handler it will call."""


def build_early(door: Callable[[], object]) -> None:
    """Build the door now, if this is its function on Lambda. A failure is the start's instead of the first event's."""
    if PHASE in os.environ and os.environ.get(ENTRY) == f"{door.__module__}.handler":
        door()
