"""Two runs of one session at once: the second waits for the first, or is refused where the release says so."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.running_cloud import Api, RunningCloud, marker

NEEDS_A_PERSON = "Please refund 20 EUR of order 1005, it is damaged"
"""Its run is not over until somebody decides, however long that takes."""


@pytest.fixture
def approver(cloud: RunningCloud) -> Iterator[Api]:
    with cloud.api("acme-approver") as api:
        yield api


def new_session() -> str:
    return f"s-{marker().strip('[]')}"


def parked(api: Api, session: str) -> tuple[str, str]:
    """Return a run of the session that waits for a person, and the approval it waits for."""
    run_id = api.ask(NEEDS_A_PERSON, session_id=session)
    [asked] = api.wait_until(run_id, "waiting")["pending_approvals"]
    return run_id, asked["approval_id"]


def reject(approver: Api, approval_id: str) -> None:
    answer = approver.http.post(f"/approvals/{approval_id}", json={"decision": "reject", "reason": "No photo."})
    assert answer.status_code == 200, answer.text


def moment(cloud: RunningCloud, run_id: str, kind: str) -> str:
    [at] = [event["at"] for event in cloud.events("acme", run_id) if event["type"] == kind]
    return at


def statuses(api: Api, run_id: str) -> list[Any]:
    said = [streamed.event for streamed in api.follow(run_id)]
    return [event["value"] for event in said if event.get("name") == "keepgate.status"]


def test_the_second_run_of_a_session_is_seen_waiting_and_follows_the_first_and_remembers_it(
    cloud: RunningCloud, acme: Api, approver: Api
) -> None:
    session = new_session()
    first, approval = parked(acme, session)
    second, third = (acme.ask(f"Where is order {number}?", session_id=session) for number in (1001, 1002))
    for run_id in (second, third):
        assert acme.wait_until(run_id, "waiting")["waiting_for"] == ["session"]
    elsewhere = acme.ask("Where is order 1001?", session_id=new_session())
    assert acme.wait(elsewhere)["reason"] == "answered"
    assert acme.record(second)["status"] == "waiting"

    reject(approver, approval)
    results = [acme.wait(run_id) for run_id in (first, second, third)]
    assert [result["reason"] for result in results] == ["answered"] * 3
    assert moment(cloud, first, "run.ended") <= moment(cloud, second, "session.loaded")
    assert moment(cloud, second, "run.ended") <= moment(cloud, third, "session.loaded")
    [loaded] = [event for event in cloud.log("acme", third) if event["type"] == "session.loaded"]
    assert [message["text"] for message in loaded["messages"]] == [
        NEEDS_A_PERSON,
        results[0]["answer"],
        "Where is order 1001?",
        results[1]["answer"],
    ]
    waited = [status for status in statuses(acme, second) if status["status"] == "waiting"]
    assert [status["waiting_for"] for status in waited] == [["session"]]


def test_a_release_that_refuses_answers_the_second_run_of_a_session_with_409_until_the_first_is_over(
    cloud: RunningCloud, acme: Api, approver: Api
) -> None:
    session = new_session()
    with cloud.release(session_conflict="refuse"):
        first, approval = parked(acme, session)
        second = {"input": "Where is order 1001?", "session_id": session}
        refused = acme.http.post("/runs", json=second)
        assert refused.status_code == 409, refused.text
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["code"] == "session_busy"
        assert acme.answer("Where is order 1001?", session_id=new_session())
        reject(approver, approval)
        assert acme.wait(first)["reason"] == "answered"
        assert acme.answer(second["input"], session_id=session)
