"""One call of a server's tool: only if the tool is still, to the letter, the one that people reviewed.

Stopped before? Look at what the server offers now; only what equals the pin is sent arguments. A tool that is not the
pinned one is stopped, for every process and until a review: operators are told, and calls go on being refused also when
the server takes the change back. What the server answers is text from outside, and its size was bounded while reading.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, JsonValue

from agent.contracts import Contract
from agent.errors import StoreUnavailable, ToolLost
from agent.pinned_tools import pinned_sha256
from agent.tool_servers import (
    OfferedTool,
    ServerAnswer,
    ServerError,
    ServerPin,
    ServerRefused,
    ServerRejected,
    StoppedTools,
    ToolServers,
)
from agent.tools import ReadSecret, ToolFailed

logger = logging.getLogger(__name__)

LISTING_SHARE, LISTING_S = 3, 5.0
"""Of a call's time a third, and at most so many seconds, go to looking at what the server offers."""
REPORT_S = 0.5
"""Kept of it, so that who waits hears of a timeout from here."""

SENTENCES = {
    "server_unreachable": "The service does not answer, so it was not asked.",
    "server_refused": "The service does not take our key, so it did nothing. Tell the user to ask for a new key.",
    "server_asked": "The service asked for something that it does not get. It did not finish.",
    "answer_too_large": "The service did it, but its answer was too large to read.",
}
CHANGED = "This tool has changed at its service and stays off until people have reviewed it. Tell the user so."

T = TypeVar("T")


class ServerResult(BaseModel):
    """What the model reads of an answer: its data where the server gave any, else its text."""

    data: JsonValue = None
    text: str = ""
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outside:
    """What room 3 needs to reach servers outside."""

    servers: ToolServers
    stopped: StoppedTools
    tell_changed: Callable[[Contract], None] = lambda _: None
    """Tell operators that a tool was stopped, or was called and is."""


def is_pinned(offered: OfferedTool, pin: ServerPin) -> bool:
    """Tell whether a tool is the one that was reviewed. What has no one JSON text is not."""
    try:
        return pinned_sha256(offered) == pin.sha256
    except ValueError:
        return False


@dataclass(frozen=True)
class PinnedServer:
    """The server of a contract, for one call."""

    contract: Contract
    pin: ServerPin
    outside: Outside
    secret: ReadSecret
    key: str

    def call(self, arguments: Mapping[str, JsonValue]) -> ServerResult:
        """Have the pinned tool run, and return what the model may read.

        Raises:
            ToolFailed: it did not run, or says itself that it failed, or its answer is of no use.
            ToolLost: it may have run, and nobody knows.
        """
        try:
            self._require_reviewed()
        except StoreUnavailable as unknown:
            raise ToolFailed(unknown.code, "It can't be told whether the tool may run, so it did not.") from unknown
        sent = dict(arguments)
        if self.pin.key_argument is not None:
            sent[self.pin.key_argument] = self.key
        answer = self._answered(sent)
        if not answer.ok:
            raise ToolFailed("tool_error", answer.text)
        if answer.structured is not None:
            return ServerResult(data=answer.structured, left_out=answer.left_out)
        return ServerResult(text=answer.text, left_out=answer.left_out)

    def _require_reviewed(self) -> None:
        if self.outside.stopped.is_stopped(self.contract.sha256()):
            self._refuse("stopped before")
        offered = self._asked(lambda bearer: self._offered(bearer)).get(self.pin.tool)
        if offered is None:
            self._stop("no longer offered")
        elif not is_pinned(offered, self.pin):
            self._stop("not as it was reviewed")

    def _offered(self, bearer: str | None) -> Mapping[str, OfferedTool]:
        timeout_s = min(LISTING_S, self.contract.timeout_s / LISTING_SHARE)
        return self.outside.servers.tools(self.pin.server, self.pin.url, bearer=bearer, timeout_s=timeout_s)

    def _stop(self, why: str) -> None:
        try:
            self.outside.stopped.stop(self.contract.sha256(), tool=self.contract.name)
        except StoreUnavailable:
            logger.warning("a server's tool could not be stopped for good", extra={"tool": self.contract.name})
        self._refuse(why)

    def _refuse(self, why: str) -> None:
        # Never what the server says of the tool now: that text is what is not trusted.
        logger.error("a server's tool is refused until it is reviewed", extra={"tool": self.contract.name, "why": why})
        self.outside.tell_changed(self.contract)
        raise ToolFailed("tool_changed", CHANGED)

    def _answered(self, sent: Mapping[str, JsonValue]) -> ServerAnswer:
        share = min(LISTING_S, self.contract.timeout_s / LISTING_SHARE)
        timeout_s = self.contract.timeout_s - share - REPORT_S
        return self._asked(lambda bearer: self.outside.servers.call(self.pin, sent, bearer=bearer, timeout_s=timeout_s))

    def _asked(self, ask: Callable[[str | None], T]) -> T:
        """Ask with the secret; where the server refuses it, once more with the one that is stored now."""
        try:
            try:
                return ask(self._bearer())
            except ServerRefused:
                if not self.contract.secrets:
                    raise
                return ask(self._bearer(fresh=True))
        except ServerRejected as rejected:
            raise ToolFailed(rejected.code, str(rejected)) from rejected
        except ServerError as error:
            if (sentence := SENTENCES.get(error.code)) is not None:
                raise ToolFailed(error.code, sentence) from error
            raise ToolLost(f"{self.contract.name}: {error.code}") from error

    def _bearer(self, *, fresh: bool = False) -> str | None:
        if not self.contract.secrets:
            return None
        try:
            return self.secret(self.contract.secrets[0].name, fresh=fresh)
        except StoreUnavailable as unread:
            raise ToolFailed(unread.code, "The key for the service can't be read, so it was not asked.") from unread
