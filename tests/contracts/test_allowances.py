"""The contract of allowances: what every implementation of `ports.Allowances` keeps."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.aws.allowances import DynamoDbAllowances
from agent.aws.dynamodb import Backoff
from agent.errors import LogMoved, StoreUnavailable
from agent.limits import Limits, LimitScope
from agent.ports.limits import Allowances, Reached, Taking
from agent.testing.allowances import MemoryAllowances
from agent.testing.limits import MemoryLimitBook
from agent.testing.tables import create_table
from tests.contracts.conftest import Sleeps
from tests.contracts.facts import NOW
from tests.contracts.racing import race
from tests.contracts.wire import Fault, Wire, cancelled, error, first, lose_reply, lose_request

tables = itertools.count()
USER, TENANT, RATE = "cents.user_day", "cents.tenant_day", "calls.user_minute"
TOMORROW = datetime(2026, 1, 2, tzinfo=UTC)


class Till:
    """Allowances of the tool `pay`, and the book they keep to."""

    def __init__(self, allowances: Allowances, book: MemoryLimitBook) -> None:
        self.allowances, self.book = allowances, book

    def take(
        self, run: str = "run_1", call: str = "call_1_0", *, cents: int = 10, at: datetime = NOW
    ) -> Reached | None:
        """Take cents of user and tenant, and one call of the rate."""
        uses = {USER: cents, TENANT: cents, RATE: 1}
        return self.allowances.take(Taking("acme", "ann", run, call, "pay", uses), at=at)

    def take_of(self, tenant: str, user: str, cents: int, *, run: str = "run_2", at: datetime = NOW) -> Reached | None:
        return self.allowances.take(Taking(tenant, user, run, "call_1_0", "pay", {USER: cents, TENANT: cents}), at=at)

    def used(self, tenant: str = "acme", user: str = "ann", *, at: datetime = NOW) -> tuple[int, int, int]:
        used = self.allowances.used(tenant, user, "pay", [USER, TENANT, RATE], at=at)
        return used[USER], used[TENANT], used[RATE]

    def give_back(self, run: str = "run_1", call: str = "call_1_0", *, at: datetime = NOW) -> None:
        self.allowances.give_back("acme", run, call, at=at)


Make = Callable[..., Till]


@pytest.fixture(params=["memory", "dynamodb"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a till with these limits."""
    if request.param == "memory":

        def in_memory(user: int = 100, tenant: int = 1000, rate: int = 1000) -> Till:
            book = a_book(user, tenant, rate)
            return Till(MemoryAllowances(book), book)

        return in_memory
    make_dynamodb: Make = request.getfixturevalue("dynamodb")
    return make_dynamodb


@pytest.fixture
def dynamodb(aws: Callable[[str], Any], backoff: Backoff, wire: Wire) -> Make:
    def made(user: int = 100, tenant: int = 1000, rate: int = 1000) -> Till:
        table, book = f"allowances-{next(tables)}", a_book(user, tenant, rate)
        create_table(aws("dynamodb"), table)
        wire.calls.clear()
        return Till(DynamoDbAllowances(aws("dynamodb"), table, book, backoff=backoff), book)

    return made


def a_book(user: int, tenant: int, rate: int) -> MemoryLimitBook:
    allowances = {f"pay.{USER}": user, f"pay.{TENANT}": tenant, f"pay.{RATE}": rate}
    return MemoryLimitBook(Limits(1, 1, 1, allowances=allowances))


def test_a_call_takes_of_every_scope_at_once(make: Make) -> None:
    till = make()
    assert till.used() == (0, 0, 0)
    assert till.take(cents=30) is None
    assert till.used() == (30, 30, 1)
    assert till.used(user="bob") == (0, 30, 0)
    assert till.used("globex") == (0, 0, 0)


def test_taking_again_for_the_same_call_takes_nothing_whatever_the_limits_are_by_then(make: Make) -> None:
    till = make(user=40)
    assert till.take(cents=40) is None
    till.book.change(LimitScope(), f"pay.{USER}", 0, by="olga", reason="a test")
    assert till.take(cents=40) is None
    assert till.take(cents=40, at=NOW + timedelta(days=1)) is None
    assert till.used() == (40, 40, 1)


@pytest.mark.parametrize(
    ("limits", "reached"),
    [
        ({"user": 9}, Reached(USER, 9, TOMORROW)),
        ({"tenant": 9}, Reached(TENANT, 9, TOMORROW)),
        ({"rate": 0}, Reached(RATE, 0, NOW + timedelta(minutes=1))),
        ({"user": 9, "tenant": 9}, Reached(USER, 9, TOMORROW)),
    ],
)
def test_a_call_that_exceeds_a_limit_by_itself_takes_nothing(
    make: Make, limits: dict[str, int], reached: Reached
) -> None:
    till = make(**limits)
    assert till.take() == reached
    assert till.used() == (0, 0, 0)


