"""What a tenant's operators can do over HTTP: see and tighten their own tenant, and nothing else."""

from datetime import timedelta
from typing import Any

import pytest

from agent.admission import Room1
from agent.controls import MAX_DURATION, Board, Switch, Target
from agent.limits import Limits, LimitScope
from agent.ports.money import Grant
from agent.testing.audit import MemoryAuditTrail
from agent.testing.controls import MemoryControlBook
from agent.testing.ledger import MemoryLedger
from agent.testing.limits import MemoryLimitBook
from tests.unit.gateway import ANNA, Answer
from tests.unit.test_shim import RELEASE, Api, refused

OLGA = "33333333-3333-4333-8333-333333333333"
OPERATOR: dict[str, Any] = {"sub": OLGA, "cognito:groups": "user,operator"}
GLOBEX: dict[str, Any] = {**OPERATOR, "tenant_id": "globex"}
LIMITS = Limits(1_000_000, 20_000_000, 90_000_000, user_runs=5, tenant_runs=50, tenant_jobs=4)
TOOL = {"kind": "tool", "name": "issue_refund", "is_on": True, "reason": "it pays twice", "for_s": 3600}
TOOL_OFF = {"kind": "tool", "name": "issue_refund", "is_on": False, "reason": "mended"}
READS = ["/admin/switches", "/admin/limits", "/admin/usage", "/admin/audit"]
WRITES = {"/admin/switches": TOOL, "/admin/limits": {"name": "user_runs", "value": 1, "reason": "too many"}}


class Desk(Api):
    def __init__(self) -> None:
        super().__init__()
        self.audit = MemoryAuditTrail()
        self.switches = MemoryControlBook(self.clock, self.audit)
        self.limits = MemoryLimitBook(LIMITS, clock=self.clock, audit=self.audit)
        self.ledger = MemoryLedger(self.limits)
        self.use(Room1(self.log, self.bell, self.clock, self.limits, RELEASE, self.switches, accounts=self.ledger))

    def get(self, path: str, *, claims: dict[str, Any] = OPERATOR, **query: str) -> Answer:
        return self("GET", path, claims=claims, query=query) if query else self("GET", path, claims=claims)

    def post(self, path: str, body: object, *, claims: dict[str, Any] = OPERATOR) -> Answer:
        return self("POST", path, body, claims=claims)

    def platform(self, target: Target, board: Board) -> None:
        now = self.clock.now()
        until = now + timedelta(hours=1)
        switch = Switch(
            target=target, reason="an incident", by="arn:aws:iam::1:user/x", created_at=now, expires_at=until
        )
        self.switches.switch_on(board, switch)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize("roles", ["user", "approver", "user,approver"])
def test_only_operators_come_in(desk: Desk, roles: str) -> None:
    claims = {"sub": ANNA, "cognito:groups": roles}
    for path in READS:
        refused(desk.get(path, claims=claims), 403, "role_missing")
    for path, body in WRITES.items():
        refused(desk.post(path, body, claims=claims), 403, "role_missing")
    assert desk.audit.changes("acme", limit=10) == ([], None)


def test_a_switch_is_put_on_and_taken_off_with_who_and_why(desk: Desk) -> None:
    [shown] = desk.post("/admin/switches", TOOL).body["switches"]
    assert (shown["kind"], shown["name"], shown["side"], shown["by"]) == ("tool", "issue_refund", "tenant", OLGA)
    assert desk.switches.effective("acme", ANNA, release="r", agent="a").tool_off("issue_refund")
    assert not desk.switches.effective("globex", ANNA, release="r", agent="a").tool_off("issue_refund")
    assert desk.post("/admin/switches", TOOL_OFF).body == {"switches": []}
    off, on = desk.get("/admin/audit").body["changes"]
    assert [(c["action"], c["by"], c["reason"], c["subject"]) for c in (on, off)] == [
        ("switch_on", OLGA, "it pays twice", "tool:issue_refund"),
        ("switch_off", OLGA, "mended", "tool:issue_refund"),
    ]
    assert [c["version"] for c in (on, off)] == [1, 2]
    assert off["before"] == on["after"]


