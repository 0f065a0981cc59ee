"""How conflicts and waiting grow with the runs of one tenant that are under way at once: the real adapters on moto.

DynamoDB cancels a transaction that meets another one at an item (`TransactionConflict`); moto knows no such thing, so a
transaction here holds its items for a while, and one that comes in that while is cancelled as DynamoDB does it. Times
are virtual: what a call to DynamoDB, the model and the tool take is set below, everything else takes none. The waiting
that is left is that of the adapters' own retries.
"""

import copy
import json
import random
import statistics
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import boto3
from botocore.config import Config
from moto import mock_aws
from moto.dynamodb.models.table import Table

from agent.aws.dynamodb import Backoff
from agent.aws.ledger import ATTEMPTS, DynamoDbLedger
from agent.aws.run_log import DynamoDbRunLog
from agent.errors import TryLater
from agent.ports.model import ModelPart, ModelRequest
from agent.ports.tool_room import ToolReply
from agent.pricing import Prices
from agent.release import Release
from agent.runtime import Runtime
from agent.testing.clock import FakeClock
from agent.testing.cloud import MemoryCloud
from agent.testing.crash import Process
from agent.testing.limits import MemoryLimitBook
from agent.testing.model import ScriptedModel, asks, says
from agent.testing.tables import create_table
from bench.run_cost import AGENT
from bench.virtual_time import VirtualTime
from stacks.config import STAGES
from support_desk.tools import TOOLS

TENANT = "acme"
CONCURRENT = (1, 10, 30, 100)
ROUNDS = 3

READ_S = 0.004
TRANSACTION_S = 0.008
"""All of it with its items held: the longer, the more conflicts. A transaction of a few items takes about as long."""
MODEL_S = 0.5
"""To an answer, each of the two. A slow model spreads the transactions, so a fast one is the harder case."""
TOOL_S = 0.05
ARRIVAL_S = 1.0
"""The time in which all runs are asked for: shorter than a run takes, so that they are all under way at once."""
MAX_TRIES = 20


@dataclass(frozen=True)
class Contention:
    """One number of concurrent runs: medians over the rounds, times in virtual milliseconds."""

    runs: int
    median_ms: float
    """From the question until the run has ended, half of the runs; the next, 19 of 20."""
    p95_ms: float
    slower: float
    """The median, by that of a run alone."""
    transactions: float
    """Sent per run, repeated ones included."""
    conflicts: float
    """Per run: each is a transaction that was cancelled and sent again."""
    given_up: float
    """Per run: how often the bounded retries were used up, so that somebody has to ask or be woken again."""
    hottest: str
    """The item most conflicts were about, and its share of them."""


@dataclass
class ConflictingTable:
    """Stands between a client and moto: lets time pass, holds a transaction's items, and cancels what meets them."""

    time: VirtualTime
    sent: int = 0
    conflicts: Counter[str] = field(default_factory=Counter)
    """By item."""
    _held: set[str] = field(default_factory=set)
    _touched: set[str] = field(default_factory=set)
    """Partitions of the transaction that moto carries out."""

    def plug(self, client: Any) -> Any:  # noqa: ANN401 - a client of boto3
        """Put this before every call of a client."""
        client.meta.events.register("before-call.dynamodb", self._before)
        return client

    def _before(self, model: Any, params: dict[str, Any], **_: object) -> Any:  # noqa: ANN401 - botocore's
        body = json.loads(params["body"])
        if model.name != "TransactWriteItems":
            self.time.sleep(READ_S)
            written = f"{body['TableName']} {_text(body.get('Key') or body['Item'])}" if _writes(model.name) else None
            return _answer("TransactionConflictException") if written in self._held else None
        self.sent += 1
        keys = [_key(write) for write in body["TransactItems"]]
        met = self._held.intersection(keys)
        if met:
            self.conflicts.update(met)
            self.time.sleep(TRANSACTION_S)
            reasons = [{"Code": "TransactionConflict" if key in met else "None"} for key in keys]
            return _answer("TransactionCanceledException", CancellationReasons=reasons)
        self._held.update(keys)
        self.time.sleep(TRANSACTION_S)
        self._held.difference_update(keys)
        self._touched = {key.split()[1] for key in keys}
        return None  # moto carries it out, which takes no time

    @contextmanager
    def copying_little(self) -> Iterator[None]:
        """Let moto copy what a transaction touches, to undo it if need be.

        It copies whole tables, once for each item of each transaction, and would take minutes over what is seconds.
        """
        Table.__deepcopy__ = lambda table, memo: self._copy(table, memo)  # type: ignore[attr-defined]
        try:
            yield
        finally:
            del Table.__deepcopy__  # type: ignore[attr-defined]

    def _copy(self, table: Any, memo: dict[int, Any]) -> Any:  # noqa: ANN401 - moto's
        partitions = copy.copy(table.items)
        for key, rows in table.items.items():
            if key.value in self._touched:
                partitions[key] = copy.deepcopy(rows, memo)
        copied = copy.copy(table)
        copied.items = partitions
        return copied


def _writes(operation: str) -> bool:
    return operation in {"PutItem", "UpdateItem", "DeleteItem"}


def _key(write: dict[str, Any]) -> str:
    [what] = write.values()
    return f"{what['TableName']} {_text(what.get('Key') or what['Item'])}"


def _text(item: dict[str, Any]) -> str:
    return f"{item['pk']['S']} {item['sk']['S']}"


