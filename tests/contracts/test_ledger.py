"""The ledger's contract: what every implementation of `ports.Ledger` keeps."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.aws.accounts import DynamoDbAccounts
from agent.aws.dynamodb import Backoff
from agent.aws.ledger import DynamoDbLedger
from agent.errors import ConfigurationInvalid, StoreUnavailable
from agent.limits import Limits
from agent.ports.money import Balance, Grant, Ledger
from agent.run_header import RunHeader, advance
from agent.testing.ledger import MemoryLedger
from agent.testing.limits import MemoryLimitBook
from agent.testing.tables import create_table
from tests.contracts.conftest import Sleeps
from tests.contracts.facts import NOW, new_run
from tests.contracts.racing import race
from tests.contracts.wire import Fault, Wire, cancelled, error, first, lose_reply, lose_request

tables = itertools.count()
Make = Callable[..., Ledger]


@pytest.fixture(params=["memory", "dynamodb"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a ledger with these limits for user, tenant and platform."""
    if request.param == "memory":
        return lambda user, tenant, platform: MemoryLedger(MemoryLimitBook(Limits(user, tenant, platform)))
    make_dynamodb: Make = request.getfixturevalue("dynamodb")
    return make_dynamodb


@pytest.fixture
def dynamodb(aws: Callable[[str], Any], backoff: Backoff, wire: Wire) -> Make:
    def made(user: int, tenant: int, platform: int, *, shards: int = 1) -> DynamoDbLedger:
        table = f"ledger-{next(tables)}"
        create_table(aws("dynamodb"), table)
        turn = itertools.count()
        ledger = DynamoDbLedger(
            aws("dynamodb"),
            table,
            MemoryLimitBook(Limits(user, tenant, platform)),
            shards,
            backoff=backoff,
            pick=lambda n: next(turn) % n,
        )
        wire.calls.clear()
        return ledger

    return made


def ask(run: str = "run_1", number: int = 1, *, want: int = 40, need: int = 10, **who: str) -> Grant:
    return Grant(who.get("tenant", "acme"), who.get("user", "ann"), run, number, want, need)


def ended(run: str = "run_1", *, granted: int, unspent: int, tenant: str = "acme", user: str = "ann") -> RunHeader:
    header = advance(None, new_run(tenant=tenant, user=user).event)
    return header.model_copy(update={"run_id": run, "granted_micros": granted, "slice_micros": unspent})


def left(ledger: Ledger, *, tenant: str = "acme", user: str = "ann", at: datetime = NOW) -> tuple[int, int, int]:
    balances = ledger.balances(tenant, user, at=at)
    return (
        balances["user"].remaining_micros,
        balances["tenant"].remaining_micros,
        balances["platform"].remaining_micros,
    )


def test_a_grant_is_taken_from_user_tenant_and_platform_at_once(make: Make) -> None:
    ledger = make(100, 1000, 10_000)
    assert left(ledger) == (100, 1000, 10_000)
    assert ledger.grant(ask(), at=NOW) == 40
    assert left(ledger) == (60, 960, 9960)
    assert left(ledger, user="bob") == (100, 960, 9960)
    assert left(ledger, tenant="globex") == (100, 1000, 9960)


def test_balances_tell_limit_and_rest(make: Make) -> None:
    ledger = make(100, 1000, 10_000)
    ledger.grant(ask(), at=NOW)
    assert ledger.balances("acme", "ann", at=NOW) == {
        "user": Balance(100, 60),
        "tenant": Balance(1000, 960),
        "platform": Balance(10_000, 9960),
    }


def test_asking_again_for_the_same_grant_gives_the_same_and_takes_nothing(make: Make) -> None:
    ledger = make(100, 1000, 10_000)
    assert ledger.grant(ask(), at=NOW) == 40
    assert ledger.grant(ask(want=70), at=NOW) == 40
    assert ledger.grant(ask(number=2), at=NOW) == 40
    assert ledger.grant(ask(number=3), at=NOW) == 10
    assert ledger.grant(ask(number=3), at=NOW) == 10
    assert ledger.grant(ask(number=1), at=NOW + timedelta(days=1)) == 40
    assert left(ledger) == (10, 910, 9910)


