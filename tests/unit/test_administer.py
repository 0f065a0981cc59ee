"""The platform operator's door: who may come in, what they can ask for, and whose name stands in the audit."""

import json
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from aws_lambda_powertools import Logger
from botocore.credentials import Credentials

from agent.aws import caller
from agent.controls import Board, Target
from agent.errors import StoreUnavailable
from agent.operating import Desk
from agent.testing.audit import MemoryAuditTrail
from agent.testing.clock import FakeClock
from agent.testing.controls import MemoryControlBook
from agent.testing.limits import MemoryLimitBook
from lambdas import administer
from lambdas.settings import AdministerSettings
from lambdas.telemetry import Telemetry
from tests.unit.gateway import Context

FUNCTION, ACCOUNT, STS = "keepgate-test-administer", "123456789012", "https://sts.eu-central-1.amazonaws.com"
OLGA = f"arn:aws:sts::{ACCOUNT}:assumed-role/Operators/olga@example.com"
SETTINGS = AdministerSettings(
    stage="test",
    service="administer",
    trace_exporter="none",
    control_table="control",
    user_day_limit_micros=1,
    tenant_month_limit_micros=2,
    platform_month_limit_micros=3,
    user_runs_limit=4,
    tenant_runs_limit=5,
    tenant_jobs_limit=6,
    function=FUNCTION,
    account=ACCOUNT,
)
SWITCH_ON: dict[str, Any] = {"do": "switch_on", "target": {"kind": "everything"}, "reason": "an incident", "for_s": 60}