def test_new_runs_that_an_operator_switches_off_are_refused_with_the_end_of_it(desk: Desk) -> None:
    desk.post("/admin/switches", {"kind": "new_runs", "is_on": True, "reason": "a drill", "for_s": 90})
    answer = desk("POST", "/runs", {"input": "Where is order 1001?"})
    refused(answer, 503, "switched_off")
    assert answer.headers["Retry-After"] == "90"
    assert "drill" not in answer.text
    assert desk("POST", "/runs", {"input": "Where is order 1001?"}, claims={"tenant_id": "globex"}).status == 202
    desk.clock.advance(90)
    assert desk("POST", "/runs", {"input": "Where is order 1001?"}).status == 202


def test_a_user_who_is_switched_off_is_refused_and_told_whom_to_ask(desk: Desk) -> None:
    desk.post("/admin/switches", {"kind": "user", "name": ANNA, "is_on": True, "reason": "abuse", "for_s": 90})
    answer = desk("POST", "/runs", {"input": "Where is order 1001?"})
    refused(answer, 403, "user_switched_off")
    assert "Retry-After" not in answer.headers


def test_runs_are_refused_while_the_switches_cannot_be_read(desk: Desk) -> None:
    desk.switches.is_down = True
    refused(desk("POST", "/runs", {"input": "Where is order 1001?"}), 503, "store_unavailable")


def test_the_platforms_switches_are_seen_and_not_taken_off(desk: Desk) -> None:
    desk.platform(Target(kind="read_only"), Board())
    desk.platform(Target(kind="tool", name="issue_refund"), Board("acme"))
    desk.platform(Target(kind="new_runs"), Board("globex"))
    everybodys, ours = desk.get("/admin/switches").body["switches"]
    assert (everybodys["kind"], everybodys["is_for_everybody"], everybodys["by"]) == ("read_only", True, None)
    assert (ours["name"], ours["side"], ours["by"], ours["reason"]) == ("issue_refund", "platform", None, "an incident")
    refused(desk.post("/admin/switches", TOOL_OFF), 404, "not_found")
    desk.post("/admin/switches", TOOL)
    desk.post("/admin/switches", TOOL_OFF)
    assert desk.switches.effective("acme", ANNA, release="r", agent="a").tool_off("issue_refund")
    assert "arn:aws" not in desk.get("/admin/audit").text + desk.get("/admin/switches").text


def test_another_tenants_switch_and_a_missing_one_are_the_same_answer(desk: Desk) -> None:
    missing = desk.post("/admin/switches", TOOL_OFF)
    desk.post("/admin/switches", TOOL, claims=GLOBEX)
    foreign = desk.post("/admin/switches", TOOL_OFF)
    refused(foreign, 404, "not_found")
    assert foreign.text == missing.text
    assert desk.get("/admin/switches").body == {"switches": []}
    assert desk.get("/admin/audit").body == {"changes": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "sunshine"}, "body.kind"),
        ({"name": ""}, "body.name"),
        ({"name": "a b"}, "body.name"),
        ({"kind": "new_runs"}, "body.name"),
        ({"reason": " "}, "body.reason"),
        ({"reason": "x" * 501}, "body.reason"),
        ({"for_s": 0}, "body.for_s"),
        ({"for_s": int(MAX_DURATION.total_seconds()) + 1}, "body.for_s"),
        ({"for_s": None}, "body.for_s"),
        ({"is_on": False}, "body.for_s"),
        ({"tenant_id": "globex"}, "body.tenant_id"),
        ({"by": "somebody"}, "body.by"),
    ],
)
def test_a_switch_that_is_none_is_refused(desk: Desk, change: dict[str, Any], field: str) -> None:
    answer = desk.post("/admin/switches", {**TOOL, **change})
    refused(answer, 400, "invalid_input", field)
    assert desk.get("/admin/audit").body["changes"] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": ""}, "tool needs a name"),
        ({"kind": "new_runs"}, "new_runs has no name"),
        ({"name": "a b"}, "this must match ^[A-Za-z0-9_.:@+/-]{0,128}$"),
        ({"reason": " "}, "this must be more than blanks"),
        ({"for_s": None}, "putting a switch on needs to say how long"),
        ({"is_on": False}, "taking a switch off takes no time"),
    ],
)
def test_what_is_wrong_with_a_switch_is_said_in_words(desk: Desk, change: dict[str, Any], said: str) -> None:
    assert desk.post("/admin/switches", {**TOOL, **change}).body["detail"] == said