@pytest.mark.parametrize(
    ("limits", "short"),
    [
        ((9, 1000, 1000), "user"),
        ((1000, 9, 1000), "tenant"),
        ((1000, 1000, 9), "platform"),
        ((9, 9, 9), "user"),
        ((1000, 9, 9), "tenant"),
    ],
)
def test_the_scope_that_has_too_little_is_named_and_nothing_is_taken(
    make: Make, limits: tuple[int, int, int], short: str
) -> None:
    ledger = make(*limits)
    assert ledger.grant(ask(), at=NOW) == short
    assert left(ledger) == limits


@pytest.mark.parametrize(("limits"), [(19, 1000, 1000), (1000, 19, 1000), (1000, 1000, 19), (1000, 19, 12)])
def test_where_the_wish_is_too_large_the_need_is_granted(make: Make, limits: tuple[int, int, int]) -> None:
    ledger = make(*limits)
    assert ledger.grant(ask(), at=NOW) == 10
    assert left(ledger) == tuple(limit - 10 for limit in limits)


@pytest.mark.parametrize("short", ["user", "tenant", "platform"])
def test_a_scope_runs_dry_and_is_named_once_it_has(make: Make, short: str) -> None:
    plenty = dict.fromkeys(("user", "tenant", "platform"), 1000) | {short: 95}
    ledger = make(plenty["user"], plenty["tenant"], plenty["platform"])
    answers = [ledger.grant(ask(f"run_{n}"), at=NOW) for n in range(5)]
    assert answers == [40, 40, 10, short, short]


def test_a_refusal_is_not_remembered(make: Make) -> None:
    ledger = make(40, 1000, 1000)
    ledger.grant(ask("run_1"), at=NOW)
    assert ledger.grant(ask("run_2"), at=NOW) == "user"
    assert ledger.grant(ask("run_2"), at=NOW + timedelta(days=1)) == 40


def test_users_have_a_day_and_tenants_and_platform_a_month_in_utc(make: Make) -> None:
    ledger = make(100, 1000, 10_000)
    late = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
    ledger.grant(ask(), at=late - timedelta(days=1))
    ledger.grant(ask("run_2"), at=late)
    assert left(ledger, at=late) == (60, 920, 9920)
    assert left(ledger, at=late + timedelta(seconds=1)) == (100, 1000, 10_000)


def test_what_is_left_flows_back_once(make: Make) -> None:
    ledger = make(100, 1000, 10_000)
    ledger.grant(ask(), at=NOW)
    ledger.grant(ask(number=2), at=NOW)
    header = ended(granted=80, unspent=25)
    ledger.give_back(header, at=NOW)
    ledger.give_back(header, at=NOW + timedelta(hours=1))
    assert left(ledger) == (45, 945, 9945)


def test_a_run_that_spent_everything_or_more_gives_nothing_back(make: Make) -> None:
    ledger = make(100, 1000, 10_000)
    ledger.grant(ask(), at=NOW)
    ledger.give_back(ended(granted=40, unspent=0), at=NOW)
    ledger.give_back(ended("run_2", granted=0, unspent=0), at=NOW)
    assert left(ledger) == (60, 960, 9960)


def test_money_flows_back_to_the_periods_it_came_from_the_newest_first(make: Make) -> None:
    ledger = make(100, 1000, 10_000)
    before = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)
    after = before + timedelta(minutes=2)
    ledger.grant(ask(), at=before)
    ledger.grant(ask(number=2), at=after)
    ledger.give_back(ended(granted=80, unspent=55), at=after)
    assert left(ledger, at=before) == (75, 975, 9975)
    assert left(ledger, at=after) == (100, 1000, 10_000)


def test_a_grant_that_no_holder_lived_to_record_flows_back_too(make: Make) -> None:
    ledger = make(100, 1000, 10_000)
    ledger.grant(ask(), at=NOW)
    ledger.grant(ask(number=2), at=NOW)
    ledger.give_back(ended(granted=40, unspent=5), at=NOW)
    assert left(ledger) == (65, 965, 9965)


def test_after_the_money_went_back_a_late_holder_gets_none(make: Make) -> None:
    ledger = make(100, 1000, 10_000)
    ledger.grant(ask(), at=NOW)
    ledger.give_back(ended(granted=40, unspent=40), at=NOW)
    assert ledger.grant(ask(number=1), at=NOW) == 40, "as before: it was spent, or has flowed back"
    assert ledger.grant(ask(number=2), at=NOW) == 0
    assert left(ledger) == (100, 1000, 10_000)


