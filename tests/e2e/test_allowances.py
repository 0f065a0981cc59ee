"""What calls may use up over runs, on the running cloud: refunds of a day add up, and no approver lifts their limit."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.aws.allowances import DynamoDbAllowances
from agent.aws.tenant_data import load
from agent.testing.limits import MemoryLimitBook
from local.processes import ROOT
from support_desk import seed
from tests.e2e.running_cloud import Api, RunningCloud, marker
from tests.e2e.test_approvals import decide, log_of, pending, refunds
from tests.e2e.test_budgets import user_id_of

TENANT = "thrifty"
USER_DAY, TENANT_DAY = "amount_cents.user_day", "amount_cents.tenant_day"


def operate(cloud: RunningCloud, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "ops", "limits", *arguments],
        cwd=ROOT,
        env={**os.environ, "KEEPGATE_LOCAL": str(cloud.state)},
        check=True,
        capture_output=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def shop(cloud: RunningCloud) -> str:
    """A tenant with some orders and little to give away, set as an operator does before anybody used it."""
    orders = [item for item in seed.items("acme") if item[0] == "order" and "1001" <= item[1] <= "1010"]
    load(cloud.aws("dynamodb"), cloud.output("TenantTable"), TENANT, orders)
    for name, value in ((USER_DAY, "3000"), (TENANT_DAY, "5000")):
        operate(cloud, "set", f"issue_refund.{name}", value, "--tenant", TENANT)
    operate(cloud, "set", "search_policy.calls.user_minute", "1", "--tenant", TENANT)
    return TENANT


@pytest.fixture
def ann(cloud: RunningCloud, shop: str) -> Iterator[Api]:
    with cloud.newcomer(shop, ("user",)) as api:
        yield api


@pytest.fixture
def approver(cloud: RunningCloud, shop: str) -> Iterator[Api]:
    with cloud.newcomer(shop, ("approver",)) as api:
        yield api


def refund(api: Api, approver: Api, order: str, euros: str) -> tuple[str, str]:
    """Ask for a refund, have it approved, and return the run and its answer."""
    run_id = api.ask(f"Please refund {euros} EUR of order {order}, it came late")
    assert decide(approver, pending(approver, run_id)["approval_id"], "approve").status_code == 200
    return run_id, str(api.wait(run_id)["answer"])


def used(cloud: RunningCloud, user_id: str, names: list[str]) -> list[int]:
    table = cloud.output("LedgerTable")
    allowances = DynamoDbAllowances(cloud.aws("dynamodb"), table, MemoryLimitBook())
    found = allowances.used(TENANT, user_id, "issue_refund", names, at=datetime.now(UTC))
    return [found[name] for name in names]


def results(cloud: RunningCloud, run_id: str, tool: str) -> list[dict[str, Any]]:
    ended = [event for event in log_of(cloud, TENANT, run_id) if event["type"] == "tool.completed"]
    return [json.loads(event["content"]) for event in ended if event["tool"] == tool]


def test_small_refunds_add_up_and_the_one_that_would_exceed_the_day_is_not_paid(
    cloud: RunningCloud, ann: Api, approver: Api
) -> None:
    for order in ("1001", "1002"):
        assert f"{order}-01" in refund(ann, approver, order, "12.50")[1]
    run_id, answer = refund(ann, approver, "1003", "12.50")
    assert "The limit of this tool is 3000 amount_cents per user and day" in answer
    assert refunds(cloud, TENANT, "1003") == []
    assert [result["error"] for result in results(cloud, run_id, "issue_refund")] == ["limit_reached"]
    kinds = [(event["type"], event.get("tool")) for event in log_of(cloud, TENANT, run_id)]
    assert ("tool.started", "issue_refund") not in kinds
    assert used(cloud, user_id_of(ann), [USER_DAY, TENANT_DAY]) == [2500, 2500]

    alone = ann.ask("Please refund 30.01 EUR of order 1003, it came late")
    assert "this call alone exceeds it" in ann.wait(alone)["answer"]
    assert all(event["type"] != "approval.requested" for event in log_of(cloud, TENANT, alone))

    with cloud.newcomer(TENANT, ("user",)) as bob:
        assert "5000 amount_cents per tenant and day" in refund(bob, approver, "1004", "25.01")[1]
        assert refunds(cloud, TENANT, "1004") == []
        assert "1004-01" in refund(bob, approver, "1004", "25")[1]
        assert used(cloud, user_id_of(bob), [USER_DAY, TENANT_DAY]) == [2500, 5000]


def test_a_rate_is_kept_within_one_answer_of_the_model(cloud: RunningCloud, ann: Api) -> None:
    mark = marker()
    search = {"tool": "search_policy", "input_json": json.dumps({"query": "returns"})}
    cloud.tell_model(mark, {"text": "Let me look twice.", "calls": [search, search]})
    run_id = ann.ask(f"What do you take back? {mark}")
    ann.wait(run_id)
    first, second = results(cloud, run_id, "search_policy")
    assert (first.get("error"), second.get("error")) in {(None, "limit_reached"), ("limit_reached", None)}
