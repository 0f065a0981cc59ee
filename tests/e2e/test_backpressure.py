"""Under load: refusals that say when to come back, a flood that others hardly feel, a session's runs in order."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from tests.e2e.running_cloud import Api, RunningCloud, marker

EXPORT = {"tool": "export_orders", "input_json": "{}"}
FLOOD_RUNS, CALLS_A_RUN = 40, 5
OWN_SAMPLES = 3


def control(cloud: RunningCloud, scope: str, **limits: int) -> None:
    """Set limits in the control table, as `ops limits set` does; none takes them all away."""
    item: dict[str, Any] = {"pk": {"S": scope}, "sk": {"S": "LIMITS"}}
    values = {name: {"N": str(value)} for name, value in limits.items()}
    cloud.aws("dynamodb").put_item(TableName=cloud.output("ControlTable"), Item={**item, **values})


def test_a_user_with_too_many_runs_is_refused_until_one_has_ended_and_limits_change_without_a_deployment(
    cloud: RunningCloud,
) -> None:
    mark = marker()
    cloud.tell_model(mark, {"calls": [EXPORT], "text": ""}, {"text": "Done."}, repeat=True)
    with cloud.newcomer("crowded", ("user",)) as api:
        control(cloud, "LIMIT#crowded", tenant_jobs=0, user_runs=2)
        runs = [api.ask(f"Export {mark}") for _ in range(2)]
        answer = api.http.post("/runs", json={"input": "One more?"})
        assert answer.status_code == 429, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "too_many_runs"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        for run_id in runs:
            api.wait_until(run_id, "waiting")
        assert api.http.post(f"/runs/{runs[0]}/cancel").status_code == 202
        assert api.wait(runs[0])["reason"] == "cancelled"
        runs[0] = api.ask(f"Export {mark}")
        assert api.http.post("/runs", json={"input": "One more?"}).status_code == 429
        control(cloud, "LIMIT#crowded", tenant_jobs=0, user_runs=3)
        deadline = time.monotonic() + 10
        while (answer := api.http.post("/runs", json={"input": f"Export {mark}"})).status_code == 429:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert answer.status_code == 202, answer.text
        for run_id in [*runs, answer.json()["run_id"]]:
            api.http.post(f"/runs/{run_id}/cancel")
            assert api.wait(run_id)["reason"] == "cancelled"


def test_another_tenants_flood_of_the_queue_delays_this_tenants_job_by_less_than_five_times(
    cloud: RunningCloud, acme: Api
) -> None:
    mark = marker()
    cloud.tell_model(mark, {"calls": [EXPORT] * CALLS_A_RUN, "text": ""}, {"text": "Done."}, repeat=True)

    def own() -> float:
        """Return how long this tenant's queued call takes, from queued to its result, by the run's own log."""
        run_id = acme.ask("Export our orders as CSV")
        assert acme.wait(run_id, within_s=120)["reason"] == "answered"
        return queue_time_s(cloud, "acme", run_id)

    unloaded = sorted(own() for _ in range(OWN_SAMPLES))[OWN_SAMPLES // 2]
    with cloud.newcomer("globex", ("user",)) as flooder, ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: flooder.ask(f"Export all {mark}"), range(FLOOD_RUNS)))
        loaded = sorted(own() for _ in range(OWN_SAMPLES))
        unfinished = sum(flooder.record(run_id)["status"] not in {"completed", "failed"} for run_id in runs)
        sys.stdout.write(
            f"\nqueued call: unloaded {unloaded:.2f} s, under the flood {loaded} s, {unfinished} flooding\n"
        )
        assert unfinished > 0, "the flood was over before it could be felt"
        assert loaded[OWN_SAMPLES // 2] < 5 * max(unloaded, 1.0)
        for run_id in runs:
            assert flooder.wait(run_id, within_s=240)["reason"] == "answered"


def queue_time_s(cloud: RunningCloud, tenant: str, run_id: str) -> float:
    pages = (
        cloud.aws("dynamodb")
        .get_paginator("query")
        .paginate(
            TableName=cloud.output("RunsTable"),
            KeyConditionExpression="pk = :pk AND begins_with(sk, :e)",
            ExpressionAttributeValues={":pk": {"S": f"T#{tenant}#R#{run_id}"}, ":e": {"S": "E#"}},
        )
    )
    at = {item["type"]["S"]: item["at"]["S"] for page in pages for item in page["Items"]}
    began, ended = (datetime.fromisoformat(at[kind]) for kind in ("tool.queued", "tool.completed"))
    return (ended - began).total_seconds()


def test_the_second_run_of_a_session_waits_for_the_first_and_remembers_it(cloud: RunningCloud, acme: Api) -> None:
    mark = marker()
    session = f"s-{mark.strip('[]')}"
    cloud.tell_model(f"first {mark}", {"calls": [EXPORT], "text": ""}, {"text": "The first answer."})
    first = acme.ask(f"first {mark}", session_id=session)
    second = acme.ask("Where is order 1001?", session_id=session)
    assert acme.wait(second)["reason"] == "answered"
    assert acme.record(first)["status"] == "completed"
    statuses = [e.event["value"] for e in acme.follow(second) if e.event.get("name") == "keepgate.status"]
    if any(status["status"] == "waiting" for status in statuses):  # it may also have come late enough
        assert [s.get("waiting_for") for s in statuses if s["status"] == "waiting"] != []
    log = cloud.aws("dynamodb").query(
        TableName=cloud.output("RunsTable"),
        KeyConditionExpression="pk = :pk AND begins_with(sk, :e)",
        ExpressionAttributeValues={":pk": {"S": f"T#acme#R#{second}"}, ":e": {"S": "E#"}},
    )["Items"]
    [loaded] = [json.loads(item["payload"]["S"]) for item in log if item["type"]["S"] == "session.loaded"]
    assert [message["text"] for message in loaded["messages"]] == [f"first {mark}", "The first answer."]
