"""What the emulator lacks: which partition keys a request to DynamoDB names, and processes that die alone."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from ministack.core import lambda_runtime
from ministack.services import lambda_svc

from local.emulated_aws import leading_keys, spare_the_living

KEY = {"pk": {"S": "T#acme"}, "sk": {"S": "order#1"}}
OTHER = {"pk": {"S": "T#globex"}, "sk": {"S": "order#1"}}


@pytest.mark.parametrize(
    ("request_body", "keys"),
    [
        ({"Key": KEY}, ["T#acme"]),
        ({"Item": KEY | {"name": {"S": "x"}}}, ["T#acme"]),
        (
            {
                "KeyConditionExpression": "#p = :a AND begins_with(sk, :b)",
                "ExpressionAttributeNames": {"#p": "pk"},
                "ExpressionAttributeValues": {":a": {"S": "T#acme"}, ":b": {"S": "order"}},
            },
            ["T#acme"],
        ),
        (
            {
                "KeyConditionExpression": "sk = :b and pk=:a",
                "ExpressionAttributeValues": {":a": {"S": "T#acme"}, ":b": {"S": "T#globex"}},
            },
            ["T#acme"],
        ),
        ({"KeyConditions": {"pk": {"AttributeValueList": [{"S": "T#acme"}]}}}, ["T#acme"]),
        ({"RequestItems": {"table": {"Keys": [KEY, OTHER]}}}, ["T#acme", "T#globex"]),
        ({"TransactItems": [{"Put": {"Item": KEY}}, {"Update": {"Key": OTHER}}]}, ["T#acme", "T#globex"]),
        ({"TableName": "t"}, []),
        ({"Statement": "SELECT * FROM t"}, []),
    ],
)
def test_the_partition_keys_of_a_request(request_body: dict[str, Any], keys: list[str]) -> None:
    assert list(leading_keys(request_body)) == keys


def test_when_one_process_of_a_function_dies_the_others_work_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lambda_svc, "invalidate_worker", lambda_svc.invalidate_worker)
    dead, alive = (subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2))
    workers = [SimpleNamespace(func_name="agent", _proc=process) for process in (dead, alive, None)]
    monkeypatch.setattr(lambda_runtime, "_workers", {"agent": list(workers)})
    spare_the_living()
    with dead, alive:
        dead.kill()
        dead.wait()
        try:
            [].pop()
        except IndexError:  # as where the emulator forgets workers: while an error is handled
            lambda_svc.invalidate_worker("agent", qualifier="$LATEST")
        assert lambda_runtime._workers["agent"] == workers[1:]
        assert alive.poll() is None
        alive.kill()
