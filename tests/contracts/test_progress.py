"""The progress notes' contract: what every implementation of `ports.ProgressNotes` keeps."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from agent.aws.progress import DynamoDbProgressNotes
from agent.errors import StoreUnavailable
from agent.ports.jobs import ProgressNotes
from agent.testing.clock import FakeClock
from agent.testing.progress import MemoryProgressNotes
from agent.testing.tables import create_table
from tests.contracts.wire import Wire, lose_request

tables = itertools.count()
RUN = "run_01JABCDEFGHJKMNPQRSTVWXYZ0"
CALL = "call_1_0"


@pytest.fixture(params=["memory", "dynamodb"])
def notes(request: pytest.FixtureRequest) -> ProgressNotes:
    if request.param == "memory":
        return MemoryProgressNotes()
    made: ProgressNotes = request.getfixturevalue("dynamodb")
    return made


@pytest.fixture
def dynamodb(aws: Callable[[str], Any]) -> DynamoDbProgressNotes:
    table = f"progress-{next(tables)}"
    create_table(aws("dynamodb"), table)
    return DynamoDbProgressNotes(aws("dynamodb"), table, FakeClock())


def write(notes: ProgressNotes, index: int, text: str, *, attempt: int = 1, **where: str) -> None:
    tenant, run, call = where.get("tenant", "acme"), where.get("run", RUN), where.get("call", CALL)
    notes.write(tenant, run, call, attempt=attempt, index=index, text=text)


def read(notes: ProgressNotes, *, from_index: int = 0, attempt: int = 1) -> list[str]:
    return notes.read("acme", RUN, CALL, attempt=attempt, from_index=from_index)


def test_notes_are_read_in_their_order_from_where_the_reader_stands(notes: ProgressNotes) -> None:
    for index in range(20):
        write(notes, index, f"{index} done")
    assert read(notes) == [f"{index} done" for index in range(20)]
    assert read(notes, from_index=9) == [f"{index} done" for index in range(9, 20)]
    assert read(notes, from_index=20) == []


def test_each_start_of_each_call_has_notes_of_its_own(notes: ProgressNotes) -> None:
    write(notes, 0, "mine")
    write(notes, 0, "again", attempt=2)
    for other in ({"tenant": "globex"}, {"run": RUN[:-1] + "1"}, {"call": "call_1_1"}, {"call": "call_1_01"}):
        write(notes, 1, "not mine", **other)
    assert read(notes) == ["mine"]
    assert read(notes, attempt=2) == ["again"]


def test_a_silent_table_is_said(dynamodb: DynamoDbProgressNotes, wire: Wire) -> None:
    wire.next("PutItem", lose_request)
    wire.next("Query", lose_request)
    with pytest.raises(StoreUnavailable):
        write(dynamodb, 0, "x")
    with pytest.raises(StoreUnavailable):
        read(dynamodb)
