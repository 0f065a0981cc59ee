"""Schemas from outside: only those are taken by which any arguments are checked in bounded time, and how they check."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.errors import ConfigurationInvalid
from agent.input_schemas import MAX_DEPTH, SchemaCheck, arguments_by, require_bounded, require_meant

TAKEN: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 9, "title": "Name"},
        "size": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "default": None},
        "kind": {"enum": ["a", "b"]},
        "address": {"$ref": "#/$defs/Address"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3, "uniqueItems": True},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"Address": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}},
}


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def test_an_ordinary_schema_is_taken_and_checks() -> None:
    require_bounded(TAKEN)
    arguments = arguments_by(TAKEN)
    given_arguments = {"name": "lamp", "size": 3, "address": {"town": "Lyon"}, "tags": ["x", "y"]}
    assert arguments.model_validate_json(json.dumps(given_arguments)).model_dump(mode="json") == given_arguments


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({}, "name"),
        ({"name": "LAMP"}, "name"),
        ({"name": "lamp", "size": 0}, "size"),
        ({"name": "lamp", "size": True}, "size"),
        ({"name": "lamp", "kind": "c"}, "kind"),
        ({"name": "lamp", "address": {}}, "address"),
        ({"name": "lamp", "tags": ["x", "x"]}, "tags"),
        ({"name": "lamp", "more": 1}, "more"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(wrong: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as refused:
        arguments_by(TAKEN).model_validate_json(json.dumps(wrong))
    [error] = refused.value.errors()
    assert place in error["msg"]
    assert len(error["msg"]) <= 5 * 202


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return of(x=schema)


def laughs() -> dict[str, Any]:
    """A schema of a few hundred bytes that unfolds to thousands."""
    definitions = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 4} for n in range(8)}
    return {**of(x={"$ref": "#/$defs/d0"}), "$defs": {**definitions, "d8": {"type": "string"}}}


REFUSED: dict[str, Any] = {
    "no object": [],
    "another type": {"type": "string"},
    "no type": {"properties": {}},
    "a reference to a server": of(x={"$ref": "http://169.254.169.254/latest/meta-data"}),
    "a reference to a file": of(x={"$ref": "file:///etc/passwd"}),
    "a reference to an id": of(x={"$id": "https://x.example/", "$ref": "#/$defs/y"}),
    "a reference to nothing": of(x={"$ref": "#/$defs/gone"}),
    "a reference into itself": {**of(x={"$ref": "#/$defs/a"}), "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}},
    "a reference to the whole": of(x={"$ref": "#"}),
    "a dynamic reference": of(x={"$dynamicRef": "#a"}),
    "a catastrophic pattern": of(x={"type": "string", "pattern": r"^(a+)+\1$"}),
    "a pattern that looks ahead": of(x={"type": "string", "pattern": "^(?=.*a).*$"}),
    "patterns as names": of(x={"type": "object", "patternProperties": {"(a+)+$": {}}}),
    "conditions": of(x={"if": {}, "then": {}}),
    "conditions at the top": {**of(), "allOf": [of()]},
    "an unknown keyword": of(x={"type": "string", "x-own": 1}),
    "too deep": nested(MAX_DEPTH + 1),
    "too many": laughs(),
    "too large": of(x={"description": "x" * 20_000}),
    "no schema": of(x={"type": "sting"}),
    "no schema in a schema": of(x=3),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_schema_that_could_cost_more_than_a_moment_is_refused(name: str) -> None:
    began = time.process_time()
    with pytest.raises(ConfigurationInvalid):
        require_meant(require_bounded(REFUSED[name]))
    assert time.process_time() - began < 5


def test_a_pattern_that_other_engines_hang_on_takes_a_moment() -> None:
    schema = require_bounded(of(x={"type": "string", "pattern": "^(a+)+$"}))
    began = time.process_time()
    assert SchemaCheck(schema).problems({"x": "a" * 30_000 + "!"})
    assert time.process_time() - began < 5


def test_a_check_that_can_not_be_made_is_a_no() -> None:
    """Not bounded before: the reference is not there, and nothing is fetched."""
    check = SchemaCheck(of(x={"$ref": "https://schemas.example/x"}))
    assert check.problems({"x": 1}) == ["arguments: could not be checked"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_whatever_a_model_writes_is_kept_as_it_is_or_refused(written: Any) -> None:
    arguments = arguments_by({**TAKEN, "additionalProperties": True, "required": []})
    try:
        kept = arguments.model_validate_json(json.dumps(written))
    except ValidationError:
        return
    assert kept.model_dump(mode="json") == written


@given(JSON)
def test_whatever_a_server_calls_a_schema_is_taken_or_refused(schema: Any) -> None:
    try:
        require_meant(require_bounded(schema))
    except ConfigurationInvalid:
        return
    SchemaCheck(schema).problems({"x": 1})


@pytest.mark.parametrize("name", ["model_dump", "model_config", "copy", "__class__", "schema", "__pydantic_extra__"])
def test_an_argument_may_be_called_what_it_likes(name: str) -> None:
    arguments = arguments_by(of(**{name: {"type": "string"}}))
    kept = arguments.model_validate_json(json.dumps({name: "x"}))
    assert kept.model_dump(mode="json") == {name: "x"}