@pytest.mark.parametrize("short", ["user", "tenant", "platform"])
def test_sixty_runs_racing_for_the_last_of_a_budget_never_overspend_it(make: Make, short: str) -> None:
    plenty = dict.fromkeys(("user", "tenant", "platform"), 10**6) | {short: 100}
    ledger = make(plenty["user"], plenty["tenant"], plenty["platform"])
    answers = race([partial(ledger.grant, ask(f"run_{n}", want=4, need=4), at=NOW) for n in range(60)])
    assert sorted(answers, key=str) == [4] * 25 + [short] * 35
    assert ledger.balances("acme", "ann", at=NOW)[short].remaining_micros == 0  # type: ignore[index] # from the list


def test_many_holders_asking_for_one_grant_take_it_once(make: Make) -> None:
    ledger = make(1000, 1000, 10_000)
    assert race([lambda: ledger.grant(ask(), at=NOW) for _ in range(20)]) == [40] * 20
    assert left(ledger) == (960, 960, 9960)


def test_many_sweepers_giving_back_give_back_once(make: Make) -> None:
    ledger = make(1000, 1000, 10_000)
    ledger.grant(ask(), at=NOW)
    race([lambda: ledger.give_back(ended(granted=40, unspent=30), at=NOW) for _ in range(12)])
    assert left(ledger) == (990, 990, 9990)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["r1", "r2", "r3"]), st.integers(1, 60), st.integers(1, 60), st.booleans()),
        max_size=15,
    )
)
def test_money_is_neither_made_nor_lost(make: Make, steps: list[tuple[str, int, int, bool]]) -> None:
    """Whatever runs ask, spend and give back: what is left plus what they hold and spent is the limit."""
    ledger = make(90, 120, 150)
    granted = dict.fromkeys(["r1", "r2", "r3"], 0)
    number = dict.fromkeys(granted, 0)
    over: dict[str, int] = {}
    for run, a, b, ends in steps:
        if run in over:
            continue
        if ends:
            over[run] = min(a, granted[run])  # spent
            ledger.give_back(ended(run, granted=granted[run], unspent=granted[run] - over[run]), at=NOW)
            continue
        answer = ledger.grant(ask(run, number[run] + 1, want=max(a, b), need=min(a, b)), at=NOW)
        if isinstance(answer, int):
            assert answer in {max(a, b), min(a, b)}
            number[run] += 1
            granted[run] += answer
    gone = sum(over.get(run, held) for run, held in granted.items())
    assert left(ledger) == (90 - gone, 120 - gone, 150 - gone)
    assert gone <= 90


# --- on DynamoDB alone ------------------------------------------------------------------------------------------------


def test_the_platform_is_exhausted_only_when_every_shard_is(dynamodb: Make) -> None:
    ledger = dynamodb(10**6, 10**6, 100, shards=4)
    answers = [ledger.grant(ask(f"run_{n}", want=10, need=5), at=NOW) for n in range(16)]
    assert answers == [10] * 8 + [5] * 4 + ["platform"] * 4
    assert left(ledger)[2] == 0


def test_sixty_runs_racing_over_shards_never_overspend_them(dynamodb: Make) -> None:
    ledger = dynamodb(10**6, 10**6, 103, shards=4)
    answers = race([partial(ledger.grant, ask(f"run_{n}", want=4, need=4), at=NOW) for n in range(60)])
    granted = [a for a in answers if a == 4]
    assert left(ledger)[2] == 103 - 4 * len(granted)
    assert len(granted) == 24, "six in each share of 25 or 26"


def test_money_returns_to_the_shard_it_came_from(dynamodb: Make) -> None:
    ledger = dynamodb(10**6, 10**6, 80, shards=2)
    assert [ledger.grant(ask(f"run_{n}"), at=NOW) for n in range(2)] == [40, 40]
    for n in range(2):
        ledger.give_back(ended(f"run_{n}", granted=40, unspent=40), at=NOW)
    assert [ledger.grant(ask(f"run_{n}"), at=NOW) for n in range(2, 4)] == [40, 40]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(cancelled("TransactionConflict"), id="conflict"),
        pytest.param(cancelled("None", "None", "ThrottlingError", "None"), id="throttled shard"),
        pytest.param(error("ThrottlingException"), id="throttled"),
        pytest.param(lose_request, id="request lost"),
        pytest.param(lose_reply, id="reply lost after the commit"),
    ],
)
def test_passing_trouble_neither_loses_nor_doubles_money(dynamodb: Make, wire: Wire, fault: Fault) -> None:
    ledger = dynamodb(100, 1000, 10_000)
    wire.next("TransactWriteItems", fault, fault)
    assert ledger.grant(ask(), at=NOW) == 40
    assert left(ledger) == (60, 960, 9960)
    wire.next("TransactWriteItems", fault, fault)
    ledger.give_back(ended(granted=40, unspent=30), at=NOW)
    assert left(ledger) == (90, 990, 9990)


