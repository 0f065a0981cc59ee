"""What a run of two turns and one tool costs beyond the model's own time, which is none: the model here is instant.

In memory it is the core alone: folding, deciding, validating, appending. On moto it is the real adapters of log and
ledger, and what is counted is their calls to AWS. (Their time there is moto's and says nothing.)
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from moto import mock_aws

from agent.aws.ledger import DynamoDbLedger
from agent.aws.run_log import DynamoDbRunLog
from agent.events import Payload, RunClaimed
from agent.pricing import Prices
from agent.release import Release
from agent.run_header import RunHeader
from agent.testing.cloud import MemoryCloud
from agent.testing.crash import Strike
from agent.testing.limits import MemoryLimitBook
from agent.testing.model import ScriptedModel, asks, says
from agent.testing.run_log import MemoryRunLog
from agent.testing.tables import create_table
from agent.testing.tenant_data import MemoryTable, MemoryTenantData
from stacks.config import STAGES
from support_desk import seed
from support_desk.tools import TOOLS

TENANT = "acme"
AGENT = Path(__file__).resolve().parent.parent / "support_desk"


@dataclass(frozen=True)
class RunCost:
    """Times are medians over the rounds; calls are of one run, exact."""

    wall_ms: float
    cpu_ms: float
    calls: dict[str, int]
    """From the request to the money's return, by operation. Calls of the tool's own room are not among them."""
    turn_calls: dict[str, int]
    """What one turn more, with one tool call, adds to them: two transactions of the log, if nothing has changed."""
    resumed_after_a_kill_ms: float
    """In memory: from the death of a process in its tool call to the first event of the run's next holder."""


def measure(rounds: int) -> RunCost:
    """Return what a run costs."""
    cloud, calls, more = _cloud(), count_calls(), Counter(count_calls(tool_turns=2))
    samples = [_time(lambda: _run(cloud)) for _ in range(rounds + 1)][1:]  # the first one warms up
    return RunCost(
        wall_ms=statistics.median(wall for wall, _ in samples),
        cpu_ms=statistics.median(cpu for _, cpu in samples),
        calls=calls,
        turn_calls=dict(more - Counter(calls)),
        resumed_after_a_kill_ms=statistics.median([_revive() for _ in range(rounds + 1)][1:]),
    )


class _TimedLog(MemoryRunLog):
    """Notes when a run was claimed."""

    def __init__(self) -> None:
        super().__init__()
        self.claimed_s: list[float] = []

    def append(self, header: RunHeader, payloads: Sequence[Payload], **how: Any) -> RunHeader:  # noqa: ANN401 - the twin's
        after = super().append(header, payloads, **how)
        if isinstance(payloads[0], RunClaimed):
            self.claimed_s.append(time.perf_counter())
        return after


class _TimedStrike(Strike):
    """Kills the process that calls the tool, and notes when."""

    killed_s = 0.0

    def hits(self, name: str) -> bool:
        if self.killed_s or name != "InProcessToolRunner.run":
            return False
        self.killed_s = time.perf_counter()
        return True


def _revive() -> float:
    log, strike = _TimedLog(), _TimedStrike()
    cloud = _cloud(log=log, strike=strike)
    run_id = cloud.ask("Where is order 1001?", tenant_id=TENANT)
    for _ in range(2):
        cloud.invoke(*cloud.wake.runs.popleft())
    header = log.header(TENANT, run_id)
    if header is None or header.reason != "answered":
        raise RuntimeError(f"the run did not go on: {header}")
    return (log.claimed_s[1] - strike.killed_s) * 1000


def count_calls(*, tool_turns: int = 1) -> dict[str, int]:
    """Return how many calls of each AWS operation one run makes, tool and model calls included."""
    counted: Counter[str] = Counter()
    with mock_aws():
        client: Any = boto3.Session("test", "test", region_name="eu-central-1").client("dynamodb")
        create_table(client, "runs", by_user=("user_key", "run_id"), by_due=("due_shard", "due_at"))
        create_table(client, "ledger")
        cloud = _cloud(
            tool_turns,
            log=DynamoDbRunLog(client, "runs"),
            ledger=DynamoDbLedger(client, "ledger", MemoryLimitBook(), shards=STAGES["prod"].platform_shards),
        )
        _run(cloud)  # the first one makes the period's budget items
        client.meta.events.register("before-call", lambda model, **_: counted.update([f"dynamodb:{model.name}"]))
        before = cloud.invocations
        _run(cloud)
    counted["lambda:InvokeFunction"] = cloud.invocations - before + tool_turns  # the wake, and the tool
    counted["bedrock:ConverseStream"] = tool_turns + 1
    return dict(sorted(counted.items()))


def _cloud(tool_turns: int = 1, **stores: Any) -> MemoryCloud:  # noqa: ANN401 - the constructor's own types
    looks_up = asks(("lookup_order", {"order_id": "1001"}))
    model = ScriptedModel(*[looks_up] * tool_turns, says("It is on its way."))
    data = MemoryTable()
    tenant = MemoryTenantData(data, TENANT)
    for kind, item_id, item in seed.items(TENANT):
        tenant.put(kind, item_id, item)
    release = Release.read(AGENT, STAGES["local"].release)
    cloud = MemoryCloud(release, TOOLS, model, prices=Prices.read(), data=data, **stores)
    cloud.listen_every_s = 3600  # a slow machine must not count more calls than a fast one
    return cloud


def _run(cloud: MemoryCloud) -> None:
    run_id = cloud.ask("Where is order 1001?", tenant_id=TENANT)
    cloud.invoke(*cloud.wake.runs.popleft())
    header = cloud.log.header(TENANT, run_id)
    if header is None or header.tools_called != ("lookup_order",) or header.reason != "answered":
        raise RuntimeError(f"not the run that was to be measured: {header}")


def _time(action: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return (time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000
