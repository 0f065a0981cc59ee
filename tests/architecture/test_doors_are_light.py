"""The doors of room 1 start without what only other rooms need; asked in a fresh interpreter."""

import json
import subprocess
import sys

import pytest

NOT_FOR_ROOM_1 = (
    "agent.loop",
    "agent.turn",
    "agent.gate",
    "agent.policy",
    "agent.execution",
    "cedarpy",
    "support_desk.tools",
)


def imported_by(module: str) -> set[str]:
    code = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("door", ["shim", "stream_events", "add_claims", "administer"])
def test_a_door_of_room_1_imports_neither_the_loop_nor_cedar_nor_any_tool(door: str) -> None:
    modules = imported_by(f"lambdas.{door}")
    assert f"lambdas.{door}" in modules
    assert [name for name in modules if name.startswith(NOT_FOR_ROOM_1)] == []


def test_the_run_api_does_not_pay_for_the_stream() -> None:
    assert not {"ag_ui", "agent.project_agui"} & imported_by("lambdas.shim")


def test_the_pre_token_trigger_which_every_sign_in_waits_for_imports_neither_aws_nor_powertools() -> None:
    assert not {"boto3", "aws_lambda_powertools", "opentelemetry"} & imported_by("lambdas.add_claims")
