"""JSON Schemas that come from outside: which ones are taken, and arguments checked by them.

Only keywords from a closed list are taken, references only within the schema and never in a circle, and what a schema
unfolds to is bounded: checking any arguments takes a bounded time and no request to anybody. Patterns run on the Rust
engine that pydantic brings, which takes time linear in the text and refuses patterns it can't keep that promise for.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError, SchemaError, SchemaValidator, core_schema

from agent.errors import ConfigurationInvalid
from agent.tools import Arguments

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

MAX_BYTES = 16_384
MAX_UNFOLDED = 2_000
"""Schemas within a schema, each reference counted as what it refers to."""
MAX_DEPTH = 12
MAX_PROBLEMS, MAX_PROBLEM_CHARACTERS = 5, 200

NOTES = frozenset({"$comment", "title", "description", "default", "examples", "deprecated", "format"})
"""Say something to people and the model; nothing is checked by them."""
LIMITS = frozenset(
    {
        *("type", "enum", "const", "required"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties"),
    }
)
ONE = frozenset({"items", "additionalProperties"})
MANY = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
DEFINITIONS = frozenset({"$defs", "definitions"})
"""What is in them counts where it is referred to."""
NOT_USED = frozenset({"$schema", "$id"})
"""Are there at the top of many schemas, and taken out: all are read as draft 2020-12, and refer only to themselves."""
AT_THE_TOP = NOTES | NOT_USED | DEFINITIONS | {"type", "properties", "required", "additionalProperties"}


def require_bounded(schema: object) -> dict[str, Any]:
    """Return the schema, if arguments can be checked by it in bounded time.

    Raises:
        ConfigurationInvalid: it says where and what.
    """
    if not isinstance(schema, dict):
        raise ConfigurationInvalid("the input schema is no object")
    if len(json.dumps(schema).encode()) > MAX_BYTES:
        raise ConfigurationInvalid(f"the input schema has more than {MAX_BYTES} bytes")
    if schema.get("type") != "object":
        raise ConfigurationInvalid("the input schema's type must be object")
    if unknown := sorted(schema.keys() - AT_THE_TOP):
        raise ConfigurationInvalid(f"the input schema has {', '.join(unknown)} at its top, which is not supported")
    for count, _ in enumerate(_unfolded(schema, schema, at="", above=()), start=1):
        if count > MAX_UNFOLDED:
            raise ConfigurationInvalid(f"the input schema unfolds to more than {MAX_UNFOLDED} schemas")
    return schema


def require_meant(schema: Mapping[str, Any]) -> None:
    """Check that each keyword has a value that means something: for who takes a schema in, not for who uses it.

    Raises:
        ConfigurationInvalid: it says what.
    """
    from jsonschema import Draft202012Validator
    from jsonschema import SchemaError as NotASchema

    try:
        Draft202012Validator.check_schema({key: value for key, value in schema.items() if key not in NOT_USED})
    except NotASchema as wrong:
        raise ConfigurationInvalid(f"the input schema is none: {wrong.message[:200]}") from wrong


def _unfolded(schema: object, root: dict[str, Any], *, at: str, above: tuple[int, ...]) -> Iterator[None]:
    """Yield once for each schema within a schema, going through references."""
    yield
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise ConfigurationInvalid(f"{at or 'the input schema'}: not a schema")
    if id(schema) in above or len(above) >= MAX_DEPTH:
        raise ConfigurationInvalid(f"{at}: refers to itself, or is nested deeper than {MAX_DEPTH}")
    above = (*above, id(schema))
    for keyword, value in schema.items():
        here = f"{at}/{keyword}"
        for place, part in _parts(keyword, value, root, here):
            yield from _unfolded(part, root, at=place, above=above)


def _parts(keyword: str, value: Any, root: dict[str, Any], here: str) -> list[tuple[str, object]]:  # noqa: ANN401 - JSON
    """Return the schemas that a keyword's value is made of, each with its place."""
    if keyword == "$ref":
        return [(here, _target(value, root, here))]
    if keyword in ONE:
        return [(here, value)]
    if keyword in MANY and isinstance(value, list):
        return [(f"{here}/{index}", part) for index, part in enumerate(value)]
    if keyword == "properties" and isinstance(value, dict):
        return [(f"{here}/{name}", part) for name, part in value.items()]
    if keyword == "pattern":
        _pattern(str(value), here)
    elif keyword not in NOTES | LIMITS | DEFINITIONS and not (keyword in NOT_USED and here.count("/") == 1):
        raise ConfigurationInvalid(f"{here}: a keyword that is not supported")
    return []


def _target(reference: object, root: dict[str, Any], at: str) -> object:
    parts = str(reference).split("/")
    if len(parts) != 3 or parts[0] != "#" or parts[1] not in DEFINITIONS:
        raise ConfigurationInvalid(f"{at}: refers to something that is not a definition of this schema")
    try:
        return root[parts[1]][parts[2]]
    except (KeyError, TypeError) as missing:
        raise ConfigurationInvalid(f"{at}: refers to a definition that is not there") from missing


def _pattern(pattern: str, at: str = "") -> SchemaValidator:
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError as wrong:
        raise ConfigurationInvalid(f"{at}: a pattern that can't be checked in linear time") from wrong


_compiled_pattern = cache(_pattern)


class SchemaCheck:
    """Checks arguments by one bounded schema. Built at the first use: only who calls such a tool pays for it."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = {key: value for key, value in schema.items() if key not in NOT_USED}

    @cached_property
    def _validator(self) -> "Draft202012Validator":
        from jsonschema import Draft202012Validator
        from jsonschema import ValidationError as Wrong
        from jsonschema.validators import extend
        from referencing import Registry

        def linear(_: object, pattern: str, instance: object, __: object) -> Iterator[Wrong]:
            if isinstance(instance, str):
                try:
                    _compiled_pattern(pattern).validate_python(instance)
                except ValidationError:
                    yield Wrong("does not have the form that is asked for")

        checked = extend(Draft202012Validator, {"pattern": linear})  # type: ignore[no-untyped-call]  # in its stubs
        validator: Draft202012Validator = checked(self._schema, registry=Registry())  # an empty one fetches nothing
        return validator

    def problems(self, arguments: object) -> list[str]:
        """Return what is wrong with arguments, each with its place; empty where nothing is."""
        try:
            errors = list(islice(self._validator.iter_errors(arguments), MAX_PROBLEMS))
        except Exception:  # noqa: BLE001 - a check that can't be made is a no, whatever argument managed to break it
            return ["arguments: could not be checked"]
        places = (".".join(map(str, error.absolute_path)) or "arguments" for error in errors)
        return [
            f"{place}: {error.message}"[:MAX_PROBLEM_CHARACTERS] for place, error in zip(places, errors, strict=True)
        ]


def arguments_by(schema: Mapping[str, Any]) -> type[Arguments]:
    """Return the type of arguments that a bounded schema describes: kept as they are, checked by it."""
    check = SchemaCheck(schema)

    class SchemaArguments(Arguments):
        """Arguments of a tool that is described from outside."""

        model_config = ConfigDict(extra="allow")

        @model_validator(mode="before")
        @classmethod
        def _fit(cls, given: object) -> object:
            if problems := check.problems(given):
                raise PydanticCustomError("schema", "{problems}", {"problems": "; ".join(problems)})
            return given

    return SchemaArguments
