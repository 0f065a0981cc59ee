"""What a tool brings back has bounds that the platform keeps: rows, bytes, files, and the codes of its errors."""

import json
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from agent.contracts import Effect
from agent.execution import execute
from agent.ports.tool_room import ToolReply
from agent.testing.decided_run import CALL, RUN, DecidedRun
from agent.tools import Arguments, Tool, ToolContext, ToolFailed, tool
from support_desk.tools import TOOLS

NEXT = "Call again with the last row as `after`."


class Asked(Arguments):
    rows: int = 0
    width: int = 1
    fails_with: str = ""
    file_bytes: tuple[int, ...] = ()


class Row(BaseModel):
    number: int
    tags: list[str] = []


class Rows(BaseModel):
    model_config = ConfigDict(extra="allow")

    rows: list[Row]
    next: str | None = None


@tool(
    effect=Effect.READ,
    mode="idempotent",
    resource="Rows::all",
    max_rows=3,
    next_page=NEXT,
    max_result_bytes=400,
    max_file_bytes=10,
    writes_files=True,
    errors=("no_rows",),
)
def list_rows(args: Asked, context: ToolContext) -> Rows:
    """List so many rows, with so many tags each, whatever the contract says."""
    if args.fails_with:
        raise ToolFailed(args.fails_with, "There are none; ask for others.")
    for number, size in enumerate(args.file_bytes):
        context.files.write(f"{number}.txt", b"x" * size, content_type="text/plain")
    tags = [f"t{n}" for n in range(args.width)]
    return Rows(rows=[Row(number=n, tags=tags) for n in range(args.rows)], next=str(args.rows))


def run(tested: Tool[Any] = list_rows, **arguments: Any) -> tuple[ToolReply, dict[str, bytes]]:
    desk = DecidedRun(tested)
    desk.decide(tested.arguments(**arguments).model_dump(mode="json"))
    desk.start()
    return execute(desk.room, "acme", RUN, CALL), desk.table.objects


def test_a_list_within_its_rows_is_left_as_it_is() -> None:
    reply, objects = run(rows=3)
    assert [row["number"] for row in json.loads(reply.content)["rows"]] == [0, 1, 2]
    assert "rows_left_out" not in reply.content
    assert (reply.object_key, objects) == (None, {})


def test_rows_beyond_the_bound_are_left_out_and_the_result_says_how_to_get_them() -> None:
    reply, objects = run(rows=5)
    answer = json.loads(reply.content)
    assert [row["number"] for row in answer["rows"]] == [0, 1, 2]
    assert answer["rows_left_out"] == {"rows": {"shown": 3, "of": 5}, "how_to_get_them": NEXT}
    assert reply.object_key is not None
    assert len(json.loads(objects[reply.object_key])["rows"]) == 5, "the whole is in the bucket"


def test_lists_inside_of_rows_have_the_same_bound() -> None:
    answer = json.loads(run(rows=2, width=4)[0].content)
    assert [row["tags"] for row in answer["rows"]] == [["t0", "t1", "t2"]] * 2
    assert answer["rows_left_out"] == {"rows[].tags": {"shown": 3, "of": 4}, "how_to_get_them": NEXT}


def test_rows_that_are_few_and_large_still_meet_the_bound_of_bytes() -> None:
    reply, objects = run(rows=3, width=100)
    answer = json.loads(reply.content)
    assert "rows_left_out" in answer
    wide = list_rows.contract.model_copy(update={"max_rows": 1000})
    reply, objects = run(Tool(contract=wide, arguments=Asked, run=list_rows.run), rows=3, width=100)
    answer = json.loads(reply.content)
    assert answer["truncated"] is True
    assert len(reply.content.encode()) <= 400
    assert len(objects) == 1


def test_a_call_writes_no_more_than_its_contract_lets_it() -> None:
    reply, objects = run(file_bytes=(6, 4))
    assert (reply.outcome, len(objects)) == ("ok", 2)
    reply, objects = run(file_bytes=(6, 5, 1))
    assert json.loads(reply.content)["error"] == "file_too_large"
    assert [len(content) for content in objects.values()] == [6]


@pytest.mark.parametrize(
    ("code", "told"),
    [("no_rows", "no_rows"), ("surprise", "tool_failed"), ("limit_reached", "tool_failed")],
)
def test_a_tool_fails_with_the_codes_it_declared_and_no_others(code: str, told: str) -> None:
    reply, _ = run(fails_with=code)
    assert json.loads(reply.content) == {"error": told, "message": "There are none; ask for others."}


@pytest.mark.parametrize("code", ["No", "no such", "", "x" * 41])
def test_a_code_is_a_word(code: str) -> None:
    with pytest.raises(ValidationError):
        type(list_rows.contract).model_validate(list_rows.contract.model_dump(by_alias=True) | {"errors": (code,)})


@pytest.mark.parametrize("name", [name for name, tool in TOOLS.items() if tool.contract.server is None])
def test_each_tool_of_the_desk_that_lists_has_a_bound_of_its_own(name: str) -> None:
    contract, result = TOOLS[name].contract, TOOLS[name].run.__annotations__["return"].model_json_schema()
    lists = [field for field in result["properties"].values() if field.get("type") == "array"]
    if name == "lookup_order":
        assert contract.max_rows == 100  # the articles of one order
    elif lists:
        assert contract.max_rows <= 25
        assert contract.next_page != type(contract).model_fields["next_page"].default