def test_without_an_answer_in_bounded_retries_there_is_no_money(dynamodb: Make, wire: Wire, sleeps: Sleeps) -> None:
    ledger = dynamodb(100, 1000, 10_000)
    wire.next("TransactWriteItems", *[cancelled("TransactionConflict")] * 50)
    with pytest.raises(StoreUnavailable):
        ledger.grant(ask(), at=NOW)
    assert len(sleeps) == 7
    wire.reset()
    assert left(ledger) == (100, 1000, 10_000)


def test_a_grant_decided_again_and_again_by_rivals_ends(dynamodb: Make, wire: Wire) -> None:
    ledger = dynamodb(100, 1000, 10_000, shards=2)
    wire.next("TransactWriteItems", *[cancelled("None", "None", "ConditionalCheckFailed", "None")] * 50)
    with pytest.raises(StoreUnavailable):
        ledger.grant(ask(), at=NOW)
    assert wire.calls["TransactWriteItems"] == 6


def test_a_grant_taken_while_the_run_is_given_back_is_given_back_with_it(dynamodb: Make, wire: Wire) -> None:
    ledger = dynamodb(100, 1000, 10_000)
    ledger.grant(ask(), at=NOW)

    def late_holder() -> None:
        assert ledger.grant(ask(number=2), at=NOW) == 40

    wire.next("TransactWriteItems", first(late_holder))
    ledger.give_back(ended(granted=40, unspent=40), at=NOW)
    assert left(ledger) == (100, 1000, 10_000)


@pytest.mark.parametrize("shards", [0, 51])
def test_a_number_of_shards_that_no_transaction_holds_is_refused(aws: Callable[[str], Any], shards: int) -> None:
    with pytest.raises(ConfigurationInvalid, match="platform_shards"):
        DynamoDbLedger(aws("dynamodb"), "ledger", MemoryLimitBook(), shards)


def test_what_each_step_costs_in_calls(dynamodb: Make, wire: Wire) -> None:
    ledger = dynamodb(100, 1000, 10_000, shards=4)
    ledger.grant(ask(), at=NOW)
    assert wire.calls == {"TransactWriteItems": 1}
    wire.calls.clear()
    ledger.give_back(ended(granted=40, unspent=30), at=NOW)
    assert wire.calls == {"Query": 1, "TransactWriteItems": 1}
    wire.calls.clear()
    ledger.give_back(ended(granted=40, unspent=30), at=NOW)
    assert wire.calls == {"Query": 1}
    wire.calls.clear()
    ledger.balances("acme", "ann", at=NOW)
    assert wire.calls == {"BatchGetItem": 1}


def test_those_who_only_look_see_a_user_and_the_tenant_and_not_the_platform(request: pytest.FixtureRequest) -> None:
    limits = MemoryLimitBook(Limits(100, 1_000, 10_000))
    grant = Grant("acme", "ann", "r1", 1, 30, 30)
    memory = MemoryLedger(limits)
    client = request.getfixturevalue("aws")("dynamodb")
    create_table(client, "money-to-look-at")
    stored = DynamoDbLedger(client, "money-to-look-at", limits, 2)
    looked: list[Any] = []
    for ledger, accounts in ((memory, memory), (stored, DynamoDbAccounts(client, "money-to-look-at", limits))):
        assert ledger.grant(grant, at=NOW) == 30
        looked.append(
            [accounts.own_balances("acme", user, at=NOW) for user in ("ann", "bob", "")]
            + [accounts.own_balances("globex", "ann", at=NOW)]
        )
    assert looked[0] == looked[1]
    assert looked[0] == [
        {"user": Balance(100, 70), "tenant": Balance(1_000, 970)},
        {"user": Balance(100, 100), "tenant": Balance(1_000, 970)},
        {"tenant": Balance(1_000, 970)},
        {"user": Balance(100, 100), "tenant": Balance(1_000, 1_000)},
    ]
