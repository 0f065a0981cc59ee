"""A local cloud that runs, as the end-to-end tests speak to it: over HTTP, and with the emulated AWS's own clients."""

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import httpx

from local import people, processes
from local.processes import ROOT

ENDED = {"completed", "failed", "cancelled", "expired"}


def marker() -> str:
    """Return a word that binds a scenario to one question, and that no other test's question holds."""
    return f"[m-{secrets.token_hex(6)}]"


@dataclass(frozen=True)
class Streamed:
    """An event of the native stream and the position of a reader who has had it."""

    id: str
    event: dict[str, Any]


@dataclass
class Api:
    """The public API as one person uses it."""

    http: httpx.Client

    def ask(self, question: str, **body: Any) -> str:
        """Create a run and return its id."""
        answer = self.http.post("/runs", json={"input": question, **body})
        assert answer.status_code == 202, answer.text
        run_id: str = answer.json()["run_id"]
        return run_id

    def record(self, run_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/runs/{run_id}")
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def wait(self, run_id: str, *, within_s: float = 30) -> dict[str, Any]:
        """Return the result of a run once it is over."""
        deadline = time.monotonic() + within_s
        while True:
            answer = self.http.get(f"/runs/{run_id}/result")
            if answer.status_code == 200:
                result: dict[str, Any] = answer.json()
                return result
            assert answer.status_code == 409, answer.text
            assert time.monotonic() < deadline, f"not over within {within_s} s: {self.record(run_id)}"
            time.sleep(0.1)

    def wait_until(self, run_id: str, status: str, *, within_s: float = 20) -> dict[str, Any]:
        """Return the record of a run once it has a status."""
        deadline = time.monotonic() + within_s
        while (record := self.record(run_id))["status"] != status:
            assert time.monotonic() < deadline, f"not {status} within {within_s} s: {record}"
            assert record["status"] not in ENDED, record
            time.sleep(0.05)
        return record

    def wait_while(self, run_id: str, statuses: set[str], *, within_s: float = 20) -> None:
        """Wait until a run has another status."""
        deadline = time.monotonic() + within_s
        while (status := self.record(run_id)["status"]) in statuses:
            assert time.monotonic() < deadline, f"still {status} after {within_s} s"
            time.sleep(0.1)

    def answer(self, question: str, **body: Any) -> str:
        """Return the agent's answer to a question."""
        result = self.wait(self.ask(question, **body))
        assert result["reason"] == "answered", result
        text: str = result["answer"]
        return text

    def pages(self, run_id: str, *, after: str | None = None) -> Iterator[list[Streamed]]:
        """Follow a run as a browser would, one answer at a time, reconnecting with Last-Event-ID until 204."""
        for _ in range(500):
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
            answer = self.http.get(f"/runs/{run_id}/events", headers=headers)
            if answer.status_code == 204:
                return
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"].startswith("text/event-stream")
            page = list(server_sent(answer.text))
            if page:
                after = page[-1].id
            yield page
        raise AssertionError("the stream has no end")

    def follow(self, run_id: str, *, after: str | None = None) -> list[Streamed]:
        """Return the whole stream after a position."""
        return [event for page in self.pages(run_id, after=after) for event in page]


def server_sent(text: str) -> Iterator[Streamed]:
    for frame in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in frame.splitlines() if line and not line.startswith(":"))
        if "data" in lines:
            yield Streamed(lines["id"], json.loads(lines["data"]))


