"""One warm process of `run_tool` that serves acme, then globex, then acme again: what is left of one for the next.

The real wiring on moto. Where a tenant's call leaves something behind (a client, a session, a cache, a file, a
variable, a word in a log), the next tenant's call is where it would show.
"""

import gc
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import boto3
import pytest
from aws_lambda_powertools import Logger
from botocore.awsrequest import AWSPreparedRequest
from moto import mock_aws

from agent.aws.run_log import DynamoDbRunLog
from agent.aws.tenant_data import load
from agent.endings import END, EndReason
from agent.events import RunEnded
from agent.testing.decided_run import CALL, DecidedRun
from agent.testing.tables import create_table
from agent.tools import Tool
from lambdas import clients, run_tool, wiring
from lambdas.telemetry import Telemetry
from support_desk import seed
from support_desk.tools import TOOLS
from tests.spans import Spans, recorded
from tests.unit.test_run_tool import SETTINGS

ORDER = {"acme": "Marta Keller", "globex": "Oliver Grant"}
"""Whose name stands on order 1001."""
CALLS: dict[str, dict[str, Any]] = {
    "lookup_order": {"order_id": "1001"},
    "list_orders": {"status": None, "placed_from": None, "placed_to": None, "limit": 20},
    "search_policy": {"query": "returns"},
    "export_orders": {"status": None, "placed_from": None, "placed_to": None},
    "save_draft": {"order_id": "1001", "subject": "Your order", "body": "It is on its way."},
}
SOURCES = ("agent", "lambdas", "support_desk")


