"""`MODEL_URL`: an OpenAI-compatible server in the scripted model's place, behind the same wire."""

import json
import signal
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from support_desk import seed
from tests.e2e.conftest import free_port, start_cloud
from tests.e2e.running_cloud import RunningCloud


class ChatServer(BaseHTTPRequestHandler):
    """Calls `lookup_order` when asked, and repeats what the tool brought."""

    def do_GET(self) -> None:
        self.answer(json.dumps({"data": [{"id": "small-model"}]}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
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

    def answer(self, body: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def chat_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), ChatServer)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_model_answers_through_the_same_system(chat_url: str, tmp_path: Path) -> None:
    state, log = tmp_path / "state", tmp_path / "run.log"
    process = start_cloud(state, log, free_port(), MODEL_URL=chat_url)
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
