"""`MODEL_URL` and `TRACES_URL`: a team's own model in the scripted one's place, its own collector in the file's."""

import gzip
import json
import signal
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from local.processes import free_port
from support_desk import seed
from tests.e2e.conftest import start_cloud
from tests.e2e.running_cloud import RunningCloud


class OwnServers(BaseHTTPRequestHandler):
    """A model that calls `lookup_order` and repeats what it brought; and a collector of traces."""

    spans: ClassVar[list[Span]] = []

    def do_GET(self) -> None:
        self.answer(json.dumps({"data": [{"id": "small-model"}]}))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/traces":
            received = ExportTraceServiceRequest.FromString(self._plain(body))
            self.spans += [s for r in received.resource_spans for scope in r.scope_spans for s in scope.spans]
            self.answer("")
            return
        asked = json.loads(body)
        last = asked["messages"][-1]
        if last["role"] == "tool":
            deltas: list[Any] = [{"content": word + " "} for word in last["content"].split()]
        else:
            function = {"name": "lookup_order", "arguments": '{"order_id": "1001"}'}
            deltas = [{"tool_calls": [{"index": 0, "id": "a-call", "function": function}]}]
        chunks: list[Any] = [{"choices": [{"delta": delta}]} for delta in deltas]
        chunks.append({"choices": [{"delta": {}, "finish_reason": "stop" if len(deltas) > 1 else "tool_calls"}]})
        chunks.append({"choices": [], "usage": {"prompt_tokens": 900, "completion_tokens": 60}})
        self.answer("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n")

    def _plain(self, body: bytes) -> bytes:
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def answer(self, body: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def own_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), OwnServers)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_model_answers_and_another_collector_hears_of_it(own_url: str, tmp_path: Path) -> None:
    state, log = tmp_path / "state", tmp_path / "run.log"
    process = start_cloud(state, log, free_port(), MODEL_URL=own_url, TRACES_URL=f"{own_url}/traces")
    try:
        deadline = time.monotonic() + 60
        while not (state / "endpoint.json").exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        cloud = RunningCloud(state)
        with cloud.api("globex-user") as globex:
            run_id = globex.ask("Anything the scripted model would not look up")
            answer = globex.wait(run_id)["answer"]
            record = globex.record(run_id)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    order = next(item for kind, _, item in seed.items("globex") if kind == "order")
    assert order["tracking_number"] in answer
    assert record["tokens"] == {"input": 1800, "output": 120}
    assert not (state / "traces.jsonl").exists()
    assert {"chat", "execute_tool", "invoke_agent"} <= {span.name.split()[0] for span in OwnServers.spans}
    assert len({span.trace_id for span in OwnServers.spans if span.name.startswith(("chat", "execute_tool"))}) == 1
