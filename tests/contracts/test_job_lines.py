"""The contract of the tenants' lines of queued calls: what every implementation of `ports.JobLines` keeps."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from agent.aws.dynamodb import Backoff
from agent.aws.job_lines import DynamoDbJobLines
from agent.endings import EndReason, Status
from agent.events import ModelCompleted, RunEnded, ToolCompleted, ToolQueued, ToolUse
from agent.ports.jobs import JobLines, WaitingJob
from agent.ports.run_log import RunLog
from agent.testing.job_lines import MemoryJobLines
from agent.testing.run_log import MemoryRunLog
from tests.contracts.facts import NOW, claim, new_run
from tests.contracts.racing import race
from tests.contracts.test_run_log import dynamodb_log


@dataclass
class Office:
    """A log and the lines beside it, and runs that queue calls."""

    log: RunLog
    lines: JobLines

    def queue(self, calls: int = 1, *, tenant: str = "acme", at: datetime = NOW) -> str:
        """Create a run with so many queued calls and return its id."""
        header = self.log.create(new_run(tenant=tenant))
        ids = [f"call_1_{n}" for n in range(calls)]
        uses = tuple(ToolUse(call_id=call_id, tool="export", arguments={}) for call_id in ids)
        asked = ModelCompleted(
            turn=1,
            attempt=1,
            model_id="m",
            content=uses,
            stop_reason="tool_use",
            usage=None,
            cost_micros=0,
            duration_ms=1,
        )
        queued = [ToolQueued(call_id=call_id, tool="export", due_at=NOW + timedelta(hours=1)) for call_id in ids]
        header = self.log.append(header, [claim(), asked], at=at)
        return self.log.append(header, queued, at=at).run_id

    def complete(self, run_id: str, call_id: str = "call_1_0", *, tenant: str = "acme") -> None:
        done = ToolCompleted(call_id=call_id, tool="export", outcome="ok", content="{}", duration_ms=1)
        header = self.log.header(tenant, run_id)
        assert header is not None
        self.log.append(header, [done], at=NOW, outside=True)

    def take(self, slots: int, *, tenant: str = "acme", at: datetime = NOW, sent: bool = True) -> list[tuple[str, str]]:
        jobs = self.lines.take(tenant, slots=slots, at=at)
        for job in jobs if sent else []:
            self.lines.sent(job)
        return [(job.run_id, job.call_id) for job in jobs]


@pytest.fixture(params=["memory", "dynamodb"])
def office(request: pytest.FixtureRequest) -> Office:
    if request.param == "memory":
        log = MemoryRunLog()
        return Office(log, MemoryJobLines(log))
    aws: Callable[[str], Any] = request.getfixturevalue("aws")
    backoff: Backoff = request.getfixturevalue("backoff")
    made = dynamodb_log(aws, backoff)
    return Office(made, DynamoDbJobLines(aws("dynamodb"), made._table, backoff=backoff))


def test_those_that_wait_longest_get_the_slots_and_the_next_one_when_a_call_has_its_result(office: Office) -> None:
    runs = [office.queue(at=NOW + timedelta(seconds=n)) for n in (2, 0, 1, 3)]
    assert office.take(2) == [(runs[1], "call_1_0"), (runs[2], "call_1_0")]
    assert office.take(2) == []
    office.complete(runs[2])
    assert office.take(2) == [(runs[0], "call_1_0")]
    office.complete(runs[1])
    office.complete(runs[0])
    assert office.take(2) == [(runs[3], "call_1_0")]
    assert office.take(2) == []


def test_a_tenants_slots_are_its_own(office: Office) -> None:
    office.queue(3)
    theirs = office.queue(1, tenant="globex")
    assert len(office.take(2)) == 2
    assert office.take(2, tenant="globex") == [(theirs, "call_1_0")]


def test_a_run_that_ends_leaves_line_and_slots(office: Office) -> None:
    run_id = office.queue(3)
    assert len(office.take(2)) == 2
    header = office.log.header("acme", run_id)
    assert header is not None
    over = RunEnded(status=Status.CANCELLED, reason=EndReason.CANCELLED, message="")
    office.log.append(header, [over], at=NOW)
    other = office.queue(2)
    assert office.take(2) == [(other, "call_1_0"), (other, "call_1_1")]


def test_a_job_that_was_taken_and_never_sent_is_returned_again_after_a_while(office: Office) -> None:
    run_id = office.queue()
    assert office.take(1, sent=False) == [(run_id, "call_1_0")]
    assert office.take(1, at=NOW + timedelta(seconds=5)) == []
    assert office.take(1, at=NOW + timedelta(seconds=11)) == [(run_id, "call_1_0")]
    assert office.take(1, at=NOW + timedelta(seconds=60)) == []


def test_a_limit_of_none_sends_nothing_and_a_lowered_one_lets_what_is_sent_be(office: Office) -> None:
    first = office.queue()
    assert office.take(0) == []
    assert len(office.take(2)) == 1
    second = office.queue(2)
    assert office.take(1) == []
    office.complete(first)
    assert office.take(1) == [(second, "call_1_0")]


def test_a_limit_far_below_what_is_in_the_queue_already_sends_nothing_and_is_no_failure(office: Office) -> None:
    first = office.queue(4)
    assert len(office.take(4)) == 4
    second = office.queue(6)
    assert office.take(1) == []
    for call in range(4):
        office.complete(first, f"call_1_{call}")
    assert office.take(1) == [(second, "call_1_0")]


def test_takers_at_once_take_each_job_once_and_no_more_than_there_are_slots(office: Office) -> None:
    office.queue(4)
    office.queue(4)
    answers: list[list[WaitingJob]] = race([partial(office.lines.take, "acme", slots=5, at=NOW) for _ in range(6)])
    taken = [job for jobs in answers for job in jobs]
    assert len(taken) == len(set(taken)) == 5


def test_a_line_is_due_after_a_minute_while_something_waits_in_it_and_not_after_that(office: Office) -> None:
    run_id = office.queue(2)
    office.queue(1, tenant="globex")
    assert office.lines.due_lines(NOW + timedelta(seconds=59), limit=9) == []
    later = NOW + timedelta(seconds=60)
    assert {line.tenant_id for line in office.lines.due_lines(later, limit=9)} == {"acme", "globex"}
    assert len(office.lines.due_lines(later, limit=1)) == 1
    office.take(1)
    office.take(1, tenant="globex")
    for line in office.lines.due_lines(later, limit=9):
        office.lines.looked_after(line, at=later)
    assert office.lines.due_lines(later, limit=9) == []
    [line] = office.lines.due_lines(later + timedelta(seconds=60), limit=9)
    assert line.tenant_id == "acme"
    office.complete(run_id)
    office.take(1)
    office.lines.looked_after(line, at=later)
    assert office.lines.due_lines(later + timedelta(hours=1), limit=9) == []


def test_a_call_that_comes_while_a_line_is_looked_after_keeps_the_line_due(office: Office) -> None:
    office.queue()
    [line] = office.lines.due_lines(NOW + timedelta(seconds=60), limit=9)
    office.take(1)
    newer = office.queue(at=NOW + timedelta(seconds=61))
    office.lines.looked_after(line, at=NOW + timedelta(seconds=61))
    assert office.lines.due_lines(NOW + timedelta(seconds=200), limit=9) != []
    assert office.take(2, at=NOW + timedelta(seconds=61)) == [(newer, "call_1_0")]
