"""What `make bench` measures, tried once: that it still measures what it says."""

from pathlib import Path

import pytest

from bench import contention, run_cost, start_up

ROOT = Path(__file__).resolve().parents[2]


def test_every_door_can_be_built_with_the_settings_of_the_bench() -> None:
    doors = start_up.doors(ROOT)
    assert "lambdas.run_agent" in doors
    build = "import importlib, sys\nfor name in sys.argv[1:]: getattr(importlib.import_module(name), '_door', int)()"
    start_up.run(ROOT, build, *doors)


def test_a_turn_costs_two_transactions_and_a_call_of_its_tool() -> None:
    one, two = run_cost.count_calls(), run_cost.count_calls(tool_turns=2)
    more = {operation: two[operation] - count for operation, count in one.items() if two[operation] > count}
    assert more.pop("dynamodb:TransactWriteItems") == 2
    assert more == {"bedrock:ConverseStream": 1, "dynamodb:Query": 1, "lambda:InvokeFunction": 1}


def test_runs_that_come_at_once_meet_and_the_same_way_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "ARRIVAL_S", 0.02)
    first, again = contention.take_round(6, 0), contention.take_round(6, 0)
    assert first == again
    assert first.conflicts.total() > 0
    assert len(first.waits_ms) == 6
    assert min(first.waits_ms) >= 2 * contention.MODEL_S * 1000
