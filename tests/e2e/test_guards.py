"""Guards on the local cloud: what is blocked is on no way to a reader, and canaries are in no log and no trace."""

import json
import time

from tests.canaries import ALL, CANARIES, TENANT, seen_in
from tests.e2e.running_cloud import Api, RunningCloud, marker

HARMLESS = "All is well with this order, and there is nothing else to say about it. " * 6


def everything(api: Api, run_id: str) -> str:
    """Return all that its user can read of a run, from the beginning."""
    page = api.http.get(f"/runs/{run_id}/events", headers={"Accept": "application/json"})
    told = [entry.event for entry in api.follow(run_id)]
    return json.dumps([told, page.json(), api.record(run_id), api.wait(run_id)])


def test_a_blocked_answer_is_never_shown_and_what_was_shown_is_taken_back(cloud: RunningCloud, acme: Api) -> None:
    question = marker()
    cloud.tell_model(question, {"text": f"{HARMLESS} Card {CANARIES['card']} {HARMLESS}", "pace_s": 0.01})
    run_id = acme.ask(f"Good morning {question}")
    followed = [entry.event for entry in acme.follow(run_id)]
    result = acme.wait(run_id)
    assert (result["status"], result["reason"], result["answer"]) == ("failed", "answer_blocked", None)
    assert "4539" not in everything(acme, run_id) + json.dumps(followed)
    if any(event["type"] == "TEXT_MESSAGE_START" for event in followed):
        assert any(event["type"] == "MESSAGES_SNAPSHOT" for event in followed)
    record = acme.record(run_id)
    assert record["guards_fired"] == ["pii"]
    [fired] = [event for event in cloud.log("acme", run_id) if event["type"] == "guard.fired"]
    assert (fired["kinds"], fired["response"]) == (["card"], "block")


def test_a_guardrail_of_the_models_service_blocks_the_answer(cloud: RunningCloud, acme: Api) -> None:
    question = marker()
    cloud.tell_model(question, {"guardrail": ["Legal advice"]})
    run_id = acme.ask(f"Good morning {question}")
    assert acme.wait(run_id)["reason"] == "answer_blocked"
    [fired] = [event for event in cloud.log("acme", run_id) if event["type"] == "guard.fired"]
    assert (fired["guard"], fired["kinds"]) == ("model_service", ["output topic:legal_advice"])


def test_canaries_in_every_input_are_in_no_log_and_no_trace(cloud: RunningCloud, acme: Api) -> None:
    question = marker()
    personal = " | ".join([CANARIES[kind] for kind in ("email", "phone", "iban", "card", "national_id")] + [TENANT])
    call = {"tool": "search_policy", "input_json": json.dumps({"query": personal[:150]})}
    cloud.tell_model(question, {"text": personal, "calls": [call]}, {"text": f"Nothing found. {ALL}"})
    headers = {"Idempotency-Key": f"canary.7391-{question[1:-1]}", "X-Canary": personal, "Referer": ALL}
    body = {"input": f"{question} {personal}", "metadata": {"canary": ALL[:500]}, "session_id": TENANT}
    run_id = acme.http.post("/runs", json=body, headers=headers).json()["run_id"]
    acme.wait(run_id)
    blocked = acme.ask(f"My key: {ALL}", session_id=TENANT)
    assert acme.wait(blocked)["reason"] == "input_blocked"
    acme.http.post(f"/runs/{run_id}/feedback", json={"rating": "down", "comment": ALL})
    acme.http.get(f"/runs/{CANARIES['email']}")
    acme.http.get("/runs", params={"cursor": ALL})
    acme.http.post("/runs", json={"input": ALL, CANARIES["email"]: ALL})
    logs = cloud.aws("logs")
    told = ""
    deadline = time.monotonic() + 15
    while '"RunsEnded"' not in told and time.monotonic() < deadline:
        pages = logs.get_paginator("describe_log_groups").paginate()
        groups = [group["logGroupName"] for page in pages for group in page["logGroups"]]
        told = "".join(
            event["message"]
            for group in groups
            for page in logs.get_paginator("filter_log_events").paginate(logGroupName=group)
            for event in page["events"]
        )
    traces = (cloud.state / "traces.jsonl").read_text()
    assert '"RunsEnded"' in told, "what the functions print is among it"
    assert run_id in traces
    assert seen_in(told) == []
    assert seen_in(traces) == []
