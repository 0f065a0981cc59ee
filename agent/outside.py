"""What a user may add to a run that somebody else holds: the wish that it ends, and a judgement of it.

Each is decided on the run as it stands and appended on the condition that it still stands so; where a holder was
faster, the run is read and the question decided again.
"""

from collections.abc import Callable
from typing import Literal

from agent.admission import Room1, wake
from agent.errors import FeedbackStands, LogContended, LogMoved, RunOver
from agent.events import CancelRequested, FeedbackGiven, Payload
from agent.identity import Principal
from agent.record import require_own_run
from agent.run_header import RunHeader

MAX_TRIES = 8
"""A holder appends two or three times a second at most, and an outside append takes milliseconds."""


def cancel(room: Room1, principal: Principal, run_id: str) -> RunHeader:
    """Ask for a run to end, once however often called, and wake the agent so that a parked one ends too.

    Raises:
        NotFound: there is no such run for this principal.
        RunOver: it has ended already.
        LogContended: others kept appending first.
    """

    def wish(header: RunHeader) -> CancelRequested | None:
        if header.is_over:
            raise RunOver("the run is over; there is nothing left to cancel")
        return None if header.cancel_requested else CancelRequested(by=principal.user_id)

    header = _append(room, principal, run_id, wish)
    wake(room, header)
    return header


def give_feedback(
    room: Room1, principal: Principal, run_id: str, *, rating: Literal["up", "down"], comment: str
) -> RunHeader:
    """Judge a run, at any time, once.

    Raises:
        NotFound: there is no such run for this principal.
        FeedbackStands: it has been judged.
        LogContended: others kept appending first.
    """

    def judgement(header: RunHeader) -> FeedbackGiven:
        if header.feedback is not None:
            raise FeedbackStands("this run has been judged already")
        return FeedbackGiven(by=principal.user_id, rating=rating, comment=comment)

    return _append(room, principal, run_id, judgement)


def _append(room: Room1, principal: Principal, run_id: str, decide: Callable[[RunHeader], Payload | None]) -> RunHeader:
    for _ in range(MAX_TRIES):
        header = require_own_run(room.log, principal, run_id)
        payload = decide(header)
        if payload is None:
            return header
        try:
            return room.log.append(header, [payload], at=room.clock.now(), outside=True)
        except LogMoved:
            continue
    raise LogContended("the run is being worked on too fast; try again")
