"""Ask the agent from a terminal and watch it work: `python -m local.ask --as acme-user "Where is order 1001?"`.

Follows the native event stream as any application would, coming back with `Last-Event-ID` until the end. Ctrl-C
cancels the run and waits for its end; a second one leaves at once. What the agent says is untrusted: control characters
never reach the terminal.

Exit codes: 0 answered, 1 ended without an answer, 2 wrong usage, 3 the cloud can't be reached, 4 refused by the API,
130 cancelled.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from httpx_sse import EventSource
from rich.console import Console

ANSWERED, UNANSWERED, UNREACHABLE, REFUSED, CANCELLED = 0, 1, 3, 4, 130
TIMEOUT_S = 40
"""An answer of the stream may take the gateway's 29 seconds."""
MAX_FAILURES = 5
"""Connections that fail one after the other before we give up."""
FIRST_RETRY_MS = 250

_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class CannotAsk(Exception):
    """The person who asks has to change something first; carries the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def main(
    question: Annotated[str, typer.Argument(help="What to ask the agent.")],
    person: Annotated[str, typer.Option("--as", help="Whose token to use.")] = "acme-user",
    session: Annotated[str | None, typer.Option(help="Runs of one session remember each other's texts.")] = None,
) -> None:
    """Ask the agent that runs on this laptop."""
    try:
        url, token = read_endpoint(state_folder() / "endpoint.json", person)
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT_S) as client:
            raise typer.Exit(Asking(client, Console(highlight=False, soft_wrap=True)).ask(question, session))
    except CannotAsk as wrong:
        Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(f"error: {wrong}")
        raise typer.Exit(wrong.code) from None
    except KeyboardInterrupt:
        raise typer.Exit(CANCELLED) from None


def read_endpoint(path: Path, person: str) -> tuple[str, str]:
    """Return the URL of the API and a person's token, as `make run` wrote them.

    Raises:
        CannotAsk: no cloud is running, or it knows no such person.
    """
    try:
        endpoint = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CannotAsk("no cloud is running here; start `make run` first, in another terminal", UNREACHABLE) from None
    tokens = endpoint["tokens"]
    if person not in tokens:
        raise CannotAsk(f"nobody is called {person}; there are {', '.join(sorted(tokens))}", 2)
    return endpoint["url"], tokens[person]


@dataclass
class Asking:
    """One question, from asking to its end."""

    client: httpx.Client
    console: Console
    sleep: Callable[[float], None] = time.sleep
    _had: str = ""
    """The id of the last event shown: where to come back to."""
    _tools: dict[str, str] = field(default_factory=dict)
    _is_mid_line: bool = False

    def ask(self, question: str, session: str | None = None) -> int:
        """Ask, show what happens, and return the exit code.

        Raises:
            CannotAsk: the API refused the question or can't be reached.
        """
        body = {"input": question} | ({"session_id": session} if session else {})
        run_id = self._post("/runs", body)["run_id"]
        self._note(run_id)
        try:
            last = self._show_all(self._events(run_id))
        except KeyboardInterrupt:
            self._note("cancelling; Ctrl-C again leaves at once")
            self._cancel(run_id)
            last = self._show_all(self._events(run_id))
        if last["type"] == "RUN_ERROR":
            self._end_line()
            self.console.print(safe(last["message"]), style="red", markup=False)
            return UNANSWERED
        return CANCELLED if last["outcome"]["type"] == "cancelled" else ANSWERED

    def _post(self, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        try:
            answer = self.client.post(path, json=body)
        except httpx.TransportError as lost:
            raise CannotAsk(f"the cloud does not answer at {self.client.base_url}: {lost}", UNREACHABLE) from lost
        require_ok(answer)
        document: dict[str, Any] = answer.json()
        return document

    def _cancel(self, run_id: str) -> None:
        try:
            self._post(f"/runs/{run_id}/cancel")
        except CannotAsk as wrong:
            self._note(str(wrong))  # over already: the stream says how

    def _events(self, run_id: str) -> Iterator[dict[str, Any]]:
        """Yield the run's events after the last one shown, coming back as often as the stream closes."""
        retry_ms, failures = FIRST_RETRY_MS, 0
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._had} if self._had else {})
            try:
                with self.client.stream("GET", f"/runs/{run_id}/events", headers=headers) as answer:
                    if answer.status_code == httpx.codes.NO_CONTENT:
                        return
                    require_ok(answer)
                    for sent in EventSource(answer).iter_sse():
                        retry_ms = sent.retry or retry_ms
                        if sent.data:
                            yield json.loads(sent.data)
                            self._had = sent.id
                failures = 0
            except httpx.TransportError as lost:
                failures += 1
                if failures == MAX_FAILURES:
                    raise CannotAsk(f"lost the connection to the cloud: {lost}", UNREACHABLE) from lost
            self.sleep(retry_ms / 1000 * 2**failures)

    def _show_all(self, events: Iterator[dict[str, Any]]) -> dict[str, Any]:
        for event in events:
            self._show(event)
            if event["type"] in {"RUN_FINISHED", "RUN_ERROR"}:
                return event
        raise CannotAsk("the stream ended before the run did", UNREACHABLE)

    def _show(self, event: dict[str, Any]) -> None:
        match event:
            case {"type": "TEXT_MESSAGE_CONTENT", "delta": delta}:
                self.console.print(safe(delta), end="", markup=False)
                self._is_mid_line = not delta.endswith("\n")
            case {"type": "TEXT_MESSAGE_END"}:
                self._end_line()
            case {"type": "MESSAGES_SNAPSHOT"}:
                self._note("that answer was cut off; here is another attempt")
            case {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": name}:
                self._tools[call_id] = name
                self._note(f"{name} …")
            case {"type": "TOOL_CALL_RESULT", "toolCallId": call_id, "content": content}:
                self._note(f"{self._tools.get(call_id, 'a tool')}: {json.loads(content)['status']}")
            case {"type": "CUSTOM", "name": "keepgate.tool_status", "value": {"tool": tool, "status": status}}:
                self._note(f"{tool}: {status}")
            case {"type": "CUSTOM", "name": "keepgate.tool_progress", "value": {"tool": tool, "text": text}}:
                self._note(f"{tool}: {text}")
            case {"type": "CUSTOM", "name": "keepgate.approval", "value": {"status": "pending", **asked}}:
                what = "approver to look into it" if asked["kind"] == "resolution" else "approver"
                self._note(f"{asked['tool']}: needs an {what} ({asked['approval_id']})")
            case {"type": "CUSTOM", "name": "keepgate.approval", "value": {"tool": tool, "status": status}}:
                self._note(f"{tool}: {status}")
            case {"type": "CUSTOM", "name": "keepgate.status", "value": {"status": "waiting", "waiting_for": reasons}}:
                self._note(f"waiting for {', '.join(reasons)}")
            case {"type": "CUSTOM", "name": "keepgate.status", "value": {"status": status}}:
                self._note(status)

    def _note(self, text: str) -> None:
        self._end_line()
        self.console.print(f"· {safe(text)}", style="dim", markup=False)

    def _end_line(self) -> None:
        if self._is_mid_line:
            self.console.print()
            self._is_mid_line = False


def state_folder() -> Path:
    """Return where `make run` keeps its state."""
    return Path(os.environ.get("KEEPGATE_LOCAL") or Path(__file__).parent.parent / ".local")


def safe(text: str) -> str:
    """Return a text without what could steer a terminal."""
    return text.translate(_CONTROLS)


def require_ok(answer: httpx.Response) -> None:
    """Let an answer pass that is no refusal.

    Raises:
        CannotAsk: the API refused; the message says what its problem document says.
    """
    if answer.is_success:
        return
    answer.read()
    try:
        problem = answer.json()
        words = f"{problem['detail']} ({problem['code']}{', ' + problem['field'] if problem.get('field') else ''})"
    except (ValueError, KeyError):
        words = f"the API answered {answer.status_code}"
    raise CannotAsk(words, REFUSED)


if __name__ == "__main__":
    typer.run(main)
