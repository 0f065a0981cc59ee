"""Room 3's core: run one decided tool call for one tenant, and nothing that the log does not show as decided.

A call that the log does not show as allowed or approved, started and open is refused (`agent.decided_call`). The tool
runs in a thread under its contract's timeout, with the tenant's session and no other.

The surprise: an error of the tool's own is a result, which the model reads. An exception is raised only where the call
must not run (`CallNotDecided`), or where what it did is not known (`ToolLost`): it outlived its timeout, or a `once`
tool broke off. Whoever called then ends the process, because a thread can't be killed.
"""

import bisect
import contextvars
import json
import logging
import math
import threading
from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from pydantic import BaseModel, ConfigDict

from agent import rows, tracing
from agent.answer import mended
from agent.contracts import canonical_json
from agent.decided_call import DecidedCall, ToolRoom, require_decided
from agent.errors import KeepgateError, StoreUnavailable, ToolLost, describe
from agent.events import MAX_PROGRESS_CHARACTERS, MAX_PROGRESS_NOTES
from agent.identity import CallId, RunId, TenantId, idempotency_key
from agent.pinned_call import PinnedServer
from agent.ports.tool_room import ToolReply
from agent.secrets import Mask
from agent.tools import ReadSecret, TenantFiles, ToolContext, ToolFailed

logger = logging.getLogger(__name__)

MAX_MESSAGE = 500
"""Characters of a tool's own error sentence that the model gets."""
PLATFORM_ERRORS = ("secret_unavailable", "file_too_large")
"""What may fail inside any tool, in what the platform lends it."""
NOTE_EVERY_S = 1.0
"""Of the notes a tool gives in quick succession, the first counts."""
UNREACHABLE = canonical_json({"error": "store_unavailable", "message": "The data can't be reached at the moment."})


