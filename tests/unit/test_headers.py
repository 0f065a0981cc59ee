"""The headers of every answer of a door, and which pages of other origins may read it."""

from typing import Any

import pytest

from agent.admission import Room1
from agent.testing.clock import FakeClock
from agent.testing.controls import MemoryControlBook
from agent.testing.limits import MemoryLimitBook
from agent.testing.run_log import MemoryRunLog
from agent.watching import Room1Reader
from lambdas import http_door, shim, stream_events
from lambdas.headers import EXPOSED, NOBODY, SECURITY, Cors
from tests.unit.gateway import CLIENT, Answer, Context, request
from tests.unit.test_shim import MISSING, RELEASE, Bell

ALLOWED, OTHER = "https://app.example.com", "https://evil.example.com"
READERS = Cors.of(f"{ALLOWED}, http://localhost:3000")


def door(name: str, cors: Cors) -> http_door.Handler:
    log, clock, clients = MemoryRunLog(), FakeClock(), frozenset({CLIENT})
    if name == "shim":
        return shim.door(Room1(log, Bell(), clock, MemoryLimitBook(), RELEASE, MemoryControlBook(clock)), clients, cors)
    return stream_events.door(Room1Reader(log, clock), clients, cors)


def answer(name: str, method: str, path: str, body: object = None, cors: Cors = NOBODY, **how: Any) -> Answer:
    return Answer.read(door(name, cors)(request(method, path, body, **how), Context()))


ANSWERS = [
    ("shim", "POST", "/runs", {"input": "hello"}, {}, 202),
    ("shim", "GET", "/runs", None, {}, 200),
    ("shim", "GET", f"/runs/{MISSING}", None, {}, 404),
    ("shim", "POST", "/runs", {"input": ""}, {}, 400),
    ("shim", "GET", "/runs", None, {"claims": {"token_use": "id"}}, 401),
    ("shim", "POST", "/runs", None, {"raw": "x", "headers": {"Content-Type": "text/plain"}}, 415),
    ("shim", "DELETE", "/runs", None, {}, 404),
    ("stream_events", "GET", f"/runs/{MISSING}/events", None, {}, 404),
]


@pytest.mark.parametrize(("name", "method", "path", "body", "how", "status"), ANSWERS)
@pytest.mark.parametrize("cors", [NOBODY, READERS], ids=["nobody", "readers"])
def test_every_answer_carries_the_security_headers(
    name: str, method: str, path: str, body: object, how: dict[str, Any], status: int, cors: Cors
) -> None:
    found = answer(name, method, path, body, cors, **how)
    assert found.status == status
    assert SECURITY.items() <= found.headers.items()
    assert "Access-Control-Allow-Credentials" not in found.headers


@pytest.mark.parametrize(("name", "method", "path", "body", "how", "status"), ANSWERS)
def test_an_allowed_origin_reads_every_answer_refusals_included(
    name: str, method: str, path: str, body: object, how: dict[str, Any], status: int
) -> None:
    how = {**how, "headers": {**how.get("headers", {}), "origin": ALLOWED}}
    found = answer(name, method, path, body, READERS, **how)
    assert found.status == status
    assert found.headers["Access-Control-Allow-Origin"] == ALLOWED
    assert found.headers["Access-Control-Expose-Headers"] == EXPOSED
    assert found.headers["Vary"] == "Origin"


@pytest.mark.parametrize("origin", [OTHER, "null", "*", f"{ALLOWED}.evil.example.com", ALLOWED.upper(), "", None])
def test_another_origin_reads_nothing(origin: str | None) -> None:
    sent = {} if origin is None else {"Origin": origin}
    found = answer("shim", "GET", "/runs", cors=READERS, headers=sent)
    assert "Access-Control-Allow-Origin" not in found.headers
    assert found.headers["Vary"] == "Origin"


def test_without_a_list_no_origin_reads_anything() -> None:
    found = answer("shim", "GET", "/runs", headers={"Origin": ALLOWED})
    assert not any(name.startswith("Access-Control") or name == "Vary" for name in found.headers)


def test_a_list_is_read_in_its_order_and_an_empty_one_is_nobody() -> None:
    assert READERS.origins == (ALLOWED, "http://localhost:3000")
    assert Cors.of("") == Cors.of(" , ") == NOBODY
