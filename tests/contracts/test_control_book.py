"""The contract of switches and their audit: what every `ports.ControlBook` and `ports.AuditTrail` keeps."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from agent.audit import Change, new_id
from agent.aws.audit import MAX_MOVES, DynamoDbAuditTrail
from agent.aws.controls import CACHE_S, DynamoDbControlBook
from agent.aws.dynamodb import Backoff
from agent.aws.limits import DynamoDbLimitBook
from agent.controls import MAX_DURATION, MAX_SWITCHES, Board, Controls, Switch, Target
from agent.errors import InputInvalid, NotFound, StoreUnavailable
from agent.limits import Limits, LimitScope
from agent.ports.controls import AuditTrail, ControlBook
from agent.ports.limits import LimitBook
from agent.testing.audit import MemoryAuditTrail
from agent.testing.clock import FakeClock
from agent.testing.controls import MemoryControlBook
from agent.testing.limits import MemoryLimitBook
from agent.testing.tables import create_table
from tests.contracts.facts import NOW
from tests.contracts.wire import Wire, cancelled, error, first, lose_reply

tables = itertools.count()
LIMITS = Limits(100, 1_000, 10_000, user_runs=2, tenant_runs=20, tenant_jobs=5)
PLATFORM, ON_ACME, BY_ACME = Board(), Board("acme"), Board("acme", by_tenant=True)
EVERYTHING, PAY, MODEL = Target(kind="everything"), Target(kind="tool", name="pay"), Target(kind="model", name="m-1:0")


@dataclass
class Desk:
    book: ControlBook
    limits: LimitBook
    audit: AuditTrail
    clock: FakeClock

    def on(
        self, target: Target, board: Board = ON_ACME, *, by: str = "olga", for_: timedelta = timedelta(hours=1)
    ) -> Switch:
        now = self.clock.now()
        switch = Switch(target=target, reason="a test", by=by, created_at=now, expires_at=now + for_)
        self.book.switch_on(board, switch)
        self.clock.advance(CACHE_S)
        return switch

    def off(self, target: Target, board: Board = ON_ACME) -> None:
        self.book.switch_off(board, target, by="otto", reason="over")
        self.clock.advance(CACHE_S)

    def holds(self, tenant: str = "acme", user: str = "ann") -> Controls:
        return self.book.effective(tenant, user, release="r-1", agent="desk")

    def told(self, tenant: str = "") -> list[Change]:
        return self.audit.changes(tenant, limit=100)[0]


@pytest.fixture(params=["memory", "dynamodb"])
def desk(request: pytest.FixtureRequest) -> Desk:
    clock = FakeClock(NOW)
    if request.param == "memory":
        audit = MemoryAuditTrail()
        return Desk(MemoryControlBook(clock, audit), MemoryLimitBook(LIMITS, clock=clock, audit=audit), audit, clock)
    client = request.getfixturevalue("aws")("dynamodb")
    backoff: Backoff = request.getfixturevalue("backoff")
    name = f"controls-{next(tables)}"
    create_table(client, name)
    return Desk(
        DynamoDbControlBook(client, name, clock=clock, backoff=backoff),
        DynamoDbLimitBook(client, name, LIMITS, clock=clock, backoff=backoff),
        DynamoDbAuditTrail(client, name, backoff=backoff),
        clock,
    )


@pytest.mark.parametrize("board", [PLATFORM, ON_ACME, BY_ACME])
def test_a_switch_of_every_board_holds_for_the_tenant_and_ends_when_it_is_taken_off(desk: Desk, board: Board) -> None:
    assert desk.holds() == Controls()
    switch = desk.on(EVERYTHING, board)
    assert desk.holds().stops_run == switch
    assert (desk.holds("globex").stops_run is None) is (board is not PLATFORM)
    assert desk.book.switches(board) == (switch,)
    desk.off(EVERYTHING, board)
    assert desk.holds() == Controls()
    assert desk.book.switches(board) == ()


@pytest.mark.parametrize(
    ("target", "stops"),
    [
        ("user:ann", True),
        ("user:bob", False),
        ("agent:desk", True),
        ("agent:other", False),
        ("release:r-1", True),
        ("release:r-2", False),
        ("new_runs", False),
        ("tool:pay", False),
        ("model:m-1:0", False),
    ],
)
def test_a_switch_is_for_what_it_names(desk: Desk, target: str, stops: bool) -> None:
    kind, _, name = target.partition(":")
    switch = desk.on(Target.model_validate({"kind": kind, "name": name}))
    holds = desk.holds()
    assert holds.stops_run == (switch if stops else None)
    assert holds.refuses_new_runs == (switch if kind == "new_runs" else None)
    assert (holds.tool_off("pay"), holds.model_off("m-1:0")) == (
        switch if kind == "tool" else None,
        switch if kind == "model" else None,
    )
    assert not holds.tool_off("look")


def test_modes_are_switches_too(desk: Desk) -> None:
    desk.on(Target(kind="read_only"), PLATFORM)
    desk.on(Target(kind="force_review"), BY_ACME)
    assert (desk.holds().read_only, desk.holds().force_review) == (True, True)
    assert (desk.holds("globex").read_only, desk.holds("globex").force_review) == (True, False)


def test_a_switch_ends_by_the_clock_and_can_then_not_be_taken_off(desk: Desk) -> None:
    desk.on(PAY, for_=timedelta(seconds=5))
    assert desk.holds().tool_off("pay")
    desk.clock.advance(5 - CACHE_S)
    assert desk.holds() == Controls()
    assert desk.book.switches(ON_ACME) == ()
    with pytest.raises(NotFound):
        desk.off(PAY)


def test_the_same_target_is_switched_once_on_a_board_and_apart_on_each(desk: Desk) -> None:
    desk.on(PAY, by="olga")
    later = desk.on(PAY, by="otto", for_=timedelta(hours=2))
    assert desk.book.switches(ON_ACME) == (later,)
    desk.on(PAY, BY_ACME)
    desk.off(PAY, BY_ACME)
    assert desk.holds().tool_off("pay") == later


@pytest.mark.parametrize("for_", [timedelta(0), timedelta(seconds=-1), MAX_DURATION + timedelta(seconds=1)])
def test_a_switch_without_an_end_in_sight_is_refused(desk: Desk, for_: timedelta) -> None:
    with pytest.raises(InputInvalid):
        desk.on(EVERYTHING, for_=for_)
    assert (desk.holds(), desk.told("acme")) == (Controls(), [])


def test_a_switch_may_last_as_long_as_any_may(desk: Desk) -> None:
    desk.on(EVERYTHING, for_=MAX_DURATION)
    assert desk.holds().stops_run


def test_only_the_switch_that_is_named_is_taken_off_or_told_as_what_was_before(desk: Desk) -> None:
    desk.on(PAY)
    with pytest.raises(NotFound):
        desk.off(MODEL)
    assert desk.holds().tool_off("pay")
    desk.on(MODEL)
    assert desk.told("acme")[0].before is None


def test_a_board_takes_so_many_switches_and_what_has_expired_makes_room(desk: Desk) -> None:
    for number in range(MAX_SWITCHES):
        desk.on(Target(kind="user", name=f"u{number}"))
    with pytest.raises(InputInvalid):
        desk.on(PAY)
    desk.on(Target(kind="user", name="u0"))
    desk.clock.advance(4000)
    desk.on(PAY)
    assert [switch.target for switch in desk.book.switches(ON_ACME)] == [PAY]


def test_every_change_is_told_with_who_when_why_and_what_it_was_before(desk: Desk) -> None:
    first = desk.on(PAY)
    second = desk.on(PAY, by="otto", for_=timedelta(hours=2))
    desk.off(PAY)
    desk.limits.change(LimitScope("acme", "ann"), "user_runs", 1, by="olga", reason="too many")
    desk.limits.change(LimitScope("acme", "ann"), "user_runs", None, by="olga", reason="enough")
    unset, set_, off, changed, on = desk.told("acme")
    assert [c.action for c in (on, changed, off, set_, unset)] == [
        "switch_on",
        "switch_on",
        "switch_off",
        "set_limit",
        "unset_limit",
    ]
    assert (on.before, on.after) == (None, first.model_dump_json())
    assert (changed.before, changed.after) == (first.model_dump_json(), second.model_dump_json())
    assert (off.before, off.after, off.by, off.reason) == (second.model_dump_json(), None, "otto", "over")
    assert (set_.before, set_.after, set_.subject, set_.reason) == (None, "1", "user_runs of ann", "too many")
    assert (unset.before, unset.after, unset.by) == ("1", None, "olga")
    assert [c.version for c in (on, changed, off, set_, unset)] == [1, 2, 3, 1, 2]
    assert on.at == first.created_at
    assert desk.told() == desk.told("globex") == []


def test_what_is_refused_is_not_told(desk: Desk) -> None:
    with pytest.raises(NotFound):
        desk.off(PAY)
    with pytest.raises(InputInvalid):
        desk.limits.change(LimitScope("acme"), "tenant_runs", -1, by="olga", reason="")
    assert desk.told("acme") == []


def test_the_audit_is_read_in_pages_the_newest_first(desk: Desk) -> None:
    for number in range(5):
        desk.on(Target(kind="user", name=f"u{number}"))
    seen, before = [], None
    for _ in range(4):
        page, before = desk.audit.changes("acme", limit=2, before=before)
        seen += [change.subject for change in page]
        assert len(page) <= 2
        if before is None:
            break
    assert seen == [f"user:u{number}" for number in (4, 3, 2, 1, 0)]


def test_a_change_from_elsewhere_is_noted_once(desk: Desk) -> None:
    at = desk.clock.now()
    change = Change(id=new_id(at), at=at, by="ci", side="platform", action="deploy", subject="release r-1")
    desk.audit.note(change)
    desk.audit.note(change)
    assert desk.told() == [change]


# A tenant's own limits


def test_a_tenants_operators_lower_limits_and_never_raise_them(desk: Desk) -> None:
    own, own_ann = LimitScope("acme", by_tenant=True), LimitScope("acme", "ann", by_tenant=True)

    def change(scope: LimitScope, name: Any, value: int | None) -> None:
        desk.limits.change(scope, name, value, by="olga", reason="a test")
        desk.clock.advance(5)

    change(own, "user_day_micros", 50)
    change(own_ann, "user_day_micros", 60)
    assert desk.limits.of("acme", "ann").user_day_micros == 60
    assert desk.limits.of("acme", "bob").user_day_micros == 50
    assert desk.limits.of("globex", "ann").user_day_micros == 100
    change(LimitScope("acme"), "user_day_micros", 20)
    assert desk.limits.of("acme", "ann").user_day_micros == 20
    with pytest.raises(InputInvalid):
        change(own, "user_day_micros", 21)
    with pytest.raises(InputInvalid):
        change(own, "platform_month_micros", 1)
    assert desk.limits.overrides(LimitScope("acme")) == {"user_day_micros": 20}
    change(own, "user_day_micros", None)
    change(own_ann, "user_day_micros", None)
    change(LimitScope("acme"), "user_day_micros", None)
    assert desk.limits.of("acme", "ann") == LIMITS


# On the wire


@pytest.fixture
def stored(aws: Callable[[str], Any], backoff: Backoff) -> Desk:
    name = f"controls-{next(tables)}"
    create_table(aws("dynamodb"), name)
    clock = FakeClock(NOW)
    return Desk(
        DynamoDbControlBook(aws("dynamodb"), name, clock=clock, backoff=backoff),
        DynamoDbLimitBook(aws("dynamodb"), name, LIMITS, clock=clock, backoff=backoff),
        DynamoDbAuditTrail(aws("dynamodb"), name, backoff=backoff),
        clock,
    )


def test_what_holds_is_read_in_one_call_and_kept_for_a_second(stored: Desk, wire: Wire) -> None:
    wire.calls.clear()
    for _ in range(3):
        stored.holds()
        stored.holds(user="bob")
    assert wire.calls == {"BatchGetItem": 1}
    stored.clock.advance(CACHE_S)
    stored.holds()
    assert wire.calls == {"BatchGetItem": 2}


def test_a_change_whose_reply_is_lost_is_made_and_told_once(stored: Desk, wire: Wire) -> None:
    wire.next("TransactWriteItems", lose_reply)
    switch = stored.on(PAY)
    assert stored.book.switches(ON_ACME) == (switch,)
    assert [change.version for change in stored.told("acme")] == [1]


def test_a_change_that_somebody_else_was_faster_with_is_made_on_top_of_theirs(stored: Desk, wire: Wire) -> None:
    wire.next("TransactWriteItems", first(lambda: stored.on(EVERYTHING, by="otto")))
    stored.on(PAY, by="olga")
    assert {switch.target for switch in stored.book.switches(ON_ACME)} == {PAY, EVERYTHING}
    assert sorted((change.version, change.by) for change in stored.told("acme")) == [(1, "otto"), (2, "olga")]


def test_a_change_that_others_are_always_faster_with_is_given_up(stored: Desk, wire: Wire) -> None:
    refused = cancelled("ConditionalCheckFailed", "None")
    wire.next("TransactWriteItems", *[refused] * MAX_MOVES)
    with pytest.raises(StoreUnavailable):
        stored.on(PAY)
    assert PAY not in {switch.target for switch in stored.book.switches(ON_ACME)}


@pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "InternalServerError"])
def test_what_holds_is_not_known_while_the_table_does_not_answer(stored: Desk, wire: Wire, code: str) -> None:
    stored.holds()
    stored.clock.advance(CACHE_S)
    wire.next("BatchGetItem", error(code))
    with pytest.raises(StoreUnavailable):
        stored.holds()
    assert stored.holds() == Controls()
