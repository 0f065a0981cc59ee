"""What the emulator lacks: which keys a request to DynamoDB names, processes that die alone, events that wait."""

import contextvars
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from ministack.core import lambda_runtime
from ministack.services import lambda_svc

from local.emulated_aws import EVENTS_AT_ONCE, leading_keys, line_events_up, spare_the_living

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


def test_asynchronous_events_wait_for_one_of_their_functions_places_and_calls_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go_on, running = threading.Semaphore(0), threading.Event(), list[str]()

    def execute(func: Any, event: str) -> None:
        running.append(event)
        begun.release()
        go_on.wait()

    def invoke_async(func: Any, event: str) -> None:
        context = contextvars.copy_context()  # as the emulator does
        threads.append(threading.Thread(target=context.run, args=(lambda_svc._execute_function, func, event)))
        threads[-1].start()

    threads: list[threading.Thread] = []
    monkeypatch.setattr(lambda_svc, "_execute_function", execute)
    monkeypatch.setattr(lambda_svc, "invoke_async_with_retry", invoke_async)
    line_events_up()
    for _ in range(EVENTS_AT_ONCE + 3):
        lambda_svc.invoke_async_with_retry({"FunctionName": "agent"}, "event")
    lambda_svc.invoke_async_with_retry({"FunctionName": "other"}, "other's event")
    called = threading.Thread(target=lambda_svc._execute_function, args=({"FunctionName": "agent"}, "call"))
    called.start()
    for _ in range(EVENTS_AT_ONCE + 2):
        assert begun.acquire(timeout=10)
    assert not begun.acquire(timeout=0.05)
    assert sorted(running) == ["call", *["event"] * EVENTS_AT_ONCE, "other's event"]
    go_on.set()
    for thread in (*threads, called):
        thread.join(10)
    assert running.count("event") == EVENTS_AT_ONCE + 3
