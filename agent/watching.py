"""One page of a run's events: what happened since a reader's position, waiting a little for something new.

The gateway buffers answers, so a page ends as soon as there is something to say, and the reader comes back with the
position it reached. Reads only; every wait, read and page has a bound.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.cursor import BEGINNING, Cursor
from agent.errors import InputInvalid
from agent.identity import Principal
from agent.ports.clock import Clock
from agent.ports.run_log import RunLog
from agent.project_agui import Positioned, Projection
from agent.record import require_own_run

MAX_WAIT_S = 20
"""What a door may let a reader ask for: below the gateway's 29 seconds for an answer."""
MAX_PAGE_BYTES = 1_000_000
"""After which a page ends. A function's answer may have 6 MB, and one event is far below 2."""
BATCH = 200
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0


@dataclass(frozen=True)
class Room1Reader:
    """What the event stream needs: a log to read, and time."""

    log: RunLog
    clock: Clock
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Page:
    """What a reader had not had, and whether the end of the run is among it or before it."""

    events: tuple[Positioned, ...]
    cursor: Cursor
    is_over: bool


def read_page(
    room: Room1Reader, principal: Principal, run_id: str, *, after: Cursor = BEGINNING, wait_s: float, field: str
) -> Page:
    """Return what happened after a position; wait up to `wait_s` seconds for it.

    Raises:
        NotFound: there is no such run for this principal.
        InputInvalid: the run has no such position; `field` says where it came from.
    """
    require_own_run(room.log, principal, run_id)
    tenant_id = principal.tenant_id
    view = Projection(lambda seq, index: room.log.deltas(tenant_id, run_id, seq, from_index=index), after=after)
    give_up_at = room.clock.monotonic() + wait_s
    pause_s = FIRST_PAUSE_S
    while True:
        said = _new(room.log, tenant_id, run_id, view)
        if after.seq > view.seq:
            raise InputInvalid("this run has no event with this id", field=field)
        left_s = give_up_at - room.clock.monotonic()
        if said or view.is_over or left_s <= 0:
            cursor = said[-1].cursor if said else after
            return Page(tuple(said), cursor, view.is_over)
        room.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)


def _new(log: RunLog, tenant_id: str, run_id: str, view: Projection) -> list[Positioned]:
    said: list[Positioned] = []
    room_left = MAX_PAGE_BYTES
    while not view.is_over:
        batch = log.events(tenant_id, run_id, after=view.seq, limit=BATCH)
        for event in batch:
            new = view.feed(event)
            said += new
            room_left -= sum(len(positioned.json) for positioned in new)
            if room_left <= 0:
                return said
        if len(batch) < BATCH:
            # Events first, then deltas: whatever was streamed before an end that was seen is seen too.
            return said + view.listen()
    return said