class Door:
    """The door, with STS behind it, which vouches for a proof only together with the header that was signed."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.audit = MemoryAuditTrail()
        self.switches = MemoryControlBook(self.clock, self.audit)
        limits = MemoryLimitBook(clock=self.clock, audit=self.audit)
        self.desk = Desk(self.switches, limits, self.audit, self.clock)
        self.arn = OLGA
        self.sent: list[str] = []
        self.signed: dict[str, str] = {}
        self.is_silent = False
        tell = Telemetry(SETTINGS, Logger(service="test", level="CRITICAL"))
        self._handle = administer.door(self.desk, self._who, tell)

    def _who(self, proof: str, command_json: str) -> str:
        return caller.require_caller(
            proof,
            bound=caller.bound_to(FUNCTION, command_json),
            sts_url=STS,
            account=ACCOUNT,
            clock=self.clock,
            send=self._sts,
        )

    def _sts(self, url: str, headers: Any) -> tuple[int, str]:
        self.sent.append(url)
        if self.is_silent:
            raise StoreUnavailable("STS does not answer")
        signature = dict(parse_qsl(url.partition("?")[2]))["X-Amz-Signature"]
        if not url.startswith(f"{STS}/?") or self.signed.get(signature) != headers[caller.BOUND]:
            return 403, "<Error><Code>SignatureDoesNotMatch</Code></Error>"
        return 200, f"<GetCallerIdentityResult><Arn>{self.arn}</Arn></GetCallerIdentityResult>"

    def prove(self, command_json: str, *, function: str = FUNCTION) -> str:
        """Sign as botocore does, at the clock's time."""
        bound = caller.bound_to(function, command_json)
        proof = caller.prove(Credentials("AKIA", "secret", "token"), sts_url=STS, region="eu-central-1", bound=bound)
        query = dict(parse_qsl(proof)) | {"X-Amz-Date": f"{self.clock.now():%Y%m%dT%H%M%SZ}"}
        self.signed[query["X-Amz-Signature"]] = bound
        return urlencode(query)

    def send(self, **event: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._handle(event, Context())
        return answer

    def __call__(self, command: object) -> dict[str, Any]:
        text = command if isinstance(command, str) else json.dumps(command)
        return self.send(command=text, proof=self.prove(text))

    def refused(self, answer: dict[str, Any]) -> str:
        assert self.switches.switches(Board()) == ()
        assert self.audit.changes("", limit=10) == ([], None)
        code: str = answer["refused"]["code"]
        return code


@pytest.fixture
def door() -> Door:
    return Door()


def test_a_command_is_carried_out_under_the_name_that_aws_vouches_for(door: Door) -> None:
    assert "switch" in door(SWITCH_ON)["done"]
    [change] = door.audit.changes("", limit=10)[0]
    assert (change.by, change.side, change.subject, change.reason) == (OLGA, "platform", "everything", "an incident")
    assert door.switches.effective("acme", "ann", release="r", agent="a").stops_run


def test_a_proof_is_good_for_its_command_alone(door: Door) -> None:
    harmless = door.prove(json.dumps({"do": "list_switches"}))
    assert door.refused(door.send(command=json.dumps(SWITCH_ON), proof=harmless)) == "not_authenticated"
    assert len(door.sent) == 1


def test_a_proof_is_good_for_its_function_alone(door: Door) -> None:
    text = json.dumps(SWITCH_ON)
    proof = door.prove(text, function="keepgate-dev-administer")
    assert door.refused(door.send(command=text, proof=proof)) == "not_authenticated"


@pytest.mark.parametrize("seconds", [-61, 61])
def test_a_proof_is_good_for_a_minute(door: Door, seconds: int) -> None:
    text = json.dumps(SWITCH_ON)
    at = door.clock.now() + timedelta(seconds=seconds)
    proof = urlencode(dict(parse_qsl(door.prove(text))) | {"X-Amz-Date": f"{at:%Y%m%dT%H%M%SZ}"})
    assert door.refused(door.send(command=text, proof=proof)) == "not_authenticated"
    assert door.sent == []


@pytest.mark.parametrize(
    "change",
    [
        {"Action": "AssumeRole"},
        {"Version": "2010-01-01"},
        {"X-Amz-SignedHeaders": "host"},
        {"X-Amz-SignedHeaders": f"host;{caller.BOUND};x-more"},
        {"X-Amz-Date": "yesterday"},
        {"RoleArn": "arn:aws:iam::123456789012:role/Admin"},
        {"X-Amz-Signature": None},
    ],
)
def test_what_is_not_exactly_a_signed_question_for_ones_own_name_is_never_sent(
    door: Door, change: dict[str, str | None]
) -> None:
    text = json.dumps(SWITCH_ON)
    query = {k: v for k, v in (dict(parse_qsl(door.prove(text))) | change).items() if v is not None}
    assert door.refused(door.send(command=text, proof=urlencode(query))) == "not_authenticated"
    twice = f"{door.prove(text)}&Action=AssumeRole"
    assert door.refused(door.send(command=text, proof=twice)) == "not_authenticated"
    assert door.sent == []


def test_what_one_signed_with_made_up_credentials_is_nobodys(door: Door) -> None:
    text = json.dumps(SWITCH_ON)
    proof = door.prove(text)
    door.signed.clear()
    assert door.refused(door.send(command=text, proof=proof)) == "not_authenticated"


def test_nobody_of_another_account_operates_this_one(door: Door) -> None:
    door.arn = OLGA.replace(ACCOUNT, "999999999999")
    assert door.refused(door(SWITCH_ON)) == "not_authenticated"


def test_nothing_is_done_while_nobody_can_say_who_asks(door: Door) -> None:
    door.is_silent = True
    assert door.refused(door(SWITCH_ON)) == "store_unavailable"


@pytest.mark.parametrize(
    "command",
    [
        {**SWITCH_ON, "by": "somebody else"},
        {**SWITCH_ON, "target": {"kind": "everything", "tenant": "acme"}},
        {**SWITCH_ON, "target": {"kind": "tool"}},
        {**SWITCH_ON, "target": {"kind": "user", "name": "ann"}},
        {**SWITCH_ON, "reason": ""},
        {**SWITCH_ON, "for_s": 0},
        {**SWITCH_ON, "for_s": 31 * 86_400},
        {**SWITCH_ON, "tenant_id": "T#acme"},
        {"do": "switch_off", "target": {"kind": "everything"}, "reason": "it is not on"},
        {"do": "set_limit", "name": "sunshine", "value": 1, "reason": "why not"},
        {"do": "set_limit", "name": "user_runs", "value": 1, "reason": "x", "user_id": "ann"},
        {"do": "read_audit", "limit": 101},
        {"do": "drop_tables"},
        {},
        [],
        "no JSON",
        "[" * 10_000,
    ],
)
def test_what_is_no_command_is_refused_and_changes_nothing(door: Door, command: object) -> None:
    assert door.refused(door(command)) in {"invalid_input", "not_found"}


@pytest.mark.parametrize("event", [{}, {"command": "{}"}, {"command": {}, "proof": ""}, {"more": 1}])
def test_what_is_no_request_is_refused(door: Door, event: dict[str, Any]) -> None:
    assert door.refused(door.send(**event)) == "invalid_input"


def test_the_platforms_operators_do_not_take_off_what_a_tenants_have_put_on(door: Door) -> None:
    own = Board("acme", by_tenant=True)
    until = door.clock.now() + timedelta(hours=1)
    door.desk.switch_on(own, Target(kind="new_runs"), until=until, by="olga", reason="a test")
    answer = door({"do": "switch_off", "tenant_id": "acme", "target": {"kind": "new_runs"}, "reason": "let them"})
    assert door.refused(answer) == "not_found"
    assert len(door.switches.switches(own)) == 1
    [listed] = door({"do": "list_switches", "tenant_id": "acme"})["done"]["switches"]
    assert (listed["side"], listed["by"]) == ("tenant", "olga")
