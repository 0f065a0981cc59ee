"""The decorator that makes a tool of a function, and the lock of the contracts."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from agent.contract_lock import locked, text_of
from agent.contracts import Effect, canonical_json
from agent.release import Release
from agent.tools import Arguments, ToolContext, by_name, tool
from support_desk.lock_contracts import PATH
from support_desk.tools import TOOLS


class Asked(Arguments):
    """What is asked."""

    order_id: str = Field(pattern=r"^[0-9]+$")
    limit: int = 3


class Answered(BaseModel):
    yes: bool


@tool(effect=Effect.READ, mode="idempotent", resource="Order::{order_id}", timeout_s=3)
def ask_something(args: Asked, context: ToolContext) -> Answered:
    """Ask something of somebody.

    The second paragraph is for the model too.
    """
    return Answered(yes=args.limit == 3)


def test_name_description_and_schema_come_from_the_function() -> None:
    contract = ask_something.contract
    assert contract.name == "ask_something"
    assert contract.description == "Ask something of somebody.\n\nThe second paragraph is for the model too."
    assert contract.schema_["required"] == ["order_id"]
    assert contract.schema_["additionalProperties"] is False
    assert contract.timeout_s == 3
    assert ask_something.arguments is Asked


def test_the_resource_is_named_by_the_arguments() -> None:
    assert ask_something.resource_of(Asked(order_id="1001")) == "Order::1001"


def test_braces_in_an_argument_are_text() -> None:
    class Free(Arguments):
        order_id: str

    free = tool(effect=Effect.READ, mode="idempotent", resource="Order::{order_id}")(_free(Free))
    assert free.resource_of(Free(order_id="{limit} {0.__class__}")) == "Order::{limit} {0.__class__}"


def _free(arguments: type[Arguments]) -> Callable[[Any, ToolContext], Answered]:
    def free(args: Arguments, context: ToolContext) -> Answered:
        """Do something with any text at all."""
        return Answered(yes=True)

    free.__annotations__["args"] = arguments
    return free


def test_arguments_take_no_unknown_field_and_no_coercion() -> None:
    for wrong in ({"order_id": "1", "extra": 1}, {"order_id": 1}, {"order_id": "1", "limit": "3"}, {}):
        with pytest.raises(ValidationError):
            Asked.model_validate(wrong)


def test_any_change_of_a_contract_changes_its_hash() -> None:
    contract = ask_something.contract
    changes = {
        "timeout_s": 4,
        "effect": Effect.WRITE,
        "resource": "Order::all",
        "description": "Ask something else, then.",
    }
    hashes = {contract.model_copy(update={field: value}).sha256() for field, value in changes.items()}
    assert len(hashes | {contract.sha256()}) == len(changes) + 1


def test_two_tools_of_one_name_are_refused() -> None:
    @tool(effect=Effect.READ, mode="idempotent", resource="Order::{order_id}")
    def ask_something(args: Asked, context: ToolContext) -> Answered:
        """Ask something of somebody else."""
        return Answered(yes=True)

    with pytest.raises(ValueError, match="ask_something"):
        by_name([globals()["ask_something"], ask_something])


def test_canonical_json_is_the_same_for_equal_values_and_refuses_nan() -> None:
    assert canonical_json({"b": [1, "ü"], "a": None}) == '{"a":null,"b":[1,"ü"]}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_the_lock_is_what_the_code_says() -> None:
    text = text_of(locked(TOOLS))
    assert PATH.read_text(encoding="utf-8") == text, "a contract changed: review it, then run `make lock-contracts`"


def test_the_release_offers_tools_that_exist() -> None:
    release = Release.read(PATH.parent, "support-desk-1")
    assert set(release.tools) <= set(TOOLS)
    assert release.caps.slice_micros <= release.caps.limit_micros


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_that_acts_says_so(name: str) -> None:
    contract = TOOLS[name].contract
    writes = "dynamodb:PutItem" in contract.data_actions
    assert writes or contract.effect in {Effect.READ, Effect.EXTERNAL}
    assert not (writes and contract.effect is Effect.READ)
    assert not (contract.effect is Effect.DESTRUCTIVE and contract.parallel)


def test_a_tool_that_may_write_the_tenants_items_cannot_call_itself_a_reading_one() -> None:
    def quiet(args: Asked, context: ToolContext) -> Answered:
        """Says that it reads, and asks for the right to write."""
        raise AssertionError

    with pytest.raises(ValidationError, match="its effect is not read"):
        tool(effect=Effect.READ, mode="idempotent", resource="Item::all", data_actions=("dynamodb:PutItem",))(quiet)