def items(tenant: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the shop's items with the first of its orders: moto takes long over many."""
    return [item for item in seed.items(tenant) if item[0] != "order" or item[1] < "1040"]


@dataclass
class Sent:
    """What went to AWS: the operation, whose session signed it, and what it was about."""

    operation: str
    session: str
    request: str


@dataclass
class Wire:
    """Watches every client that wiring builds."""

    sessions: dict[str, str] = field(default_factory=dict)
    """Tenants by access key."""
    sent: list[Sent] = field(default_factory=list)

    def watch(self, client: Any) -> Any:
        client.meta.events.register_first("before-send", self._sends)
        client.meta.events.register("after-call.sts.AssumeRole", self._assumed)
        return client

    def _sends(self, request: AWSPreparedRequest, event_name: str, **_: Any) -> None:
        signature: Any = request.headers["Authorization"]
        text = signature.decode() if isinstance(signature, bytes) else signature
        [key] = re.findall(r"Credential=(\w+)/", text)
        body: Any = request.body or b""
        about = body.decode() if isinstance(body, bytes) else str(getattr(body, "getvalue", lambda: body)())
        self.sent.append(Sent(event_name.removeprefix("before-send."), key, f"{request.url} {about}"))

    def _assumed(self, parsed: dict[str, Any], **_: Any) -> None:
        asked = parse_qs(self.sent[-1].request.partition(" ")[2])
        self.sessions[parsed["Credentials"]["AccessKeyId"]] = asked["Tags.member.1.Value"][0]


@dataclass
class Served:
    answer: dict[str, Any]
    sent: list[Sent]
    logged: str
    spans: str


class Process:
    """A warm process: one door over one room, as Lambda keeps it between invocations."""

    def __init__(self, aws: Any, wire: Wire, found: Spans) -> None:
        self._aws, self.wire, self._spans = aws, wire, found
        self._said = StringIO()
        self.room = wiring.tool_room(SETTINGS)
        tell = Telemetry(SETTINGS, Logger(service="warm", level="DEBUG", stream=self._said))
        self._door = run_tool.door(self.room, tell)
        self._runs = 0

    def serve(self, tenant: str, name: str, tool: Tool[Any] | None = None) -> Served:
        self._runs += 1
        run = DecidedRun(
            tool or TOOLS[name],
            log=DynamoDbRunLog(self._aws, SETTINGS.runs_table),
            run_id=f"run_01JABCDEFGHJKMNPQRSTV{self._runs:05}",
            tenant_id=tenant,
        )
        run.decide(CALLS[name])
        if run.tool.contract.queued:
            run.queue()
        run.start()
        sent, spans_before, said = len(self.wire.sent), len(self._spans.finished()), self._said.tell()
        event = {"tenant_id": tenant, "run_id": run.run_id, "call_id": CALL, "traceparent": None}
        context: Any = SimpleNamespace(aws_request_id=f"r-{self._runs}")
        answer = self._door(event, context)
        assert "refused" not in answer, answer
        status, message = END[EndReason.CANCELLED]
        run.append(RunEnded(status=status, reason=EndReason.CANCELLED, message=message, answer=None))
        told = " ".join(span.to_json() for span in self._spans.finished()[spans_before:])
        return Served(answer, self.wire.sent[sent:], self._said.getvalue()[said:], told)


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    """One process for all tests of this file: the warmer, the better."""
    wire, build = Wire(), clients.new
    with mock_aws(), recorded() as spans, pytest.MonkeyPatch.context() as patch:
        # A copy, which the room may take the credentials out of.
        patch.setattr(os, "environ", {**os.environ, "AWS_DEFAULT_REGION": "eu-central-1"})
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        patch.setattr(clients, "new", lambda *args, **how: wire.watch(build(*args, **how)))
        client = boto3.client("dynamodb")
        for table in (SETTINGS.runs_table, SETTINGS.tenant_table):
            create_table(client, table)
        region: Any = {"LocationConstraint": "eu-central-1"}
        boto3.client("s3").create_bucket(Bucket=SETTINGS.bucket, CreateBucketConfiguration=region)
        for tenant in ORDER:
            load(client, SETTINGS.tenant_table, tenant, items(tenant))
        clients.client.cache_clear()
        yield Process(client, wire, spans)
    clients.client.cache_clear()


def other(tenant: str) -> str:
    return next(name for name in ORDER if name != tenant)


TURNS = ("acme", "globex", "acme")


@pytest.mark.parametrize("name", CALLS)
def test_each_answer_holds_what_is_the_tenants_and_nothing_of_the_one_before(process: Process, name: str) -> None:
    answers = {}
    for tenant in TURNS:
        served = process.serve(tenant, name)
        assert served.answer["outcome"] == "ok", served.answer
        answers.setdefault(tenant, served.answer["content"])
        assert ORDER[other(tenant)] not in served.answer["content"]
        assert f"T/{other(tenant)}/" not in json.dumps(served.answer)
    if name in {"lookup_order", "list_orders"}:
        assert all(ORDER[tenant] in answers[tenant] for tenant in ORDER)


@pytest.mark.parametrize("name", CALLS)
def test_each_call_is_signed_by_a_session_of_its_own_tenant_and_names_no_other(process: Process, name: str) -> None:
    for tenant in TURNS:
        for sent in process.serve(tenant, name).sent:
            assert f"T#{other(tenant)}" not in sent.request
            assert f"T/{other(tenant)}/" not in sent.request
            reaches_data = f'"TableName": "{SETTINGS.tenant_table}"' in sent.request or sent.operation.startswith("s3.")
            if reaches_data:
                assert process.wire.sessions[sent.session] == tenant
            elif sent.operation != "sts.AssumeRole":
                assert sent.session not in process.wire.sessions, "the log is read with the function's own rights"


def test_a_tenant_that_comes_back_finds_its_own_session(process: Process) -> None:
    for tenant in ORDER:
        process.serve(tenant, "lookup_order")
    made = dict(process.wire.sessions)
    assert set(made.values()) == set(ORDER)
    for tenant in TURNS:
        process.serve(tenant, "lookup_order")
    assert process.wire.sessions == made


@contextmanager
def unchanged_surroundings() -> Iterator[None]:
    def surroundings() -> Any:
        files = {str(path) for path in Path(tempfile.gettempdir()).glob("*")}
        return dict(os.environ), files, Path.cwd(), boto3.DEFAULT_SESSION, tuple(sys.path)

    before = surroundings()
    yield
    assert surroundings() == before


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_no_variable_no_file_and_no_default_session(
    process: Process, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for tenant in TURNS:
        with unchanged_surroundings():
            process.serve(tenant, name)
    assert list(tmp_path.iterdir()) == []
    assert not any(name in value for value in os.environ.values() for name in ORDER.values())


def kept(*also: object, words: set[str]) -> set[str]:
    """Return which of these words stand in any text that the globals of our modules, or `also`, lead to."""
    found: set[str] = set()
    seen = {id(seed), id(vars(seed))}  # its constants hold the names, and a function has no seed
    stack = [*also, *(vars(module) for name, module in list(sys.modules.items()) if name.partition(".")[0] in SOURCES)]
    while stack:
        thing = stack.pop()
        origin = str(getattr(thing, "__module__", None) or type(thing).__module__)
        # Libraries are left out: moto among them is AWS, where the items are; a client holds a session's key.
        if id(thing) in seen or origin.partition(".")[0] not in {*SOURCES, "builtins", "functools", "collections"}:
            continue
        seen.add(id(thing))
        if isinstance(thing, str | bytes):
            text = thing if isinstance(thing, str) else thing.decode(errors="replace")
            found |= {word for word in words if word in text}
        elif not isinstance(thing, ModuleType) or thing.__name__.partition(".")[0] in SOURCES:
            stack += gc.get_referents(thing)
    return found


def _words(answer: dict[str, Any], tenant: str) -> set[str]:
    """Return words that only this tenant's data holds."""
    theirs = {str(value) for _, _, item in items(tenant) for value in item.values() if isinstance(value, str)}
    others = json.dumps([item for _, _, item in items(other(tenant))])
    return {word for word in theirs if len(word) > 8 and word not in others and word in answer["content"]}


def test_nothing_of_a_tenants_data_stays_in_the_process(process: Process) -> None:
    # Constants of modules that other tests have imported may hold a word or two: what counts is what calls add.
    texts = {str(value) for tenant in ORDER for _, _, item in items(tenant) for value in item.values()}
    before = kept(process.room, words=texts)
    words: set[str] = set()
    for tenant in ORDER:
        for name in ("lookup_order", "list_orders"):
            words |= _words(process.serve(tenant, name).answer, tenant)
    assert set(ORDER.values()) <= words - before
    gc.collect()
    assert kept(process.room, words=words - before) == set()


def test_logs_and_spans_of_a_call_name_no_other_tenant(process: Process) -> None:
    for tenant in ORDER:
        for name in set(CALLS) - {"export_orders"}:
            served = process.serve(tenant, name)
            assert tenant in served.spans
            assert other(tenant) not in served.logged + served.spans
            assert not any(person in served.logged + served.spans for person in ORDER.values())


def test_a_call_that_fails_leaves_nothing_for_the_next_tenants_either(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.serve("acme", "lookup_order")

    def broken(*_: object) -> None:
        raise ValueError(ORDER["acme"])

    with monkeypatch.context() as patch:
        patch.setattr(type(process.room.access), "data", broken)
        assert process.serve("acme", "lookup_order").answer["outcome"] == "error"
    served = process.serve("globex", "lookup_order")
    assert ORDER["globex"] in served.answer["content"]
    assert ORDER["acme"] not in json.dumps(served.answer) + served.logged + served.spans
    gc.collect()
    assert kept(process.room, words={ORDER["acme"]}) == set()


# --- the guards broken on purpose -------------------------------------------------------------------------------------


def test_a_room_that_kept_sessions_by_rights_alone_would_be_seen(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    access: Any = process.room.access
    held = access._open
    monkeypatch.setattr(type(access), "_open", lambda self, tenant, policy, for_s: held("acme", policy, for_s=for_s))
    process.serve("acme", "lookup_order")
    data = [s for s in process.serve("globex", "lookup_order").sent if SETTINGS.tenant_table in s.request]
    assert [process.wire.sessions[sent.session] for sent in data] == ["acme"], (
        "what the test of signatures would refuse"
    )


def test_a_tool_that_cached_what_it_read_would_be_seen(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = sys.modules[TOOLS["lookup_order"].run.__module__]
    answer = process.serve("acme", "lookup_order").answer
    monkeypatch.setattr(module, "_cache", {"1001": answer["content"]}, raising=False)
    assert kept(words={ORDER["acme"]}) == {ORDER["acme"]}
