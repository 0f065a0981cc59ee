"""The operational record, as it follows from a run's log."""

import pytest

from agent.contracts import Effect
from agent.endings import EndReason
from agent.events import Verdict
from agent.record import RunRecord
from tests.agui.written_runs import RUNS, WrittenRun


def test_the_record_of_a_finished_run_says_what_it_used() -> None:
    run = RUNS["normal"]()
    record = RunRecord.from_header(run.header)
    assert (record.steps_used, record.tool_calls, record.tools_called) == (2, 1, ("lookup_order",))
    assert (record.tokens.input, record.tokens.output) == (20, 10)
    assert record.estimated_cost_usd == 0.000014
    assert (record.status, record.reason, record.message) == ("completed", EndReason.ANSWERED, "The agent answered.")
    assert record.ended_at is not None
    assert (record.agent_version, record.feedback) == ("support-desk-1", "up")


def test_the_record_of_a_capped_run_says_max_turns() -> None:
    record = RunRecord.from_header(RUNS["capped"]().header)
    assert (record.status, record.reason, record.steps_used) == ("failed", EndReason.MAX_TURNS, 3)


@pytest.mark.parametrize(
    ("effects", "risk"),
    [
        ([], "low"),
        ([Effect.READ], "low"),
        ([Effect.READ, Effect.WRITE, Effect.READ], "medium"),
        ([Effect.DESTRUCTIVE, Effect.WRITE], "high"),
        ([Effect.EXTERNAL], "high"),
        ([None], "high"),
    ],
)
def test_the_risk_is_that_of_the_gravest_effect_that_was_allowed(effects: list[Effect | None], risk: str) -> None:
    run = WrittenRun()
    run.claim()
    for effect in effects:
        run.think()
        run.answer(calls=(run.decide().model_copy(update={"effect": effect}),))
    assert RunRecord.from_header(run.header).risk_level == risk


def test_a_denied_call_makes_no_risk_and_a_call_that_is_asked_for_does() -> None:
    for verdict, risk in ((Verdict.DENY, "low"), (Verdict.ASK, "high")):
        run = WrittenRun()
        run.claim()
        run.think()
        run.answer(calls=(run.decide(verdict=verdict).model_copy(update={"effect": Effect.DESTRUCTIVE}),))
        assert RunRecord.from_header(run.header).risk_level == risk


def test_the_record_holds_nothing_of_what_was_said() -> None:
    run = RUNS["calls without a word"]()
    text = RunRecord.from_header(run.header).model_dump_json()
    for said in ("order 1001", "Shipped", "secret", run.header.tenant_id, "deadline_at_"):
        assert said not in text