def _answer(code: str, **members: object) -> Any:  # noqa: ANN401 - botocore's
    return SimpleNamespace(status_code=400), {"Error": {"Code": code, "Message": "held"}, **members}


class BusyCloud(MemoryCloud):
    """The support desk on DynamoDB, with a model and tools that take their time."""

    def __init__(self, client: Any, time: VirtualTime, seed: int) -> None:  # noqa: ANN401 - a client of boto3
        rng = random.Random(seed)
        backoff = Backoff(sleep=time.sleep, random=rng.random)
        super().__init__(
            Release.read(AGENT, STAGES["local"].release),
            TOOLS,
            ScriptedModel(asks(("lookup_order", {"order_id": "1001"})), says("It is on its way.")),
            prices=Prices.read(),
            log=DynamoDbRunLog(client, "runs", backoff=backoff, pick=rng.randrange),
            ledger=DynamoDbLedger(
                client,
                "ledger",
                MemoryLimitBook(),
                shards=STAGES["prod"].platform_shards,
                backoff=replace(backoff, attempts=ATTEMPTS),
                pick=rng.randrange,
            ),
        )
        self.clock = cast("FakeClock", time)  # which nobody has to move on
        self.time = time
        self.answers = self.model
        self.given_up = 0
        self.listen_every_s = 3600  # real seconds mean nothing here

    def runtime(self, process: Process | None = None) -> Runtime:
        """Return what an invocation works with."""
        return replace(super().runtime(process), model=self, tool_runner=self)

    def stream(self, request: ModelRequest, *, timeout_s: float) -> Iterator[ModelPart]:
        """See `ports.Model`."""
        self.time.sleep(MODEL_S)
        yield from self.answers.stream(request, timeout_s=timeout_s)

    def run(self, *_: object, **__: object) -> ToolReply:
        """See `ports.ToolRunner`."""
        self.time.sleep(TOOL_S)
        return ToolReply(outcome="ok", content='{"status":"shipped"}')

    def serve(self, user_id: str) -> float:
        """Ask as this user, see to it that the run ends, and return how long that took, in milliseconds."""
        began = self.time.now()
        run_id = ""
        for _ in range(MAX_TRIES):
            try:
                run_id = run_id or self.ask("Where is order 1001?", user_id=user_id, tenant_id=TENANT)
            except TryLater:
                self.given_up += 1
                self.time.sleep(1)
                continue
            header = self.invoke(TENANT, run_id)
            if header is not None and header.ended_at is not None:
                return (header.ended_at - began).total_seconds() * 1000
            self.given_up += 1
        raise RuntimeError(f"{run_id or 'a run'} does not end")


@dataclass(frozen=True)
class Round:
    """What became of the runs of one round."""

    waits_ms: list[float]
    sent: int
    conflicts: Counter[str]
    given_up: int


def measure() -> list[Contention]:
    """Return what becomes of each number of concurrent runs; the rounds take turns."""
    rounds: dict[int, list[Round]] = {runs: [] for runs in CONCURRENT}
    for seed in range(ROUNDS):
        for runs in CONCURRENT:
            rounds[runs].append(take_round(runs, seed))
    alone = statistics.median(wait for taken in rounds[CONCURRENT[0]] for wait in taken.waits_ms)
    return [_summary(runs, taken, alone) for runs, taken in rounds.items()]


def _summary(runs: int, rounds: list[Round], alone_ms: float) -> Contention:
    median_ms = statistics.median(statistics.median(taken.waits_ms) for taken in rounds)
    conflicts = sum((taken.conflicts for taken in rounds), Counter[str]())
    [(item, most)] = conflicts.most_common(1) or [("none", 0)]
    return Contention(
        runs=runs,
        median_ms=median_ms,
        p95_ms=statistics.median(sorted(taken.waits_ms)[(len(taken.waits_ms) - 1) * 19 // 20] for taken in rounds),
        slower=median_ms / alone_ms,
        transactions=statistics.median(taken.sent for taken in rounds) / runs,
        conflicts=statistics.median(taken.conflicts.total() for taken in rounds) / runs,
        given_up=statistics.median(taken.given_up for taken in rounds) / runs,
        hottest=f"{item} ({most / conflicts.total():.0%})" if most else "none",
    )


def take_round(runs: int, seed: int) -> Round:
    """Let so many people ask within `ARRIVAL_S`, and return what became of it."""
    time = VirtualTime()
    with mock_aws():
        # The bounded retries are the adapters' own: the SDK's would sleep for real.
        config = Config(retries={"mode": "standard", "total_max_attempts": 1})
        client = boto3.Session("test", "test", region_name="eu-central-1").client("dynamodb", config=config)
        create_table(client, "runs", by_user=("user_key", "run_id"), by_due=("due_shard", "due_at"))
        create_table(client, "ledger")
        table = ConflictingTable(time)
        cloud = BusyCloud(table.plug(client), time, seed)
        waits_ms: list[float] = []

        def ask(user_id: str) -> None:
            waits_ms.append(cloud.serve(user_id))

        rng = random.Random(seed)
        with table.copying_little():
            time.let_all([partial(ask, "first")], starts_s=[0])  # makes the period's accounts
            waits_ms.clear()
            table.sent = 0
            starts_s = [rng.uniform(0, ARRIVAL_S) for _ in range(runs)]
            time.let_all([partial(ask, f"user-{n}") for n in range(runs)], starts_s=starts_s)
        return Round(waits_ms, table.sent, table.conflicts, cloud.given_up)
