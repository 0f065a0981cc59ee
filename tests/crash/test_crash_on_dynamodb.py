"""The crash matrix on the real adapters: each request of a run to DynamoDB is struck, in every way a request can be.

The process is killed before it or after it; its reply is lost; it is throttled; a transaction meets another. Each point
has tables of its own. Reads of the index of due runs are not struck: they are the sweeper's first step, which the
matrix in memory strikes.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import boto3
import pytest
from botocore.config import Config
from moto import mock_aws

from agent.aws.allowances import DynamoDbAllowances
from agent.aws.controls import DynamoDbControlBook
from agent.aws.dynamodb import Backoff
from agent.aws.job_lines import SLOTS, DynamoDbJobLines
from agent.aws.ledger import DynamoDbLedger
from agent.aws.limits import DynamoDbLimitBook
from agent.aws.run_log import DynamoDbRunLog
from agent.errors import TryLater
from agent.events import ToolOutcomeUnknown
from agent.ports.run_log import RunLog
from agent.testing.crash import Killed
from agent.testing.limits import AMPLE, MemoryLimitBook
from agent.testing.model import asks, says
from agent.testing.tables import create_table
from tests.contracts.wire import Fault, Wire, cancelled, error, lose_reply
from tests.demands import require_counted, require_session_goes_on, require_settled, require_sound
from tests.sample_agent import ALLOWANCES, QUESTION, SampleCloud

NO_SDK_RETRIES = Config(retries={"mode": "standard", "total_max_attempts": 1})
COUNTS = replace(AMPLE, allowances={f"{tool}.{name}": 1 for tool in ("pay", "ship") for name in ALLOWANCES})
"""Enough for one call: a holder that took twice would be refused."""
TRANSACTION = "TransactWriteItems"


def kill_before(_: Callable[[], Any]) -> Any:
    raise Killed


def kill_after(carry_out: Callable[[], Any]) -> Any:
    carry_out()
    raise Killed


FAULTS: dict[str, Fault] = {
    "kill before": kill_before,
    "kill after": kill_after,
    "lose the reply of": lose_reply,
    "throttle": error("ThrottlingException"),
    "conflict with": cancelled("TransactionConflict"),
}


class StruckWire(Wire):
    """Numbers the requests of one run, and lets one of them meet a fault."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[str] = []
        self.strike: tuple[int, Fault] | None = None

    def begin(self, strike: tuple[int, Fault] | None) -> None:
        self.reset()
        self.requests, self.strike = [], strike

    def _send(self, event_name: str, request: Any, **more: Any) -> Any:
        operation = event_name.rpartition(".")[2]
        if "IndexName" not in json.loads(request.body):
            if self.strike and self.strike[0] == len(self.requests):
                self.next(operation, self.strike[1])
            self.requests.append(operation)
        return super()._send(event_name, request, **more)


@pytest.fixture
def wire() -> StruckWire:
    return StruckWire()


@pytest.fixture
def dynamodb(wire: StruckWire, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr("agent.aws.run_log_items.DUE_SHARDS", 1)  # sixteen reads of an empty index less, each time
    with mock_aws():
        session = boto3.Session("test", "test", region_name="eu-central-1")
        yield wire.plug(session.client("dynamodb", config=NO_SDK_RETRIES))


def a_cloud(dynamodb: Any, number: int, tool: str) -> SampleCloud:
    runs, ledger, control = f"runs-{number}", f"ledger-{number}", f"control-{number}"
    backoff = Backoff(sleep=lambda _: None)
    create_table(dynamodb, runs, by_user=("user_key", "run_id"), by_due=("due_shard", "due_at"))
    create_table(dynamodb, ledger)
    create_table(dynamodb, control)
    cloud = SampleCloud(
        asks((tool, {"item": "a"})),
        says("All done."),
        log=DynamoDbRunLog(dynamodb, runs, backoff=backoff),
        lines=DynamoDbJobLines(dynamodb, runs, backoff=backoff),
        ledger=DynamoDbLedger(dynamodb, ledger, MemoryLimitBook(), shards=1, backoff=backoff),
        allowances=DynamoDbAllowances(dynamodb, ledger, MemoryLimitBook(COUNTS), backoff=backoff),
        allowances_of_tools=ALLOWANCES,
    )
    # Read here: each decision, and each look at a line.
    cloud.limits = DynamoDbLimitBook(dynamodb, control, COUNTS, clock=cloud.clock, backoff=backoff)
    cloud.controls = DynamoDbControlBook(dynamodb, control, clock=cloud.clock, backoff=backoff)
    return cloud


@pytest.mark.parametrize("tool", ["pay", "ship"])
def test_every_request_to_dynamodb(
    tool: str, dynamodb: Any, wire: StruckWire, crash_points: Callable[[str, int], None]
) -> None:
    require_same_end(a_cloud(dynamodb, 0, tool), wire, None, tool)
    requests = wire.requests
    points = [
        (at, name)
        for at, operation in enumerate(requests)
        for name in FAULTS
        if operation == TRANSACTION or name != "conflict with"
    ]
    for number, (at, name) in enumerate(points, start=1):
        where = f"{name} {requests[at]} ({at})"
        require_same_end(a_cloud(dynamodb, number, tool), wire, (at, FAULTS[name]), tool, where)
    assert requests.count(TRANSACTION) >= 8
    crash_points(f"on_dynamodb {tool}", len(points))


def rows(log: RunLog) -> list[Any]:
    assert isinstance(log, DynamoDbRunLog)
    found: list[Any] = log._client.scan(TableName=log._table)["Items"]
    return found


def require_same_end(
    cloud: SampleCloud, wire: StruckWire, strike: tuple[int, Fault] | None, tool: str, where: str = "undisturbed"
) -> None:
    run = cloud.ask(QUESTION, session_id="s")
    wire.begin(strike)
    with suppress(Killed, TryLater):  # what looks on from outside the processes can be struck too
        cloud.run_until_idle()
    wire.strike = None
    cloud.run_until_idle()
    header, events = cloud.log.header("acme", run), cloud.events(run)
    assert header is not None
    state = require_sound(header, events, where)
    require_settled(state, events, where)
    require_session_goes_on(cloud.log, header)
    assert state.ended is not None
    assert state.ended.answer == "All done.", where
    for balance in cloud.ledger.balances("acme", "ann", at=cloud.clock.now()).values():
        assert balance.limit_micros - balance.remaining_micros == header.spent_micros, where
    require_counted(cloud, state, where)
    assert not cloud.lines.take("acme", slots=1, at=cloud.clock.now()), where
    assert not any("ids" in row for row in rows(cloud.log) if row["sk"] == SLOTS), where
    result, effects = state.turns[0].results["call_1_0"], cloud.effects[f"{tool} {run}/call_1_0"]
    if isinstance(result, ToolOutcomeUnknown):
        assert effects <= 1, where
    elif "limits_unavailable" in result.content or "controls_unavailable" in result.content:
        assert effects == 0, where
    else:  # a tool's room that can't read the log says so, and does nothing
        assert effects == (1 if result.outcome == "ok" else 0), where
