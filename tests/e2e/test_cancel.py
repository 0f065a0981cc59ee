"""Cancelling: heard in mid-call, ended within seconds, and harmless to whatever comes after."""

import time

from tests.e2e.running_cloud import Api, RunningCloud, marker


def start_story(cloud: RunningCloud, api: Api, **body: str) -> str:
    """Start a run whose model speaks for half a minute, and return its id once it speaks."""
    mark = marker()
    cloud.tell_model(mark, {"text": "word " * 600, "pace_s": 0.05, "calls": []}, repeat=True)
    run_id = api.ask(f"Tell me a long story {mark}", **body)
    seen = (streamed.event for page in api.pages(run_id) for streamed in page)
    assert any(event["type"] == "TEXT_MESSAGE_CONTENT" for event in seen)
    return run_id


def test_a_run_is_over_within_three_seconds_of_its_cancellation(cloud: RunningCloud, acme: Api) -> None:
    run_id = start_story(cloud, acme)
    asked_at = time.monotonic()
    assert acme.http.post(f"/runs/{run_id}/cancel").status_code == 202
    result = acme.wait(run_id)
    assert time.monotonic() - asked_at < 3
    assert (result["status"], result["reason"]) == ("cancelled", "cancelled")
    assert acme.record(run_id)["cancel_requested"]


def test_a_model_that_says_nothing_for_long_is_interrupted_too(cloud: RunningCloud, acme: Api) -> None:
    mark = marker()
    cloud.tell_model(mark, {"pause_s": 30})
    run_id = acme.ask(f"Good morning {mark}")
    acme.wait_until(run_id, "running")
    asked_at = time.monotonic()
    acme.http.post(f"/runs/{run_id}/cancel")
    assert acme.wait(run_id)["reason"] == "cancelled"
    assert time.monotonic() - asked_at < 3


def test_cancelling_twice_is_harmless_and_after_the_end_it_is_409(cloud: RunningCloud, acme: Api) -> None:
    run_id = start_story(cloud, acme)
    first, second = (acme.http.post(f"/runs/{run_id}/cancel").status_code for _ in range(2))
    assert first == 202
    assert second in {202, 409}  # it may be over by then
    acme.wait(run_id)
    answer = acme.http.post(f"/runs/{run_id}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "run_over")


def test_a_cancelled_run_leaves_its_session_usable(cloud: RunningCloud, acme: Api) -> None:
    session = "a-session-with-a-cancelled-run"
    run_id = start_story(cloud, acme, session_id=session)
    acme.http.post(f"/runs/{run_id}/cancel")
    acme.wait(run_id)
    assert "carrier" in acme.answer("Where is order 1001?", session_id=session)
