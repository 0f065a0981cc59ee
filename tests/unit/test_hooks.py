"""A team's code may look on and may say no."""

from dataclasses import replace

import pytest

from agent.errors import HookFailed
from agent.events import Verdict
from agent.hooks import CallDeciding, Hooks, ModelAsking, tighten
from agent.identity import Principal, Role
from agent.testing.model import asks, says
from tests.sample_agent import QUESTION, SampleCloud

ANN = Principal(tenant_id="acme", user_id="ann", roles=frozenset({Role.USER}))
ASKING = ModelAsking(principal=ANN, model_id="m", turn=1, max_tokens=1000)
DECIDING = CallDeciding(principal=ANN, tool="pay", arguments_json="{}", verdict=Verdict.ASK)


def test_each_hook_is_given_what_the_one_before_it_left():
    hooks = (lambda e: replace(e, max_tokens=500), lambda e: replace(e, max_tokens=e.max_tokens - 1))
    assert tighten(hooks, ASKING).max_tokens == 499


@pytest.mark.parametrize(
    ("event", "change"),
    [
        (ASKING, {"max_tokens": 1001}),
        (ASKING, {"max_tokens": 0}),
        (ASKING, {"model_id": "cheaper"}),
        (DECIDING, {"verdict": Verdict.ALLOW}),
        (DECIDING, {"tool": "look"}),
        (DECIDING, {"verdict": "deny please"}),
        (DECIDING, {"message": None}),
    ],
)
def test_nothing_is_loosened_and_nothing_else_is_changed(event, change):
    with pytest.raises(HookFailed):
        tighten((lambda e: replace(e, **change),), event)


def test_a_hook_that_raises_fails_closed_with_its_class_alone():
    def broken(event):
        raise ValueError("the customer's secret")

    with pytest.raises(HookFailed, match="ValueError") as failed:
        tighten((broken,), ASKING)
    assert "secret" not in str(failed.value)


def test_a_run_asks_for_fewer_tokens_where_a_hook_says_so():
    cloud = SampleCloud(says("Done."), hooks=Hooks(asking=(lambda e: replace(e, max_tokens=64),)))
    cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert cloud.script.requests[0].max_tokens == 64


def test_a_run_whose_hook_is_broken_ends_before_the_model_is_asked():
    cloud = SampleCloud(says("Never."), hooks=Hooks(asking=(lambda e: None,)))
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    assert cloud.state(run).ended.reason == "policy_unavailable"
    assert cloud.script.requests == []


def test_observers_are_told_each_start_and_end_once_and_can_break_nothing():
    seen = []

    def broken(header, fact):
        raise RuntimeError

    hooks = Hooks(observers=(broken, lambda header, fact: seen.append((header.run_id, fact.type))))
    cloud = SampleCloud(asks(("look", {"item": "a"})), says("Done."), hooks=hooks)
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    kinds = ["model.started", "model.completed", "tool.started", "tool.completed", "model.started", "model.completed"]
    assert seen == [(run, kind) for kind in kinds]
