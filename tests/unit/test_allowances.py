"""What calls use up over runs: taken at their start, once, and kept where nobody knows whether they ran."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.allowances import unused
from agent.contracts import Effect, canonical_json
from agent.errors import ConfigurationInvalid, StoreUnavailable, ToolLost, ToolUnreached
from agent.events import ToolCompleted, Verdict
from agent.held_run import read_state
from agent.limits import Allowance, LimitScope, read_allowances
from agent.testing.allowances import MemoryAllowances
from agent.testing.decided_run import CALL, DecidedRun
from agent.testing.model import asks, says
from agent.testing.rooms import FixedPolicy
from agent.tools import Arguments, tool
from support_desk.lock_contracts import PATH
from support_desk.tools import TOOLS
from tests.sample_agent import ALLOWANCES, QUESTION, SampleCloud

USER, TENANT, RATE = ALLOWANCES


def counting(*turns, limits=None, **around):
    cloud = SampleCloud(*turns, allowances_of_tools=ALLOWANCES, **around)
    for name, value in (limits or {}).items():
        cloud.limits.change(LimitScope(), name, value)
    return cloud


def pays(*counts, tool="pay"):
    return asks(*((tool, {"item": f"{n}", "count": count}) for n, count in enumerate(counts)))


def finish(cloud, *, user="ann"):
    run = cloud.ask(QUESTION, user_id=user)
    cloud.run_until_idle()
    return cloud.state(run)


def used(cloud, tool="pay", user="ann"):
    return tuple(cloud.allowances.used("acme", user, tool, ALLOWANCES, at=cloud.clock.now()).values())


def errors(state):
    """Return the code of each result that is an error, and None for the others, of the first turn."""
    turn = state.turns[0]
    codes = []
    for decision in turn.completed.decisions:
        result = turn.results.get(decision.call_id)
        is_error = isinstance(result, ToolCompleted) and result.outcome == "error"
        codes.append(result.content.split('"')[3] if is_error else decision.code if result is None else None)
    return codes


def effects(cloud):
    return sum(cloud.effects.values())


def test_ten_small_calls_do_not_pass_where_one_large_one_would_not():
    cloud = counting(*[pays(30), says("Done.")] * 10, limits={f"pay.{USER}": 100})
    codes = [errors(finish(cloud))[0] for _ in range(10)]
    assert codes == [None] * 3 + ["limit_reached"] * 7
    assert effects(cloud) == 3
    assert used(cloud)[:2] == (90, 90)


def test_calls_of_one_turn_take_in_call_order_and_what_fits_still_runs():
    cloud = counting(pays(60, 60, 40), says("Done."), limits={f"pay.{USER}": 100})
    assert errors(finish(cloud)) == [None, "limit_reached", None]
    assert used(cloud)[0] == 100


def test_the_sentence_names_the_limit_and_its_renewal_and_nothing_that_others_used():
    cloud = counting(pays(77), says("Done."), pays(33), says("Done."), limits={f"pay.{TENANT}": 100})
    finish(cloud)
    state = finish(cloud, user="bob")
    content = state.turns[0].results["call_1_0"].content
    renews = (cloud.clock.now() + timedelta(days=1)).strftime("%Y-%m-%d 00:00")
    message = (
        "The limit of this tool is 100 count per tenant and day; this call would exceed it and did not run."
        f" The limit renews at {renews} UTC. Nobody can lift it for this call: tell the user, don't try again."
    )
    assert content == canonical_json({"error": "limit_reached", "message": message})
    assert "77" not in content


def test_a_call_that_exceeds_a_limit_by_itself_is_denied_by_the_gate_and_nobody_is_asked():
    cloud = counting(pays(101), says("Done."), limits={f"pay.{USER}": 100}, policy=FixedPolicy({"pay": "ask"}))
    state = finish(cloud)
    [decision] = state.turns[0].completed.decisions
    assert (decision.verdict, decision.code, decision.uses) == (Verdict.DENY, "limit_reached", {})
    assert "this call alone exceeds it" in decision.message
    assert "approval.requested" not in cloud.types(state.header.run_id)


def test_a_rate_counts_calls_and_renews_with_its_minute():
    cloud = counting(*[pays(1, tool="look"), says("Done.")] * 4, limits={f"look.{RATE}": 2})
    assert [errors(finish(cloud))[0] for _ in range(3)] == [None, None, "limit_reached"]
    cloud.clock.advance(60)
    assert errors(finish(cloud)) == [None]


def test_what_a_call_used_stands_in_its_decision():
    state = finish(counting(pays(7), says("Done.")))
    assert state.turns[0].completed.decisions[0].uses == {USER: 7, TENANT: 7, RATE: 1}


def test_nothing_is_taken_while_people_think_and_an_approver_can_not_lift_a_limit():
    policy = FixedPolicy({"pay": "ask"})
    cloud = counting(*[pays(60), says("Done.")] * 2, limits={f"pay.{USER}": 100}, policy=policy)
    runs = [cloud.ask(QUESTION) for _ in range(2)]
    cloud.deliver()
    assert used(cloud) == (0, 0, 0)
    for run in runs:
        [asked] = cloud.state(run).header.approvals
        cloud.decide(asked.approval_id)
    cloud.run_until_idle()
    assert sorted(map(str, (errors(cloud.state(run))[0] for run in runs))) == ["None", "limit_reached"]
    assert (effects(cloud), used(cloud)[0]) == (1, 60)


@pytest.mark.parametrize("decision", ["reject", "expire"])
def test_what_no_person_approved_takes_nothing(decision):
    cloud = counting(pays(60), says("Done."), policy=FixedPolicy({"pay": "ask"}), caps={"max_approval_wait_s": 60})
    run = cloud.ask(QUESTION)
    cloud.deliver()
    if decision == "reject":
        cloud.decide(cloud.state(run).header.approvals[0].approval_id, "reject")
    cloud.run_until_idle()
    assert cloud.state(run).is_over
    assert (effects(cloud), used(cloud)) == (0, (0, 0, 0))


def test_the_answer_is_in_the_log_before_anything_is_taken_for_its_calls():
    class Watching(MemoryAllowances):
        def take(self, taking, *, at):
            written.append(cloud.types(taking.run_id)[-1])
            return super().take(taking, at=at)

    written = []
    cloud = counting(pays(1), says("Done."))
    cloud.allowances = Watching(cloud.limits)
    finish(cloud)
    assert written == ["model.completed"]


def test_a_tool_without_allowances_costs_no_more_transactions():
    plain, counted = SampleCloud(pays(1), says("Done.")), counting(pays(1), says("Done."))
    for cloud in (plain, counted):
        finish(cloud)
    appends = [cloud.strike.calls.count("MemoryRunLog.append") for cloud in (plain, counted)]
    assert appends[1] == appends[0] + 1
    assert not any("Allowances" in call for call in plain.strike.calls)


class Silent(MemoryAllowances):
    """A store that does not answer for a while."""

    silent = True

    def take(self, taking, *, at):
        if self.silent:
            raise StoreUnavailable("no answer")
        return super().take(taking, at=at)


def test_a_call_whose_limits_cannot_be_checked_does_not_run():
    cloud = counting(pays(1), says("Done."))
    cloud.allowances = Silent(cloud.limits)
    state = finish(cloud)
    assert errors(state) == ["limits_unavailable"]
    assert state.ended.answer == "Done."
    assert effects(cloud) == 0


def test_an_approved_call_whose_limits_cannot_be_checked_waits_until_they_can():
    cloud = counting(pays(1), says("Done."), policy=FixedPolicy({"pay": "ask"}))
    cloud.allowances = Silent(cloud.limits)
    run = cloud.ask(QUESTION)
    cloud.deliver()
    cloud.decide(cloud.state(run).header.approvals[0].approval_id)
    cloud.deliver()
    assert effects(cloud) == 0
    assert cloud.log.header("acme", run).status == "waiting"
    cloud.allowances.silent = False
    cloud.run_until_idle()
    assert (effects(cloud), used(cloud)[0]) == (1, 1)


def test_limits_that_cannot_be_read_are_no_reason_to_void_an_approval():
    cloud = counting(pays(1), says("Done."), policy=FixedPolicy({"pay": "ask"}))
    run = cloud.ask(QUESTION)
    cloud.deliver()
    cloud.decide(cloud.state(run).header.approvals[0].approval_id)
    readable, cloud.limits = cloud.limits, Unreadable()
    cloud.invoke("acme", run)
    assert cloud.log.header("acme", run).status == "waiting"
    cloud.limits = readable
    cloud.run_until_idle()
    assert effects(cloud) == 1


class Unreadable:
    def of(self, tenant_id, user_id=""):
        raise StoreUnavailable("no answer")


class Failing:
    """A tool room in front of the real one that fails so often, in one way."""

    def __init__(self, inner, failure, times):
        self.inner, self.failure, self.times = inner, failure, times

    def run(self, *args, **kwargs):
        self.times -= 1
        if self.times >= 0:
            raise self.failure
        return self.inner.run(*args, **kwargs)


@pytest.mark.parametrize(
    ("name", "failure", "times", "counted"),
    [
        ("pay", ToolUnreached("no room"), 1, 0),
        ("ship", ToolUnreached("no room"), 1, 0),
        ("pay", ToolLost("died"), 1, 5),
        ("ship", ToolLost("died"), 1, 5),
        ("save", ToolLost("died"), 1, 5),
        ("save", ToolLost("died"), 9, 5),
    ],
)
def test_what_surely_did_not_run_is_given_back_and_what_may_have_run_stays_counted(name, failure, times, counted):
    cloud = counting(pays(5, tool=name), says("Done."))
    cloud.tool_runner = Failing(cloud.tool_runner, failure, times)
    assert finish(cloud).is_over
    assert used(cloud, name)[:2] == (counted, counted)
    assert effects(cloud) == (1 if (name, times) == ("save", 1) else 0)


def test_a_tool_that_fails_stays_counted_whatever_it_says():
    cloud = counting(asks(("look", {"item": "nothing", "count": 5})), says("Done."))
    finish(cloud)
    assert used(cloud, "look") == (5, 5, 1)


def test_a_start_that_a_cancel_overtakes_is_given_back():
    class Cancelling(MemoryAllowances):
        def take(self, taking, *, at):
            answer = super().take(taking, at=at)
            cloud.cancel(taking.run_id)
            return answer

    cloud = counting(pays(5), says("Done."))
    cloud.allowances = Cancelling(cloud.limits)
    assert finish(cloud).ended.reason == "cancelled"
    assert (effects(cloud), used(cloud)) == (0, (0, 0, 0))


def test_a_queued_call_that_expires_before_it_began_is_given_back():
    cloud = counting(pays(5, tool="export"), says("Done."), caps={"max_wait_s": 120})
    run = cloud.ask(QUESTION)
    cloud.invoke(*cloud.wake.runs.popleft())
    assert used(cloud, "export") == (5, 5, 1)
    cloud.queue.jobs.clear()
    cloud.clock.advance(121)
    cloud.sweep()
    cloud.run_until_idle()
    assert errors(cloud.state(run)) == ["expired"]
    assert used(cloud, "export")[:2] == (0, 0)


def test_when_returning_fails_the_sweeper_does_it():
    class Stuck(MemoryAllowances):
        stuck = 2

        def give_back(self, *args, **kwargs):
            self.stuck -= 1
            if self.stuck >= 0:
                raise StoreUnavailable("no answer")
            super().give_back(*args, **kwargs)

    cloud = counting(pays(5), says("Done."))
    cloud.allowances = Stuck(cloud.limits)
    cloud.tool_runner = Failing(cloud.tool_runner, ToolUnreached("no room"), 1)
    finish(cloud)
    assert cloud.allowances.stuck < 0
    assert used(cloud)[:2] == (0, 0)


# --- whatever a model asks for ----------------------------------------------------------------------------------------

counted_calls = st.tuples(st.sampled_from(["pay", "save", "export"]), st.integers(0, 70))
answers = st.lists(st.lists(counted_calls, min_size=1, max_size=4), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(runs=st.lists(st.tuples(st.sampled_from(["ann", "bob"]), answers), min_size=1, max_size=4))
def test_whatever_models_ask_for_in_whatever_runs_no_sum_passes_its_limit(runs):
    turns = [
        turn
        for _, asked in runs
        for turn in (*(asks(*((t, {"item": "a", "count": n}) for t, n in calls)) for calls in asked), says("Done."))
    ]
    limits = {f"{tool}.{USER}": 100 for tool in ("pay", "save", "export")} | {f"pay.{TENANT}": 130}
    cloud = counting(*turns, limits=limits)
    ran = Counter()
    for user, _ in runs:
        state = finish(cloud, user=user)
        for turn in state.turns:
            for decision in turn.completed.decisions:
                if cloud.effects[f"{decision.tool} {state.header.run_id}/{decision.call_id}"]:
                    ran[user, decision.tool] += decision.arguments["count"]
    assert all(sum_ <= 100 for sum_ in ran.values())
    assert ran["ann", "pay"] + ran["bob", "pay"] <= 130
    for (user, tool_), sum_ in ran.items():
        assert used(cloud, tool_, user)[0] == sum_


class Generous(MemoryAllowances):
    """The guard broken on purpose: it never refuses."""

    def take(self, taking, *, at):
        super().take(taking, at=at)


def test_with_the_guard_broken_on_purpose_small_calls_pass_the_limit():
    cloud = counting(*[pays(30), says("Done.")] * 5, limits={f"pay.{USER}": 100})
    cloud.allowances = Generous(cloud.limits)
    for _ in range(5):
        finish(cloud)
    assert effects(cloud) == 5, "three would fit: the tests above would see it"


# --- declared and numbered --------------------------------------------------------------------------------------------


class Money(Arguments):
    cents: int
    note: str = ""
    maybe: int | None = None


def declared(*allowances, arguments=Money):
    def spend(args, context):
        """Spend money on something, for a test."""

    spend.__annotations__["args"] = arguments
    make = tool(effect=Effect.WRITE, mode="once", resource="Order::all", allowances=allowances)
    return make(spend).contract


@pytest.mark.parametrize("name", ["cents.user_day", "note.user_day", "maybe.user_day", "unheard_of.user_day"])
def test_what_is_no_integer_from_zero_on_cannot_be_summed(name):
    with pytest.raises(ValidationError, match="integer"):
        declared(name)


@pytest.mark.parametrize("name", ["calls", "calls.user_week", "calls.platform_day", "calls.user_day ", ".user_day"])
def test_what_is_no_allowance_is_refused_where_it_is_declared(name):
    with pytest.raises(ValidationError, match="no allowance"):
        declared(name)


def test_windows_end_where_the_next_begins():
    at = datetime(2026, 12, 31, 23, 59, 30, tzinfo=UTC)
    new_year = datetime(2027, 1, 1, tzinfo=UTC)
    for window, renews in (("minute", new_year), ("hour", new_year), ("day", new_year)):
        allowance = Allowance.parse(f"calls.user_{window}")
        assert allowance.renews_at(at) == renews
        assert allowance.renews_at(renews) > renews
        assert allowance.period(allowance.renews_at(at)) > allowance.period(at)


@pytest.mark.parametrize("stage", ["dev", "prod", "local"])
def test_each_allowance_of_the_desk_has_a_number_in_each_stage_and_no_number_is_of_none(stage):
    numbers = read_allowances(PATH.parent / "limits.toml", stage)
    names = {f"{name}.{allowance}" for name, made in TOOLS.items() for allowance in made.contract.allowances}
    assert set(numbers) == names
    assert all(numbers.values())


@pytest.mark.parametrize(
    "text",
    [
        "[pay]\ncalls = 3",
        '[pay]\n"calls.user_day" = "3"',
        '[pay]\n"calls.user_day" = -1',
        '[pay]\n"x.day" = 1',
        "[pay",
        "pay = 3",
        "stages = 3",
        "[stages]\ndev = 3",
        "[stages.dev]\npay = 3",
    ],
)
def test_a_file_of_limits_that_says_anything_else_is_refused(tmp_path, text):
    path = tmp_path / "limits.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationInvalid, match=r"limits\.toml"):
        read_allowances(path, "dev")


@pytest.mark.parametrize(
    ("attempts", "uses", "given_back"),
    [(1, {"calls.user_day": 1}, [CALL]), (2, {"calls.user_day": 1}, []), (1, {}, [])],
)
def test_what_a_call_took_flows_back_only_where_its_first_start_is_known_to_have_done_nothing(
    attempts, uses, given_back
):
    run = DecidedRun(TOOLS["issue_refund"])
    run.decide({}, uses=uses)
    for attempt in range(1, attempts + 1):
        run.start(attempt=attempt)
    run.append(
        ToolCompleted(call_id=CALL, tool="issue_refund", outcome="error", content="{}", duration_ms=0, did_not_run=True)
    )
    assert unused(read_state(run.log, "acme", run.run_id)) == given_back
