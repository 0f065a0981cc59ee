"""The room that has the tenant's data, as the core calls it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import JsonValue


@dataclass(frozen=True)
class ToolReply:
    """What a tool call came to."""

    outcome: Literal["ok", "error"]
    content: str
    """JSON text, already within the contract's byte cap."""
    object_key: str | None = None
    duration_ms: int = 0


class ToolRunner(Protocol):
    """Runs one decided tool call in the room that has the tenant's data. Ids travel, never decisions or identities."""

    def run(self, tenant_id: str, run_id: str, call_id: str, *, timeout_s: float, traceparent: str | None) -> ToolReply:
        """Run the call and return what it came to.

        Raises:
            CallNotDecided: the log does not show the call as allowed, started and open.
            ToolUnreached: nothing was sent, so nothing began.
            ToolLost: it died or timed out; what it did is not known.
        """
        ...


class ResourceFacts(Protocol):
    """Finds out, in the room that has the tenant's data, what a resource is that a call would act on."""

    def of(self, tenant_id: str, run_id: str, *, tool: str, resource: str) -> Mapping[str, JsonValue] | None:
        """Return what the tool's contract declares of the resource `Type::id`; None where there is no such resource.

        Raises:
            FactsUnavailable: not known (fail closed: nothing is decided on a guess).
        """
        ...
