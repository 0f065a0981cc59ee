"""Under load: refusals that say when to come back, and a flood that others hardly feel."""

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from agent.aws.limits import CACHE_S
from tests.e2e.running_cloud import ENDED, Api, RunningCloud, marker

EXPORT = {"tool": "export_orders", "input_json": "{}"}
FLOOD_RUNS, CALLS_A_RUN = 40, 5
OWN_SAMPLES = 9


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


def test_under_another_tenants_flood_of_the_queue_this_tenants_jobs_end_within_five_times_their_time(
    cloud: RunningCloud, acme: Api
) -> None:
    mark = marker()
    cloud.tell_model(mark, {"calls": [EXPORT] * CALLS_A_RUN, "text": ""}, {"text": "Done.", "calls": []})

    def own() -> float:
        """Return how long this tenant's queued call takes, from queued to its result, by the run's own log."""
        run_id = acme.ask("Export our orders as CSV")
        assert acme.wait(run_id, within_s=120)["reason"] == "answered"
        return queue_time_s(cloud, "acme", run_id)

    own()  # so that no process has to start
    unloaded = statistics.median(own() for _ in range(OWN_SAMPLES))
    with cloud.newcomer("flooding", ("user",)) as flooder, ThreadPoolExecutor(4) as pool:
        # The flood is of the queue, not of the agent: let loose once all jobs stand in line, by one that comes last.
        control(cloud, "LIMIT#flooding", tenant_jobs=0)
        # Each question is another one, because a scenario counts the calls of each question by itself.
        runs = list(pool.map(lambda n: flooder.ask(f"Export all {mark} {n}"), range(FLOOD_RUNS)))
        for run_id in runs:
            flooder.wait_while(run_id, {"queued", "running"}, within_s=90)
        queued = [event["type"] for run_id in runs for event in cloud.log("flooding", run_id)].count("tool.queued")
        assert queued == FLOOD_RUNS * CALLS_A_RUN
        control(cloud, "LIMIT#flooding")
        time.sleep(CACHE_S + 0.5)  # until no function knows another limit
        flooder.wait_while(flooder.ask("Export our orders as CSV"), {"queued", "running"})
        loaded: list[float] = []
        while len(loaded) < OWN_SAMPLES:
            seconds = own()
            if flooder.record(runs[-1])["status"] in ENDED:
                break  # the last to come is the last to be done: the flood is over
            loaded.append(seconds)
        times = ", ".join(f"{seconds / unloaded:.1f}" for seconds in loaded)
        sys.stdout.write(f"\nqueued call: unloaded {unloaded:.2f} s, under the flood {times} times that\n")
        assert len(loaded) >= 3, "the flood was over before it could be felt"
        assert statistics.median(loaded) < 5 * unloaded
        # Those that came first are done by now, or soon; nobody needs the files of the rest.
        for run_id in runs[5:]:
            flooder.http.post(f"/runs/{run_id}/cancel")
        for run_id in runs[:5]:
            assert flooder.wait(run_id, within_s=120)["reason"] == "answered"
            log = cloud.log("flooding", run_id)
            assert [event["outcome"] for event in log if event["type"] == "tool.completed"] == ["ok"] * CALLS_A_RUN
        for run_id in runs[5:]:
            assert flooder.wait(run_id)["reason"] in {"answered", "cancelled"}


def queue_time_s(cloud: RunningCloud, tenant: str, run_id: str) -> float:
    at = {event["type"]: datetime.fromisoformat(event["at"]) for event in cloud.events(tenant, run_id)}
    return (at["tool.completed"] - at["tool.queued"]).total_seconds()