def test_limits_are_lowered_for_the_tenant_and_for_a_user_and_left_to_the_platform_again(desk: Desk) -> None:
    def limit(name: str, **query: str) -> Any:
        return next(x for x in desk.get("/admin/limits", **query).body["limits"] if x["name"] == name)

    desk.post("/admin/limits", {"name": "user_runs", "value": 2, "reason": "too many"})
    desk.post("/admin/limits", {"name": "user_runs", "value": 3, "user_id": ANNA, "reason": "but her"})
    assert limit("user_runs") == {"name": "user_runs", "holds": 2, "set_here": 2}
    assert limit("user_runs", user_id=ANNA) == {"name": "user_runs", "holds": 3, "set_here": 3}
    assert desk.limits.of("globex", ANNA) == LIMITS
    desk.post("/admin/limits", {"name": "user_runs", "value": None, "reason": "enough"})
    assert limit("user_runs") == {"name": "user_runs", "holds": 5, "set_here": None}
    assert [c["subject"] for c in desk.get("/admin/audit").body["changes"]] == [
        "user_runs",
        f"user_runs of {ANNA}",
        "user_runs",
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "user_runs", "value": 6}, "body.value"),
        ({"name": "user_runs", "value": -1}, "body.value"),
        ({"name": "platform_month_micros", "value": 1}, "body.name"),
        ({"name": "sunshine", "value": 1}, "body.name"),
        ({"name": "sunshine", "value": None}, "body.name"),
        ({"name": "user_runs", "value": 10**9}, "body.value"),
        ({"name": "user_runs", "value": "1"}, "body.value"),
        ({"name": "user_runs", "value": 1, "user_id": "no user"}, "body.user_id"),
        ({"name": "user_runs", "value": 1, "tenant_id": "globex"}, "body.tenant_id"),
    ],
)
def test_a_limit_above_the_platforms_or_of_others_is_refused(desk: Desk, body: dict[str, Any], field: str) -> None:
    refused(desk.post("/admin/limits", {"reason": "why not", **body}), 400, "invalid_input", field)
    assert desk.limits.of("acme", ANNA) == desk.limits.of("globex", ANNA) == LIMITS


def test_a_ceiling_that_the_platform_lowers_later_counts(desk: Desk) -> None:
    desk.post("/admin/limits", {"name": "user_runs", "value": 4, "reason": "fewer"})
    desk.limits.change(LimitScope("acme"), "user_runs", 3)
    assert desk.limits.of("acme", ANNA).user_runs == 3


def test_usage_is_told_to_users_of_themselves_and_to_operators_of_the_tenant(desk: Desk) -> None:
    now = desk.clock.now()
    desk.ledger.grant(Grant("acme", ANNA, "r1", 1, 250_000, 1), at=now)
    desk.ledger.grant(Grant("globex", ANNA, "r2", 1, 9_000, 1), at=now)
    own = desk("GET", "/usage").body
    assert own == {"user": {"limit_usd": 1.0, "spent_usd": 0.25, "remaining_usd": 0.75}, "tenant": None}
    whole = desk.get("/admin/usage").body
    assert whole == {"user": None, "tenant": {"limit_usd": 20.0, "spent_usd": 0.25, "remaining_usd": 19.75}}
    assert desk.get("/admin/usage", user_id=ANNA).body["user"]["spent_usd"] == 0.25
    assert desk.get("/admin/usage", user_id="nobody").body["user"]["spent_usd"] == 0


def test_the_audit_comes_in_pages_and_takes_no_cursor_of_another_shape(desk: Desk) -> None:
    for number in range(3):
        desk.clock.advance(1)
        desk.post("/admin/limits", {"name": "user_runs", "value": number, "reason": "a drill"})
    first = desk.get("/admin/audit", limit="2").body
    assert [change["after"] for change in first["changes"]] == ["2", "1"]
    [last] = desk.get("/admin/audit", cursor=first["next_cursor"]).body["changes"]
    assert last["after"] == "0"
    for query in ({"limit": "0"}, {"limit": "101"}, {"cursor": "AUDIT#PLATFORM"}):
        assert desk.get("/admin/audit", **query).status == 400


def test_an_operator_sees_no_run_and_decides_nothing(desk: Desk) -> None:
    run_id = desk.new_run()
    for method, path in (
        ("GET", f"/runs/{run_id}"),
        ("GET", f"/runs/{run_id}/result"),
        ("POST", f"/runs/{run_id}/cancel"),
    ):
        refused(desk(method, path, claims=OPERATOR), 404, "not_found", "path.run_id")
    refused(desk("GET", "/approvals", claims=OPERATOR), 403, "role_missing")
