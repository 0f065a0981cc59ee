"""A secret that a tool repeats, on purpose or not, leaves room 3 masked: in results, errors, files and progress."""

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from agent.contracts import Effect, SecretNeed
from agent.errors import ToolLost
from agent.execution import execute
from agent.secrets import MASK, Mask
from agent.testing.decided_run import CALL, RUN, DecidedRun
from agent.testing.secrets import PREFIX
from agent.tools import Arguments, Tool, ToolContext, ToolFailed, tool

SECRET = 'p@ss "word"/ü+1'


class Told(Arguments):
    way: str


class Answer(BaseModel):
    text: str


NEEDS = (SecretNeed(name="shop-key", scope="tenant"), SecretNeed(name="own-key", scope="user"))


@tool(
    effect=Effect.EXTERNAL,
    mode="once",
    resource="Carrier::all",
    queued=True,
    writes_files=True,
    max_result_bytes=1000,
    secrets=NEEDS,
)
def tell(args: Told, context: ToolContext) -> Answer:
    """Tell what it should keep to itself, for the tests."""
    secret = context.secret("shop-key")
    match args.way:
        case "base64":
            return Answer(text=base64.b64encode(secret.encode()).decode())
        case "url":
            return Answer(text="https://x.example/?k=" + quote(secret, safe=""))
        case "fail":
            raise ToolFailed("refused", f"The carrier does not know {secret}.")
        case "file":
            context.files.write("a.txt", f"key: {secret}".encode(), content_type="text/plain")
            return Answer(text="written")
        case "name":
            context.secret("own-key")
            context.files.write("sesame-open.txt", b"", content_type="text/plain")
            return Answer(text="written")
        case "progress":
            context.progress(f"asking with {secret}")
            return Answer(text="told")
        case "large":
            return Answer(text=secret * 200)
        case "other":
            context.secret("own-key")
    return Answer(text=f"the key is {secret}, really")


def run_of(tested: Tool[Told] = tell) -> DecidedRun:
    run = DecidedRun(tested)
    run.secrets.values[f"{PREFIX}/T/acme/shop-key"] = SECRET
    return run


def told(way: str) -> tuple[str, DecidedRun]:
    run = run_of()
    run.decide({"way": way})
    run.queue()
    run.start()
    return execute(run.room, "acme", RUN, CALL).content, run


def is_hidden(content: str) -> bool:
    forms = [SECRET, json.dumps(SECRET)[1:-1], base64.b64encode(SECRET.encode()).decode(), quote(SECRET, safe="")]
    return MASK in content and not any(form in content for form in forms)


@pytest.mark.parametrize("way", ["plain", "base64", "url", "fail", "large"])
def test_a_result_or_an_error_that_repeats_a_secret_is_masked(way: str) -> None:
    content, run = told(way)
    assert is_hidden(content)
    assert all(is_hidden(stored.decode()) for stored in run.table.objects.values())


def test_a_file_and_a_progress_note_are_masked_too() -> None:
    _, run = told("file")
    assert [is_hidden(content.decode()) for content in run.table.objects.values()] == [True]
    _, run = told("progress")
    [note] = run.notes.read("acme", RUN, CALL, attempt=1, from_index=0)
    assert is_hidden(note)


def test_a_file_whose_name_holds_a_secret_is_not_written() -> None:
    run = run_of()
    run.secrets.values[f"{PREFIX}/T/acme/U/u-1/own-key"] = "sesame-open"
    run.decide({"way": "name"})
    run.queue()
    run.start()
    with pytest.raises(ToolLost):
        execute(run.room, "acme", RUN, CALL)
    assert not run.table.objects


def test_a_secret_that_is_not_set_up_is_an_error_which_the_model_can_read() -> None:
    content, _ = told("other")
    assert json.loads(content)["error"] == "secret_unavailable"


def test_the_decided_arguments_can_not_name_another_secret() -> None:
    """A tool asks by a name of its contract; there is no way from an argument to a path."""
    assert set(tell.contract.schema_["properties"]) == {"way"}
    assert [need.name for need in tell.contract.secrets] == ["shop-key", "own-key"]


@given(st.text(min_size=8, max_size=60).filter(lambda text: not set(text) & set("0123456789")))
def test_whatever_a_secret_is_made_of_it_is_not_left_in_json(secret: str) -> None:
    mask = Mask()
    mask.add(secret)
    masked = mask.json(Answer(text=f"1{secret}2").model_dump_json())
    assert json.loads(masked)["text"] == f"1{MASK}2"


@pytest.mark.parametrize("secrets", [("sesame-1", "sesame-1-and-more"), ("sesame-1-and-more", "sesame-1")])
def test_a_secret_that_begins_with_another_leaves_nothing_behind(secrets: tuple[str, str]) -> None:
    mask = Mask()
    for secret in secrets:
        mask.add(secret)
    assert mask.text("<sesame-1-and-more>") == f"<{MASK}>"
    assert mask.content(b"<sesame-1-and-more>") == f"<{MASK}>".encode()


@pytest.mark.parametrize(
    "form",
    [
        'sésame"?1',
        'sésame\\"?1',
        's\\u00e9same\\"?1',
        "s%C3%A9same%22%3F1",
        "c8Opc2FtZSI/MQ",
    ],
)
def test_a_secret_is_masked_in_every_form_it_is_often_repeated_in(form: str) -> None:
    mask = Mask()
    mask.add('sésame"?1')
    assert mask.text(f"<{form}>") == f"<{MASK}>"
    assert mask.content(f"<{form}>".encode()) == f"<{MASK}>".encode()


def test_in_a_list_nothing_but_the_secret_is_masked() -> None:
    mask = Mask()
    mask.add("sesame-sesame")
    assert json.loads(mask.json('{"found":["a","sesame-sesame",["b"]]}')) == {"found": ["a", MASK, ["b"]]}


@pytest.mark.parametrize("secret", ['{"text":"', '"text": 1', "12345678", 'text":"x', 'x","y":"'])
def test_a_result_stays_json_whatever_a_secret_looks_like(secret: str) -> None:
    mask = Mask()
    mask.add(secret)
    given = {"text": "x", "y": f"say {secret}", "n": 12345678, "deep": [{secret: 112345678}]}
    left = mask.json(json.dumps(given, separators=(",", ":")))
    assert json.loads(left)["y"] == f"say {MASK}"
    assert secret not in json.loads(left)["y"]
    assert (json.loads(left)["n"] == MASK) == (secret == "12345678")
