"""Money: a tenant's last cents are never spent twice, and a call that was started is paid for, cancelled or not.

Each test has a tenant of its own, and sets the limit it needs as an operator would, with the account to match.
"""

import base64
import json
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from agent.aws.limits import CACHE_S, SORT_KEY
from agent.limits import LimitScope
from tests.e2e.running_cloud import Api, RunningCloud, marker

AT_ONCE = 8


class Account:
    """An account of the ledger."""

    def __init__(self, cloud: RunningCloud, pk: str, period: str, limit_micros: int) -> None:
        _, pool, tenant_id, *user = pk.split("#")
        name = f"{pool}_{'day' if pool == 'user' else 'month'}_micros"
        cloud.aws("dynamodb").update_item(
            TableName=cloud.output("ControlTable"),
            Key={"pk": {"S": LimitScope(tenant_id, *user).key}, "sk": SORT_KEY},
            UpdateExpression="SET #name = :value",
            ExpressionAttributeNames={"#name": name},
            ExpressionAttributeValues={":value": {"N": str(limit_micros)}},
        )
        time.sleep(CACHE_S + 0.5)  # until no function knows another limit
        self._table, self._dynamodb = cloud.output("LedgerTable"), cloud.aws("dynamodb")
        self._key = {"pk": {"S": pk}, "sk": {"S": datetime.now(UTC).strftime(period)}}
        self.limit_micros = limit_micros
        amounts = {"remaining": {"N": str(limit_micros)}, "limit": {"N": str(limit_micros)}}
        self._dynamodb.put_item(TableName=self._table, Item=self._key | amounts)

    @property
    def remaining_micros(self) -> int:
        item = self._dynamodb.get_item(TableName=self._table, Key=self._key, ConsistentRead=True)["Item"]
        return int(item["remaining"]["N"])


def user_id_of(api: Api) -> str:
    payload = api.http.headers["authorization"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    user_id: str = claims["sub"]
    return user_id


def spent_micros(record: dict[str, Any]) -> int:
    return round(record["estimated_cost_usd"] * 1_000_000)


def ids_of(records: list[dict[str, Any]]) -> list[str]:
    return [record["run_id"] for record in records]


def settled_micros(account: Account, api: Api, run_ids: Iterable[str]) -> int:
    """Return what an account holds once all that the runs did not spend has flowed back."""
    deadline = time.monotonic() + 20
    while True:
        spent = sum(spent_micros(api.record(run_id)) for run_id in run_ids)
        if (remaining := account.remaining_micros) == account.limit_micros - spent:
            return remaining
        assert time.monotonic() < deadline, (remaining, spent)
        time.sleep(0.1)


def test_runs_that_race_for_a_tenants_last_money_never_overspend_it(cloud: RunningCloud) -> None:
    mark = marker()
    cloud.tell_model(mark, {"pause_s": 4})
    with cloud.newcomer("racers", groups=("user",)) as api, ThreadPoolExecutor(8) as pool:
        # A call reserves about 15,000: two of them at a time can be paid, a whole slice for none.
        account = Account(cloud, "B#tenant#racers", "%Y-%m", 40_000)
        runs = list(pool.map(lambda number: api.ask(f"Good morning {number} {mark}"), range(8)))
        seen = []
        results = []
        for run_id in runs:
            results.append(api.wait(run_id))
            seen.append(account.remaining_micros)
        assert min(seen) >= 0
        reasons = [result["reason"] for result in results]
        assert set(reasons) == {"answered", "budget_tenant"}
        refused = next(result for result in results if result["reason"] == "budget_tenant")
        assert "organisation's budget is spent" in refused["message"]
        settled_micros(account, api, runs)


def test_a_hundred_cancelled_runs_exhaust_a_budget(cloud: RunningCloud) -> None:
    with cloud.newcomer("cancellers", groups=("user",)) as api:
        mark = marker()
        # The stream is cut before it tells the usage: a call that nobody counted costs what was reserved for it.
        cloud.tell_model(mark, {"pause_s": 1, "break_after": 1}, repeat=True)

        def ask_and_cancel(number: int) -> dict[str, Any]:
            run_id = api.ask(f"Tell me story {number} {mark}")
            while (record := api.record(run_id))["steps_used"] == 0 and record["reason"] is None:
                time.sleep(0.05)
            if record["reason"] is None:
                assert api.http.post(f"/runs/{run_id}/cancel").status_code in {202, 409}
            api.wait(run_id, within_s=60)
            return api.record(run_id)

        first = ask_and_cancel(0)
        user = f"B#user#cancellers#{user_id_of(api)}"
        while spent_micros(first) == 0:
            first = api.record(first["run_id"])
        reserved = spent_micros(first)
        account = Account(cloud, user, "%Y-%m-%d", 80 * reserved + reserved // 2)
        ended: list[dict[str, Any]] = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            ended += pool.map(ask_and_cancel, range(100, 200))
            # Some may have been refused only because others held the last money: what these returned is spent, too.
            while settled_micros(account, api, ids_of(ended)) >= reserved:
                ended += pool.map(ask_and_cancel, range(len(ended) + 100, len(ended) + 104))
        assert {record["reason"] for record in ended} == {"cancelled", "budget_user"}
        last = ask_and_cancel(99)
        assert last["reason"] == "budget_user"
        assert "your budget is spent" in last["message"]
        assert 0 <= settled_micros(account, api, ids_of([*ended, last])) < reserved
