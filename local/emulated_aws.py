"""ministack, with what its IAM lacks and the tenants' walls are made of: `python -m local.emulated_aws`.

It knows neither policy variables (`${aws:PrincipalTag/tenant_id}`) nor the condition key `dynamodb:LeadingKeys`, and it
speaks no TLS, which bucket and queue demand. So our policies, which are the same as on AWS, would refuse every tool its
own tenant's data. Both are added here, in the functions that everything goes through, and the loopback counts as TLS;
the end-to-end tests show that the walls hold, and fail should the emulator change. It is meant for our tables and
policies: of all variables only those that name a caller's tag are known.

How it runs functions is mended, too: failures are named, the living spared, and events wait for a free process.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from threading import Semaphore
from typing import Any

from ministack import app
from ministack.core import iam_actions, iam_evaluator, lambda_runtime
from ministack.services import lambda_svc

from local.processes import end_with_parent

EVENTS_AT_ONCE = 8
"""Of one function."""
PARTITION_KEY = "pk"
"""In all of our tables."""
VARIABLE = re.compile(r"\$\{(aws:PrincipalTag/[^}]+)\}", re.IGNORECASE)
EQUALITY = re.compile(r"([#\w]+)\s*=\s*(:\w+)")


def add_missing_pieces() -> None:
    """Put them into the emulator's modules, before it serves."""
    pin_origin = app.pin_request_origin
    known_context, first_match = iam_actions.dynamodb_service_context, iam_evaluator._first_match  # noqa: SLF001

    def context_with_leading_keys(body: bytes) -> dict[str, Any]:
        context: dict[str, Any] = known_context(body)
        keys = list(leading_keys(json.loads(body))) if context else []
        return context | ({"dynamodb:LeadingKeys": keys} if keys else {})

    def first_match_with_variables(ctx: Any, statements: list[Any], effect: str) -> Any:  # noqa: ANN401
        filled = [with_variables(statement, ctx.principal_keys) for statement in statements]
        return first_match(ctx, filled, effect)

    def pin_secure_origin(source_ip: str, _: bool) -> None:
        pin_origin(source_ip, True)

    name_failed_requests()
    spare_the_living()
    line_events_up()
    app.pin_request_origin = pin_secure_origin
    iam_actions.dynamodb_service_context = context_with_leading_keys
    iam_evaluator._first_match = first_match_with_variables  # noqa: SLF001 - there is no public place for it


def name_failed_requests() -> None:
    """Put `requestContext.requestId` into on-failure records, as AWS does: it proves which holder of a run is dead."""
    dispatch, deliver = lambda_svc._execute_function_dispatch, lambda_svc._execute_function_with_config_scope  # noqa: SLF001
    failed: dict[int, str] = {}

    def dispatch_and_remember(func: Any, config: Any, event: Any, request_id: str, started: float) -> Any:  # noqa: ANN401
        result = dispatch(func, config, event, request_id, started)
        if isinstance(event, dict) and result.get("error"):
            failed[id(event)] = request_id
        return result

    def deliver_named(func: Any, event: Any) -> Any:  # noqa: ANN401 - the emulator's own
        # The record holds the very event that failed, so its identity leads to the request.
        if isinstance(event, dict) and "requestPayload" in event:
            event["requestContext"].setdefault("requestId", failed.pop(id(event["requestPayload"]), ""))
        return deliver(func, event)

    lambda_svc._execute_function_dispatch = dispatch_and_remember  # noqa: SLF001 - there is no public place for it
    lambda_svc._execute_function_with_config_scope = deliver_named  # noqa: SLF001 - as above


def spare_the_living() -> None:
    """When one process of a function dies, let the others work on, as on AWS; the emulator would kill them all."""
    forget_all = lambda_svc.invalidate_worker

    def forget(function: str, **scope: Any) -> None:  # noqa: ANN401 - the emulator's own
        if sys.exc_info()[0] is None:  # the function itself is changed or removed
            forget_all(function, **scope)
            return
        with lambda_runtime._lock:  # noqa: SLF001 - there is no public place for it
            for workers in lambda_runtime._workers.values():  # noqa: SLF001 - as above
                workers[:] = [w for w in workers if w.func_name != function or not is_dead(w)]

    def is_dead(worker: Any) -> bool:  # noqa: ANN401 - the emulator's own
        process = worker._proc  # noqa: SLF001 - as above
        return process is not None and process.poll() is not None

    lambda_svc.invalidate_worker = forget


def line_events_up() -> None:
    """Let asynchronous events wait until one of their function's few processes is free, as on AWS within its limits.

    The emulator would start a process for each, and fifty wakes at once would keep a laptop busy starting Python.
    Calls that somebody waits for are not held up, so no event waits for one that waits for it.
    """
    execute, invoke_async = lambda_svc._execute_function, lambda_svc.invoke_async_with_retry  # noqa: SLF001
    is_event = ContextVar("is_event", default=False)
    places: defaultdict[str, Semaphore] = defaultdict(partial(Semaphore, EVENTS_AT_ONCE))

    def invoke_in_line(func: Any, event: Any) -> None:  # noqa: ANN401 - the emulator's own
        token = is_event.set(True)
        try:
            invoke_async(func, event)  # on a thread of its own, in a copy of this context
        finally:
            is_event.reset(token)

    def execute_in_line(func: Any, event: Any) -> Any:  # noqa: ANN401 - the emulator's own
        if not is_event.get():
            return execute(func, event)
        with places[(func.get("config") or func)["FunctionName"]]:
            token = is_event.set(False)  # it calls itself
            try:
                return execute(func, event)
            finally:
                is_event.reset(token)

    lambda_svc.invoke_async_with_retry = invoke_in_line
    lambda_svc._execute_function = execute_in_line  # noqa: SLF001 - there is no public place for it


def leading_keys(request: Mapping[str, Any]) -> Iterator[str]:
    """Yield the partition keys that a request to DynamoDB names; none for those that name none, such as Scan."""
    for item in (request.get("Key"), request.get("Item")):
        if item and PARTITION_KEY in item:
            yield next(iter(item[PARTITION_KEY].values()))
    names, values = request.get("ExpressionAttributeNames", {}), request.get("ExpressionAttributeValues", {})
    for name, value in EQUALITY.findall(request.get("KeyConditionExpression", "")):
        if names.get(name, name) == PARTITION_KEY:
            yield next(iter(values[value].values()))
    # A query in the old form, a batch of reads, and a transaction.
    condition = request.get("KeyConditions", {}).get(PARTITION_KEY, {})
    for value in condition.get("AttributeValueList", []):
        yield next(iter(value.values()))
    requests = request.get("RequestItems", {}).values()
    for inner in (*(r for r in requests if isinstance(r, dict)), *request.get("TransactItems", [])):
        parts = [{"Key": key} for key in inner.get("Keys", [])] or list(inner.values())
        for part in parts:
            yield from leading_keys(part)


def with_variables(statement: Any, caller: Mapping[str, Any]) -> Any:  # noqa: ANN401 - the emulator's own type
    """Return a policy statement with the caller's tags in the place of its variables."""
    written = json.dumps([statement.resources, statement.not_resources, statement.conditions])
    if not VARIABLE.search(written):
        return statement
    # A variable without a value stays as it is written, and so matches nothing.
    filled = VARIABLE.sub(lambda found: json.dumps(str(caller.get(found[1].lower(), found[0])))[1:-1], written)
    resources, not_resources, conditions = json.loads(filled)
    return replace(statement, resources=resources, not_resources=not_resources, conditions=conditions)


if __name__ == "__main__":
    end_with_parent()
    add_missing_pieces()
    app.main()
