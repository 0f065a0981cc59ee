"""The contract of limits as data: what every implementation of `ports.LimitBook` keeps."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.aws.dynamodb import Backoff
from agent.aws.ledger import DynamoDbLedger
from agent.aws.limits import CACHE_S, DynamoDbLimitBook
from agent.errors import InputInvalid
from agent.limits import Limits, LimitScope
from agent.ports.limits import LimitBook
from agent.ports.money import Balance, Grant, Ledger
from agent.testing.clock import FakeClock
from agent.testing.ledger import MemoryLedger
from agent.testing.limits import MemoryLimitBook
from agent.testing.tables import create_table
from tests.contracts.facts import NOW
from tests.contracts.wire import Wire

tables = itertools.count()
DAY, TENANT_DAY = "pay.cents.user_day", "pay.cents.tenant_day"
ALLOWANCES = {DAY: 50, TENANT_DAY: 200}
DEFAULTS = Limits(100, 1_000, 10_000, user_runs=2, tenant_runs=20, tenant_jobs=5, allowances=ALLOWANCES)
PLATFORM, ACME, ANN = LimitScope(), LimitScope("acme"), LimitScope("acme", "ann")


class Desk:
    """A book, a ledger that keeps to it, and a clock."""

    def __init__(self, book: LimitBook, ledger: Ledger, clock: FakeClock) -> None:
        self.book, self.ledger, self.clock = book, ledger, clock

    def change(self, scope: LimitScope, name: Any, value: int | None) -> None:
        self.book.change(scope, name, value, by="olga", reason="a test")
        self.clock.advance(CACHE_S)


@pytest.fixture(params=["memory", "dynamodb"])
def desk(request: pytest.FixtureRequest) -> Desk:
    clock = FakeClock(NOW)
    if request.param == "memory":
        book = MemoryLimitBook(DEFAULTS)
        return Desk(book, MemoryLedger(book), clock)
    aws: Callable[[str], Any] = request.getfixturevalue("aws")
    backoff: Backoff = request.getfixturevalue("backoff")
    number = next(tables)
    for name in ("control", "money"):
        create_table(aws("dynamodb"), f"{name}-{number}")
    stored = DynamoDbLimitBook(aws("dynamodb"), f"control-{number}", DEFAULTS, clock=clock, backoff=backoff)
    return Desk(stored, DynamoDbLedger(aws("dynamodb"), f"money-{number}", stored, 2, backoff=backoff), clock)


def test_the_narrowest_scope_that_sets_a_limit_wins(desk: Desk) -> None:
    assert desk.book.of("acme", "ann") == DEFAULTS
    desk.change(PLATFORM, "user_runs", 3)
    desk.change(ACME, "user_runs", 4)
    desk.change(ANN, "user_runs", 0)
    desk.change(ACME, "tenant_jobs", 7)
    assert desk.book.of("acme", "ann") == replace(DEFAULTS, user_runs=0, tenant_jobs=7)
    assert desk.book.of("acme", "bob") == desk.book.of("acme") == replace(DEFAULTS, user_runs=4, tenant_jobs=7)
    assert desk.book.of("globex", "ann") == replace(DEFAULTS, user_runs=3)


def test_what_a_tools_calls_may_use_up_is_set_like_any_limit(desk: Desk) -> None:
    desk.change(PLATFORM, DAY, 40)
    desk.change(ACME, TENANT_DAY, 100)
    desk.change(ANN, DAY, 0)
    assert desk.book.of("acme", "ann").allowances == {DAY: 0, TENANT_DAY: 100}
    assert desk.book.of("acme", "bob").allowances == {DAY: 40, TENANT_DAY: 100}
    assert desk.book.of("globex", "ann").allowances == {DAY: 40, TENANT_DAY: 200}
    assert desk.book.overrides(ANN) == {DAY: 0}
    desk.change(ANN, DAY, None)
    assert desk.book.of("acme", "ann").allowance("pay", "cents.user_day") == 40


def test_a_limit_that_is_taken_away_lets_the_wider_one_hold_again(desk: Desk) -> None:
    desk.change(ACME, "user_runs", 4)
    desk.change(ANN, "user_runs", 9)
    assert desk.book.overrides(ANN) == {"user_runs": 9}
    desk.change(ANN, "user_runs", None)
    desk.change(ANN, "user_runs", None)
    assert desk.book.overrides(ANN) == {}
    assert desk.book.of("acme", "ann").user_runs == 4


@pytest.mark.parametrize(
    ("scope", "name", "value"),
    [
        (ANN, "tenant_runs", 1),
        (ANN, "platform_month_micros", 1),
        (ACME, "platform_month_micros", 1),
        (PLATFORM, "sunshine", 1),
        (ANN, TENANT_DAY, 1),
        (PLATFORM, "pay.cent.user_day", 1),
        (PLATFORM, "play.cents.user_day", 1),
        (PLATFORM, DAY, -1),
        (PLATFORM, DAY, 10**12 + 1),
        (PLATFORM, "user_runs", -1),
        (PLATFORM, "user_runs", 10_001),
        (PLATFORM, "user_day_micros", 10**12 + 1),
    ],
)
def test_what_a_scope_has_no_say_in_is_refused(desk: Desk, scope: LimitScope, name: str, value: int) -> None:
    with pytest.raises(InputInvalid, match=r"."):
        desk.change(scope, name, value)
    assert desk.book.of("acme", "ann") == DEFAULTS


def ask(desk: Desk, run: str, amount: int) -> Any:
    return desk.ledger.grant(Grant("acme", "ann", run, 1, amount, amount), at=NOW)


def test_a_raised_budget_holds_in_the_period_that_has_begun(desk: Desk) -> None:
    assert ask(desk, "r1", 90) == 90
    assert ask(desk, "r2", 60) == "user"
    desk.change(ANN, "user_day_micros", 150)
    assert desk.ledger.balances("acme", "ann", at=NOW)["user"] == Balance(150, 60)
    assert ask(desk, "r3", 60) == 60
    assert ask(desk, "r4", 1) == "user"


def test_a_lowered_budget_refuses_until_it_covers_what_is_spent_and_loses_no_money(desk: Desk) -> None:
    assert ask(desk, "r1", 90) == 90
    desk.change(ANN, "user_day_micros", 50)
    assert ask(desk, "r2", 1) == "user"
    assert desk.ledger.balances("acme", "ann", at=NOW)["user"] == Balance(50, 0)
    desk.change(ANN, "user_day_micros", None)
    assert ask(desk, "r3", 10) == 10
    assert desk.ledger.balances("acme", "ann", at=NOW)["user"] == Balance(100, 0)


def test_a_changed_limit_of_the_platform_is_spread_over_its_shards(desk: Desk) -> None:
    assert ask(desk, "r1", 50) == 50
    desk.change(PLATFORM, "platform_month_micros", 50)
    assert ask(desk, "r2", 26) == "platform"
    desk.change(PLATFORM, "platform_month_micros", 200)
    assert ask(desk, "r3", 25) == 25
    assert desk.ledger.balances("acme", "ann", at=NOW)["platform"] == Balance(200, 125)


def test_limits_are_read_once_in_five_seconds(aws: Callable[[str], Any], backoff: Backoff, wire: Wire) -> None:
    create_table(aws("dynamodb"), "control-cached")
    clock = FakeClock(NOW)
    book = DynamoDbLimitBook(aws("dynamodb"), "control-cached", DEFAULTS, clock=clock, backoff=backoff)
    elsewhere = DynamoDbLimitBook(aws("dynamodb"), "control-cached", DEFAULTS, clock=clock, backoff=backoff)
    wire.calls.clear()
    for _ in range(3):
        book.of("acme", "ann")
    clock.advance(CACHE_S - 0.1)
    elsewhere.change(ANN, "user_runs", 9, by="olga", reason="a test")
    assert book.of("acme", "ann").user_runs == 2
    assert wire.calls == {"BatchGetItem": 2, "TransactWriteItems": 1}
    clock.advance(0.1)
    assert book.of("acme", "ann").user_runs == 9
    book.change(ANN, "user_runs", 8, by="olga", reason="a test")
    assert book.of("acme", "ann").user_runs == 8