@dataclass
class RunningCloud:
    """What tests know of the cloud: its state folder, and what endpoint.json says."""

    state: Path
    _clients: list[Any] = field(default_factory=list)

    @property
    def endpoint(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.state / "endpoint.json").read_text())
        return document

    @property
    def url(self) -> str:
        url: str = self.endpoint["url"]
        return url

    @property
    def aws_url(self) -> str:
        """The emulator's root."""
        return self.url.split("/_aws")[0]

    def output(self, name: str) -> str:
        value: str = self.endpoint["stack_outputs"][name]
        return value

    def token(self, person: str) -> str:
        token: str = self.endpoint["tokens"][person]
        return token

    @contextmanager
    def api(self, person: str) -> Iterator[Api]:
        with self.anonymous(Authorization=f"Bearer {self.token(person)}") as http:
            yield Api(http)

    @contextmanager
    def newcomer(self, tenant: str, groups: tuple[str, ...]) -> Iterator[Api]:
        """Sign up a person with these roles, and sign them in."""
        person = people.Person(f"{tenant}-{secrets.token_hex(4)}", tenant, groups, "A-long-enough-1-password")
        cognito = self.aws("cognito-idp")
        people.sign_up(cognito, self.output("UserPoolId"), person)
        token = people.sign_in(cognito, self.output("UserPoolClientId"), person)
        with self.anonymous(Authorization=f"Bearer {token}") as http:
            yield Api(http)

    def anonymous(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def aws(self, service: str, **credentials: str) -> Any:
        """Return a client of the emulated AWS: of its root user, or of whose credentials are given."""
        client = boto3.client(  # type: ignore[call-overload]  # the stubs want the service as a literal
            service,
            endpoint_url=self.aws_url,
            region_name="us-east-1",
            **(credentials or {"aws_access_key_id": "test", "aws_secret_access_key": "test"}),
        )
        self._clients.append(client)
        return client

    def as_role(self, service: str, role_arn: str) -> Any:
        """Return a client with a role's rights. The emulator lets its root user step into a service's role."""
        given = self.aws("sts").assume_role(RoleArn=role_arn, RoleSessionName="e2e")["Credentials"]
        return self.aws(
            service,
            aws_access_key_id=given["AccessKeyId"],
            aws_secret_access_key=given["SecretAccessKey"],
            aws_session_token=given["SessionToken"],
        )

    def role_of(self, output: str) -> str:
        """Return the ARN of the role of the function that a stack output names."""
        found = self.aws("lambda").get_function_configuration(FunctionName=self.output(output))
        role: str = found["Role"]
        return role

    def tell_model(self, match: str, *steps: dict[str, Any], repeat: bool = False) -> None:
        """Add a scenario for the questions that hold `match`."""
        path = self.state / "scenarios.json"
        known = json.loads(path.read_text())["scenarios"] if path.exists() else []
        unfinished = path.with_suffix(".new")
        unfinished.write_text(json.dumps({"scenarios": [*known, {"match": match, "steps": steps, "repeat": repeat}]}))
        unfinished.replace(path)

    def workers(self, service: str) -> list[int]:
        """Return the processes that run a function now."""
        return processes.workers(self.state, service)

    @contextmanager
    def door(self, output: str, handler: str, **variables: str) -> Iterator[None]:
        """Put a door of the tests in the place of that of the function which a stack output names."""
        functions, name = self.aws("lambda"), self.output(output)
        before = functions.get_function_configuration(FunctionName=name)
        own = before["Environment"]["Variables"]
        functions.update_function_configuration(
            FunctionName=name,
            Handler=handler,
            Environment={"Variables": own | {"PYTHONPATH": str(ROOT)} | variables},
        )
        try:
            yield
        finally:
            functions.update_function_configuration(
                FunctionName=name, Handler=before["Handler"], Environment={"Variables": own}
            )

    @contextmanager
    def release(self, **changes: Any) -> Iterator[None]:
        """Let runs be admitted and held under the release with these fields changed, those of `caps` one by one."""
        written = json.dumps(changes)
        with (
            self.door("ShimFunction", "tests.e2e.other_release.shim_handler", KEEPGATE_RELEASE_CHANGES=written),
            self.door("AgentFunction", "tests.e2e.other_release.agent_handler", KEEPGATE_RELEASE_CHANGES=written),
        ):
            yield

    def stuck_tools(self, folder: Path, *, patience_s: float) -> AbstractContextManager[None]:
        """Let a tool hang as often as there are files `<tool>.<n>` in the folder; its room waits so long for it."""
        variables = {"KEEPGATE_STUCK": str(folder), "KEEPGATE_STUCK_PATIENCE_S": str(patience_s)}
        return self.door("ToolFunction", "tests.e2e.stuck_tools.handler", **variables)

    @contextmanager
    def redelivering_after(self, seconds: int) -> Iterator[None]:
        """Let jobs of the queue come back after so many seconds; leave no dead letters to the next test."""
        sqs, url = self.aws("sqs"), self.output("ToolQueueUrl")
        before = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])["Attributes"]
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": str(seconds)})
        try:
            yield
        finally:
            sqs.set_queue_attributes(QueueUrl=url, Attributes=before)
            sqs.purge_queue(QueueUrl=self.output("ToolDeadLetterQueueUrl"))

    def events(self, tenant: str, run_id: str) -> list[dict[str, Any]]:
        """Return a run's events as they are stored: `type`, `at`, `payload` (JSON) and the rest of the envelope."""
        dynamodb = self.aws("dynamodb")
        pages = dynamodb.get_paginator("query").paginate(
            TableName=self.output("RunsTable"),
            KeyConditionExpression="pk = :pk AND begins_with(sk, :e)",
            ExpressionAttributeValues={":pk": {"S": f"T#{tenant}#R#{run_id}"}, ":e": {"S": "E#"}},
        )
        items = [item for page in pages for item in page["Items"] if "~" not in item["sk"]["S"]]
        return [{name: next(iter(value.values())) for name, value in item.items()} for item in items]

    def log(self, tenant: str, run_id: str) -> list[dict[str, Any]]:
        """Return the payloads of a run's events."""
        return [json.loads(event["payload"]) for event in self.events(tenant, run_id)]

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()
