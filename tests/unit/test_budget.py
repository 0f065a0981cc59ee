"""Money is taken before a call, settled after it, and never spent twice, whatever is cancelled, raced or killed."""

import threading
from dataclasses import replace
from decimal import Decimal

import pytest

from agent.budget import OVERHEAD_TOKENS, input_bound
from agent.errors import ConfigurationInvalid, ModelRequestRejected, ModelThrottled, ModelUnavailable
from agent.events import BudgetGranted, ModelCompleted, ModelFailed, ModelStarted, Usage
from agent.limits import Limits
from agent.ports.model import ModelStopped, TextDelta, ToolSpec, UsageReported
from agent.ports.money import Grant
from agent.pricing import Price, Prices
from agent.testing.model import asks, says
from tests.sample_agent import FALLBACK, MODEL, PRICES, QUESTION, SampleCloud

PRICE = PRICES.models[MODEL]


def data(cloud, run, kind):
    return [event.data for event in cloud.events(run) if isinstance(event.data, kind)]


def spent_of(cloud, pool="tenant"):
    balance = cloud.ledger.balances("acme", "ann", at=cloud.clock.now())[pool]
    return balance.limit_micros - balance.remaining_micros


def test_a_call_costs_its_tokens_at_their_prices_rounded_up():
    usage = Usage(input_tokens=1000, output_tokens=100, cache_read_tokens=15, cache_write_tokens=10)
    assert PRICE.cost_micros(usage) == 1000 + 500 + 2 + 12
    assert PRICE.bound_micros(1001, 100) == 1252 + 500


def test_the_reservation_is_a_bound_of_the_bytes_sent_and_later_of_what_is_new():
    used = Usage(input_tokens=2000, output_tokens=100, cache_read_tokens=50)
    cloud = SampleCloud(asks(("look", {"item": "a"}), usage=used), says("Done."))
    run = cloud.ask("ü" * 5000)
    cloud.run_until_idle()
    first, second = data(cloud, run, ModelStarted)
    assert first.reserved_micros > PRICE.bound_micros(10_000 + OVERHEAD_TOKENS, 1000)
    new = len(str(cloud.script.requests[1].messages[-1]))
    at_most = PRICE.bound_micros(2150 + new + 100 + OVERHEAD_TOKENS, 1000)
    assert PRICE.bound_micros(2150 + OVERHEAD_TOKENS, 1000) < second.reserved_micros <= at_most


@pytest.mark.parametrize(("model", "usage"), [(FALLBACK, Usage(input_tokens=9, output_tokens=1)), (MODEL, None)])
def test_what_another_model_counted_or_nobody_told_bounds_no_call(model, usage):
    cloud = SampleCloud(says("Done.", usage=usage))
    run = cloud.ask("ü" * 5000)
    cloud.run_until_idle()
    first = cloud.script.requests[0]
    request = replace(first, model_id=model, messages=[*first.messages, first.messages[0] | {"content": []}])
    assert input_bound(cloud.state(run), request) > 10_000 + OVERHEAD_TOKENS


def test_system_prompt_and_tools_are_in_the_bound():
    cloud = SampleCloud(says("Done.", usage=None))
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    bare, more = ToolSpec(name="", description="", schema={}), "x" * 1000

    def bound(**changes):
        return input_bound(cloud.state(run), replace(cloud.script.requests[0], **{"tools": (bare,), **changes}))

    assert bound(system=more) > bound(system="") + 999
    for field, value in (("name", more), ("description", more), ("schema", {"title": more})):
        assert bound(tools=(replace(bare, **{field: value}),)) > bound() + 999


def test_a_call_may_take_all_the_run_has_and_no_more():
    def ask(**caps):
        cloud = SampleCloud(says("Done."), caps=caps)
        run = cloud.ask(QUESTION)
        cloud.run_until_idle()
        return cloud.state(run).ended.reason, data(cloud, run, ModelStarted)

    _, [started] = ask()
    assert ask(limit_micros=started.reserved_micros)[0] == "answered"
    assert ask(limit_micros=started.reserved_micros - 1) == ("budget_run", [])


def test_an_unspent_slice_flows_back_to_everybody():
    cloud = SampleCloud(says("Done."))
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    header = cloud.state(run).header
    assert header.granted_micros == 50_000
    assert header.spent_micros == 200
    assert (spent_of(cloud, "user"), spent_of(cloud, "tenant"), spent_of(cloud, "platform")) == (200, 200, 200)


def test_a_run_asks_for_more_when_its_slice_is_used_up():
    dear = Usage(input_tokens=2000, output_tokens=900)
    cloud = SampleCloud(*[asks(("look", {"item": "a"}), usage=dear)] * 3, says("Done."), caps={"slice_micros": 12_000})
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert cloud.state(run).ended.reason == "answered"
    assert [granted.grant for granted in data(cloud, run, BudgetGranted)] == [1, 2, 3]
    assert spent_of(cloud) == 3 * 6500 + 200


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(100, 10**9, 10**9), "budget_user"),
        (Limits(10**9, 100, 10**9), "budget_tenant"),
        (Limits(10**9, 10**9, 100), "budget_platform"),
    ],
)
def test_a_spent_budget_ends_the_run_with_its_reason_before_the_model_is_called(limits, reason):
    cloud = SampleCloud(says("Never."), limits=limits)
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    ended = cloud.state(run).ended
    assert (ended.status, ended.reason) == ("failed", reason)
    assert "budget is spent" in ended.message
    assert cloud.script.requests == []