class ToolJob(BaseModel):
    """What travels to room 3, by invocation or by queue: ids, never decisions or identities."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    tenant_id: TenantId
    run_id: RunId
    call_id: CallId
    traceparent: str | None = None


def execute(room: ToolRoom, tenant_id: str, run_id: str, call_id: str) -> ToolReply:
    """Run a decided call and return what it came to.

    Raises:
        CallNotDecided: the log does not show the call as allowed, started and open under this very contract.
        ToolLost: what the tool did is not known; its thread may still be running.
    """
    began = room.clock.monotonic()
    try:
        call = require_decided(room, tenant_id, run_id, call_id)
    except StoreUnavailable:
        return ToolReply(outcome="error", content=UNREACHABLE)
    with tracing.execute_tool(call.decision.tool, call_id, tenant_id=tenant_id, run_id=run_id) as span:
        outcome, content, object_key = _outcome(room, call, run_id)
        span.set_attribute(tracing.OUTCOME, outcome)
    duration_ms = round((room.clock.monotonic() - began) * 1000)
    return ToolReply(outcome=outcome, content=content, object_key=object_key, duration_ms=duration_ms)


def _outcome(room: ToolRoom, call: DecidedCall, run_id: str) -> tuple[Any, str, str | None]:
    contract = call.tool.contract
    mask = Mask()
    try:
        result, written = _run(room, call, run_id, mask)
        return "ok", *_within(mask.json(result.model_dump_json()), written, room, call, run_id)
    except ToolFailed as failed:
        code = failed.code if failed.code in (*contract.errors, *PLATFORM_ERRORS) else "tool_failed"
        return "error", _error(code, mask.text(str(failed))[:MAX_MESSAGE]), None
    except ToolLost:
        raise
    except Exception as error:
        # Not `exception`: its traceback ends in the message, which may quote the tenant's data.
        logger.error("a tool failed", extra={"tool": contract.name, **describe(error)})  # noqa: TRY400
        if contract.mode == "once":
            raise ToolLost("a tool that must not run twice broke off") from error
        if isinstance(error, StoreUnavailable):
            return "error", UNREACHABLE, None
        return "error", _error("tool_failed", "The tool failed. Trying again is unlikely to help."), None


def _run(room: ToolRoom, call: DecidedCall, run_id: str, mask: Mask) -> tuple[BaseModel, list[str]]:
    contract, decision = call.tool.contract, call.decision
    tenant_id = call.principal.tenant_id
    files = _Written(room.access.files(tenant_id, run_id, contract), mask, contract.max_file_bytes)
    key = idempotency_key(run_id, decision.call_id)
    secret = _masked(room.access.secrets(call.principal, contract), mask)
    server = None
    if room.outside is not None and contract.server is not None:
        server = PinnedServer(contract, contract.server, room.outside, secret, key)
    context = ToolContext(
        principal=call.principal,
        run_id=run_id,
        call_id=decision.call_id,
        idempotency_key=key,
        data=room.access.data(tenant_id, contract),
        files=files,
        tainted=decision.tainted,
        progress=_progress(room, call, run_id, mask),
        secret=secret,
        server=server,
    )
    answer: list[BaseModel | BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            answer.append(call.tool.run(call.arguments, context))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that can handle it
            answer.append(error)
        done.set()

    # The context carries the span, so that what the tool does stands below its call. A daemon, because a tool that
    # never ends must not keep its process from ending.
    threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
    if not room.wait(done, contract.timeout_s):
        raise ToolLost(f"no end within {contract.timeout_s} s")
    match answer[0]:
        case Exception() as error:
            raise error
        case BaseException() as error:  # a tool that calls sys.exit() has failed; it must not end the function
            raise RuntimeError("a tool raised what is no Exception") from error
        case result:
            return result, files.keys


def _within(content: str, written: list[str], room: ToolRoom, call: DecidedCall, run_id: str) -> tuple[str, str | None]:
    """Return the result within the contract's rows and bytes; one that has more goes to the bucket whole.

    What stands in the log then says so: each list's first rows and how to get the others, or else the text's head.
    """
    contract = call.tool.contract
    cap = contract.max_result_bytes
    if contract.trusted and call.tool.result:
        # An object made without validation could hold anything, and a computed field of it, too.
        call.tool.result.model_validate_json(content, extra="forbid")
    size = len(content.encode())
    short = rows.shortened(json.loads(content), contract)
    if short is None and size <= cap:
        return content, written[0] if written else None
    files = room.access.results(call.principal.tenant_id, run_id)
    key = files.write(f"{call.decision.call_id}.json", content.encode(), content_type="application/json")
    if short is not None and len(short.encode()) <= cap:
        return short, key

    def headed(characters: int) -> str:
        return canonical_json({"truncated": True, "bytes": size, "head": content[:characters]})

    # The longest head that fits: a quote in it takes two bytes, so its length can't be computed, only searched.
    longest = bisect.bisect_right(range(cap), cap, key=lambda characters: len(headed(characters).encode())) - 1
    return headed(longest), key


class _Written:
    """Files that remember what the tool wrote, for the log, keep its secrets out, and have a bound together."""

    def __init__(self, files: TenantFiles, mask: Mask, max_bytes: int) -> None:
        self._files = files
        self._mask = mask
        self._room = max_bytes
        self.keys: list[str] = []

    def write(self, name: str, content: bytes, *, content_type: str) -> str:
        self._room -= len(content)
        if self._room < 0:
            raise ToolFailed("file_too_large", "The file would be too large. Ask for less.")
        # A name with a mask in it is none, so the tool has failed.
        key = self._files.write(self._mask.text(name), self._mask.content(content), content_type=content_type)
        self.keys.append(key)
        return key


def _masked(read: ReadSecret, mask: Mask) -> ReadSecret:
    """Return a reader whose secrets are masked from the moment the tool has them."""

    def read_and_mask(name: str, *, fresh: bool = False) -> str:
        secret = read(name, fresh=fresh)
        mask.add(secret)
        return secret

    return read_and_mask


def _progress(room: ToolRoom, call: DecidedCall, run_id: str, mask: Mask) -> Callable[[str], None]:
    """Return what a tool tells its progress to: for a call of the queue, whose worker passes it on, and bounded."""
    span = trace.get_current_span()
    tenant_id, call_id = call.principal.tenant_id, call.decision.call_id
    index, told_at = 0, -math.inf

    def tell(note: str) -> None:
        nonlocal index, told_at
        now = room.clock.monotonic()
        text = mended(mask.text(note))[:MAX_PROGRESS_CHARACTERS].strip()
        if not text or not call.decision.queued or index == MAX_PROGRESS_NOTES or now - told_at < NOTE_EVERY_S:
            return
        span.add_event("progress")  # without its text: no contents in traces
        try:
            room.notes.write(tenant_id, run_id, call_id, attempt=call.attempt, index=index, text=text)
        except KeepgateError as trouble:  # no reason for a tool to fail; the next note takes its place
            logger.warning("progress was not kept", extra={"error": trouble.code})
            return
        index, told_at = index + 1, now

    return tell


def _error(code: str, message: str) -> str:
    return canonical_json({"error": code, "message": message})