@pytest.mark.parametrize(("limits", "name"), [({"user": 25}, USER), ({"tenant": 25}, TENANT), ({"rate": 2}, RATE)])
def test_small_calls_add_up_and_the_one_that_would_exceed_takes_nothing(
    make: Make, limits: dict[str, int], name: str
) -> None:
    till = make(**limits)
    answers = [till.take(f"run_{n}") for n in range(4)]
    assert answers[:2] == [None, None]
    assert [answer and answer.name for answer in answers[2:]] == [name, name]
    assert till.used() == (20, 20, 2)


def test_what_is_left_is_used_to_the_last(make: Make) -> None:
    till = make(user=25)
    assert till.take("run_1", cents=20) is None
    assert till.take("run_2", cents=6) == Reached(USER, 25, TOMORROW)
    assert till.take("run_3", cents=5) is None
    assert till.take("run_4", cents=1) == Reached(USER, 25, TOMORROW)


def test_a_refusal_is_not_remembered(make: Make) -> None:
    till = make(user=10)
    till.take("run_1")
    assert till.take("run_2") is not None
    assert till.take("run_2", at=NOW + timedelta(days=1)) is None


def test_a_user_can_not_get_around_the_tenants_limit_nor_one_user_around_the_own(make: Make) -> None:
    till = make(user=60, tenant=100)
    assert till.take_of("acme", "ann", 60) is None
    assert till.take_of("acme", "ann", 1, run="run_3") == Reached(USER, 60, TOMORROW)
    assert till.take_of("acme", "bob", 41, run="run_4") == Reached(TENANT, 100, TOMORROW)
    assert till.take_of("acme", "bob", 40, run="run_5") is None
    assert till.take_of("globex", "ann", 60) is None


def test_a_limit_raised_for_one_user_does_not_lift_the_tenants(make: Make) -> None:
    till = make(user=10, tenant=50)
    till.book.change(LimitScope("acme", "ann"), f"pay.{USER}", 1000, by="olga", reason="a test")
    assert till.take(cents=51) == Reached(TENANT, 50, TOMORROW)
    assert till.take(cents=50) is None


def test_windows_stand_fixed_in_utc(make: Make) -> None:
    till = make(user=10, rate=1)
    late = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
    assert till.take("run_1", at=late) is None
    assert till.take("run_2", at=late) is not None
    assert till.take("run_3", at=late + timedelta(seconds=1)) is None
    assert till.used(at=late) == till.used(at=late + timedelta(seconds=1)) == (10, 10, 1)


def test_a_changed_limit_holds_in_the_window_that_has_begun(make: Make) -> None:
    till = make(user=10)
    till.take("run_1")
    till.book.change(LimitScope("acme"), f"pay.{USER}", 30, by="olga", reason="a test")
    assert till.take("run_2") is None
    till.book.change(LimitScope("acme"), f"pay.{USER}", 15, by="olga", reason="a test")
    assert till.take("run_3", cents=1) == Reached(USER, 15, TOMORROW)


def test_what_has_no_number_is_not_allowed(make: Make) -> None:
    till = make()
    unknown = Taking("acme", "ann", "run_1", "call_1_0", "pay", {"cents.user_hour": 1})
    reached = till.allowances.take(unknown, at=NOW)
    assert reached == Reached("cents.user_hour", 0, NOW + timedelta(hours=1))


def test_a_call_that_uses_nothing_passes_even_where_nothing_is_left(make: Make) -> None:
    till = make(user=0, tenant=0)
    assert till.take(cents=0) is None


def test_what_a_call_took_is_given_back_once(make: Make) -> None:
    till = make()
    till.take("run_1", cents=30)
    till.take("run_2", cents=20)
    till.give_back("run_1")
    till.give_back("run_1", at=NOW + timedelta(hours=1))
    assert till.used() == (20, 20, 1)


def test_it_is_given_back_to_the_window_it_was_taken_from(make: Make) -> None:
    till = make()
    till.take("run_1", cents=30)
    later = NOW + timedelta(days=3)
    till.take("run_2", cents=7, at=later)
    till.give_back("run_1", at=later)
    assert (till.used(), till.used(at=later)) == ((0, 0, 0), (7, 7, 1))


def test_after_it_was_given_back_a_late_holder_takes_nothing(make: Make) -> None:
    till = make()
    till.take("run_1")
    for run in ("run_1", "run_2"):  # the second never took anything before
        till.give_back(run)
        with pytest.raises(LogMoved):
            till.take(run)
    assert till.used() == (0, 0, 0)


def test_tools_users_and_tenants_of_like_names_share_nothing(make: Make) -> None:
    till = make()
    till.take(cents=30)
    assert till.allowances.used("acme", "ann", "pa", [USER, TENANT], at=NOW) == {USER: 0, TENANT: 0}
    assert till.used("acme", "an") == (0, 30, 0)
    assert till.used("acm", "ann") == (0, 0, 0)