def test_a_run_never_spends_more_than_its_own_limit():
    dear = Usage(input_tokens=500, output_tokens=100)
    turns = [asks(("look", {"item": "a"}), usage=dear)] * 8
    cloud = SampleCloud(*turns, caps={"limit_micros": 10_500, "slice_micros": 1})
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    state = cloud.state(run)
    assert state.ended.reason == "budget_run"
    assert 0 < state.header.spent_micros <= state.header.granted_micros <= 10_500


def test_a_hundred_cancelled_runs_exhaust_the_budget():
    """A call that was begun is never free: cancelling before the usage is told costs the whole reservation."""
    cloud = SampleCloud([TextDelta(0, "So"), lambda: cancel_newest(cloud), until_cancelled])
    cloud.limits.defaults = Limits(10**9, 150_000, 10**9)
    runs = []
    for _ in range(100):
        runs.append(cloud.ask(QUESTION))
        cloud.invoke("acme", cloud.wake.runs.popleft()[1])
        cloud.wake.runs.clear()
    reasons = [cloud.state(run).ended.reason for run in runs]
    assert reasons[0] == "cancelled"
    assert reasons[-1] == "budget_tenant"
    assert set(reasons) == {"cancelled", "budget_tenant"}
    paid = sum(cloud.state(run).header.spent_micros for run in runs)
    assert paid == spent_of(cloud)
    assert 135_000 <= paid <= 150_000


def cancel_newest(cloud):
    cloud.cancel(cloud.log.runs_of_user("acme", "ann", limit=1)[0][0].run_id)


def until_cancelled():
    threading.Event().wait(0.5)


def test_two_runs_that_race_for_the_last_money_never_overspend_it():
    barrier = threading.Barrier(2)
    cloud = SampleCloud(says("Done.", usage=None), limits=Limits(10**9, 12_000, 10**9))
    granted = cloud.ledger.grant

    def racing(grant: Grant, *, at):
        barrier.wait(5)
        return granted(grant, at=at)

    cloud.ledger.grant = racing
    runs = [cloud.ask(QUESTION), cloud.ask(QUESTION)]
    threads = [threading.Thread(target=cloud.invoke, args=("acme", run)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(cloud.state(run).ended.reason for run in runs) == ["answered", "budget_tenant"]
    assert spent_of(cloud) == sum(cloud.state(run).header.spent_micros for run in runs) <= 12_000


def test_usage_that_comes_after_the_end_still_settles_the_call():
    def late():
        for _ in range(500):
            if cloud.state(run).is_over:
                return
            threading.Event().wait(0.01)

    cloud = SampleCloud(
        [TextDelta(0, "So"), lambda: cloud.cancel(run), late, UsageReported(Usage(input_tokens=7, output_tokens=1))]
    )
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert cloud.types(run)[-3:] == ["run.ended", "model.failed", "budget.returned"]
    (failed,) = data(cloud, run, ModelFailed)
    assert (failed.cost_micros, failed.assumed, failed.usage.input_tokens) == (12, False, 7)
    assert spent_of(cloud) == 12


def test_a_call_without_usage_costs_all_that_was_reserved():
    cloud = SampleCloud(says("Done.", usage=None))
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    (done,) = data(cloud, run, ModelCompleted)
    assert done.assumed
    assert done.cost_micros == data(cloud, run, ModelStarted)[0].reserved_micros == spent_of(cloud)


@pytest.mark.parametrize(
    ("steps", "is_free"),
    [
        ([ModelThrottled()], True),
        ([ModelRequestRejected()], True),
        ([ModelUnavailable()], False),
        ([TextDelta(0, "So"), ModelUnavailable()], False),
        ([TextDelta(0, "So"), ModelStopped("malformed_tool_use")], False),
    ],
)
def test_only_a_call_the_service_refused_to_begin_is_free(steps, is_free):
    cloud = SampleCloud(says("Done."), failing={0: [steps]})
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    (failed,) = data(cloud, run, ModelFailed)
    assert failed.cost_micros == (0 if is_free else data(cloud, run, ModelStarted)[0].reserved_micros)
    assert failed.assumed is not is_free


def test_a_model_without_a_price_is_refused():
    cloud = SampleCloud(says("Never."), prices=Prices({}))
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert cloud.state(run).ended.reason == "release_unavailable"
    assert cloud.script.requests == []


def test_the_price_list_names_its_source_and_prices_the_models_of_every_release():
    prices = Prices.read()
    assert prices.of("global.anthropic.claude-haiku-4-5-20251001-v1:0") == Price(
        input=Decimal("1.00"), output=Decimal("5.00"), cache_read=Decimal("0.10"), cache_write=Decimal("1.25")
    )
    with pytest.raises(ConfigurationInvalid, match=r"no price for model nobody\.knows"):
        prices.of("nobody.knows")


@pytest.mark.parametrize("text", ["", "source = 'x'", "date = 2026-01-01\nsource = 'somewhere'\n[models.a]\ninput = 0"])
def test_a_broken_price_list_is_refused(tmp_path, text):
    (tmp_path / "prices.toml").write_text(text)
    with pytest.raises(ConfigurationInvalid, match=r"prices\.toml"):
        Prices.read(tmp_path / "prices.toml")
