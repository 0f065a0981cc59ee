"""A model is told what is wrong with its calls, so that it may correct itself; so often, and not for ever."""

import pytest

from agent.caps import denied_turns
from agent.endings import EndReason
from agent.events import ToolUse
from agent.testing.model import asks, says
from agent.testing.rooms import FixedPolicy
from support_desk.tools import TOOLS
from tests.sample_agent import QUESTION, SampleCloud, release
from tests.unit.test_gate import gate

WRONG = ("look", {"item": 7})
RIGHT = ("look", {"item": "a"})


def finish(*turns, **around):
    cloud = SampleCloud(*turns, **around)
    run = cloud.ask(QUESTION)
    cloud.run_until_idle()
    return cloud, cloud.state(run)


def test_a_model_that_corrects_itself_in_time_gets_its_answer():
    cloud, state = finish(asks(WRONG), asks(WRONG), asks(WRONG), asks(RIGHT), says("Found."))
    assert state.ended.answer == "Found."
    assert sum(cloud.effects.values()) == 1


def test_a_model_that_does_not_is_not_asked_for_ever():
    cloud, state = finish(*[asks(WRONG)] * 8)
    assert state.ended.reason is EndReason.DENIED_TOO_OFTEN
    assert "could not put it right" in state.ended.message
    assert (len(state.turns), sum(cloud.effects.values())) == (4, 0)


def test_what_the_last_answer_asked_for_besides_still_runs():
    cloud, state = finish(asks(WRONG, ("save", {"item": "a"})), caps={"max_denied_turns": 1})
    assert state.ended.reason is EndReason.DENIED_TOO_OFTEN
    assert [name.split()[0] for name in cloud.effects] == ["save"]


def test_what_policy_denies_is_not_tried_for_ever_either():
    _, state = finish(*[asks(("pay", {"item": "a"}))] * 8, policy=FixedPolicy({"pay": "deny"}))
    assert (state.ended.reason, len(state.turns)) == (EndReason.DENIED_TOO_OFTEN, 4)


def test_tools_that_there_are_not_count_as_one():
    _, state = finish(*[asks((f"tool_{n}", {})) for n in range(8)])
    assert (state.ended.reason, len(state.turns)) == (EndReason.DENIED_TOO_OFTEN, 4)


def test_a_turn_counts_once_for_a_tool_and_each_tool_for_itself():
    _, state = finish(asks(WRONG, WRONG, WRONG), asks(("save", {})), asks(("pay", {})), says("Sorry."))
    assert state.ended.answer == "Sorry."
    assert denied_turns(state) == {"look": 1, "save": 1, "pay": 1}


def test_too_many_calls_at_once_are_no_fault():
    _, state = finish(*[asks(RIGHT, RIGHT)] * 5, says("Done."), caps={"max_calls_per_turn": 1})
    assert state.ended.answer == "Done."


def told(tool, arguments, **around):
    use = ToolUse(call_id="call_1_0", tool=tool, arguments=arguments)
    desk = release().model_copy(update={"tools": tuple(TOOLS)})
    [decision] = gate(tools=TOOLS, release=desk, **around).decide([use])
    assert decision.code == "invalid_arguments"
    return decision.message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"order_id": "one", "amount_cents": 5, "reason": "late"}, ["order_id", "digits only, such as 1001"]),
        ({"order_id": "1001", "amount_cents": 12.5, "reason": "late"}, ["amount_cents", "integer", "12.50 is 1250"]),
        ({"order_id": "1001", "amount_cents": 0, "reason": "late"}, ["amount_cents", "greater than or equal to 1"]),
        ({"order_id": "1001", "reason": "late"}, ["amount_cents", "required"]),
        ({"order_id": "1001", "amount_cents": 5, "reason": "because"}, ["reason", "'damaged'", "'goodwill'"]),
        ({"order": "1001"}, ["order:", "there are: order_id, amount_cents, reason"]),
    ],
)
def test_wrong_arguments_are_named_with_what_they_should_be(arguments, words):
    message = told("issue_refund", arguments)
    for word in [*words, "Correct this and call again."]:
        assert word in message


def test_a_model_is_not_told_all_arguments_where_it_got_one_wrong_that_there_is():
    message = told("issue_refund", {"order_id": "one", "amount_cents": 5, "reason": "late"})
    assert "there are:" not in message


def test_what_the_model_is_told_has_a_bound_whatever_it_made_up():
    message = told("issue_refund", {"x" * 5000: 1, "y" * 5000: 1})
    assert len(message) < 1100
    assert "x" * 65 not in message