@pytest.mark.parametrize("limits", [{"user": 103}, {"tenant": 103}, {"rate": 25}])
def test_sixty_calls_racing_for_the_last_of_an_allowance_never_exceed_it(make: Make, limits: dict[str, int]) -> None:
    till = make(**{"user": 10**6, "tenant": 10**6, "rate": 10**6, **limits})
    answers = race([partial(till.take, f"run_{n}", cents=4) for n in range(60)])
    assert [answer for answer in answers if isinstance(answer, Exception)] == []
    assert answers.count(None) == 25
    assert till.used() == (100, 100, 25)


def test_many_holders_of_one_call_take_once(make: Make) -> None:
    till = make()
    assert race([partial(till.take, cents=60) for _ in range(20)]) == [None] * 20
    assert till.used() == (60, 60, 1)


def test_many_sweepers_giving_back_give_back_once(make: Make) -> None:
    till = make()
    till.take("run_1", cents=30)
    till.take("run_2", cents=20)
    assert race([partial(till.give_back, "run_1") for _ in range(12)]) == [None] * 12
    assert till.used() == (20, 20, 1)


@pytest.mark.parametrize("round_", range(5))
def test_taking_and_giving_back_at_once_leave_nothing_taken(make: Make, round_: int) -> None:
    till = make()
    race([till.take, till.give_back, till.take, till.give_back])
    assert till.used() == (0, 0, 0), "whoever came first, the end is given back"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["run_1", "run_2", "run_3"]),
            st.sampled_from(["call_1_0", "call_1_1"]),
            st.integers(0, 60),
            st.sampled_from(["take", "take", "take", "give back", "tomorrow"]),
        ),
        max_size=20,
    )
)
def test_whatever_happens_the_sum_is_what_stands_and_within_the_limit(
    make: Make, steps: list[tuple[str, str, int, str]]
) -> None:
    till = make(user=90, tenant=120)
    now, standing = NOW, dict[tuple[str, str], tuple[datetime, int] | None]()
    for run, call, cents, step in steps:
        if step == "tomorrow":
            now += timedelta(days=1)
        elif step == "give back":
            till.give_back(run, call, at=now)
            standing[run, call] = None
        elif (run, call) in standing and standing[run, call] is None:
            with pytest.raises(LogMoved):
                till.take(run, call, at=now, cents=cents)
        elif till.take(run, call, at=now, cents=cents) is None:
            standing.setdefault((run, call), (now, cents))
    for day in {NOW, now}:
        cents_of_day = sum(taken[1] for taken in standing.values() if taken and taken[0] == day)
        assert till.used(at=day)[0] == cents_of_day <= 90


# --- on DynamoDB alone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(cancelled("TransactionConflict"), id="conflict"),
        pytest.param(cancelled("None", "None", "ThrottlingError", "None"), id="throttled counter"),
        pytest.param(error("ThrottlingException"), id="throttled"),
        pytest.param(lose_request, id="request lost"),
        pytest.param(lose_reply, id="reply lost after the commit"),
    ],
)
def test_passing_trouble_neither_loses_nor_doubles_a_taking(dynamodb: Make, wire: Wire, fault: Fault) -> None:
    till = dynamodb(user=10)
    wire.next("TransactWriteItems", fault, fault)
    assert till.take() is None
    assert till.used() == (10, 10, 1)
    wire.next("TransactWriteItems", fault, fault)
    till.give_back()
    assert till.used() == (0, 0, 0)


def test_without_an_answer_in_bounded_retries_nothing_is_allowed(dynamodb: Make, wire: Wire, sleeps: Sleeps) -> None:
    till = dynamodb()
    wire.next("TransactWriteItems", *[cancelled("TransactionConflict")] * 50)
    with pytest.raises(StoreUnavailable):
        till.take()
    assert len(sleeps) == 7
    wire.reset()
    assert till.used() == (0, 0, 0)


def test_what_is_taken_between_the_two_steps_of_giving_back_is_given_back_once(dynamodb: Make, wire: Wire) -> None:
    till = dynamodb()
    till.take(cents=30)

    def rival() -> None:
        till.give_back()

    # Both have seen the call's item; the rival closes it first.
    wire.next("TransactWriteItems", lambda carry_out: carry_out(), first(rival))
    till.give_back()
    assert till.used() == (0, 0, 0)


def test_what_each_step_costs_in_calls(dynamodb: Make, wire: Wire) -> None:
    till = dynamodb()
    for step, calls in (
        (till.take, {"TransactWriteItems": 1}),
        (till.give_back, {"TransactWriteItems": 2}),
        (till.give_back, {"TransactWriteItems": 1}),
        (till.used, {"BatchGetItem": 1}),
    ):
        wire.calls.clear()
        step()
        assert wire.calls == calls
