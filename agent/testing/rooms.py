"""The ways between the rooms, in memory: a tool runner that is room 3 itself, a queue, a bell, and fixed verdicts."""

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from agent.decided_call import ToolRoom
from agent.errors import FactsUnavailable
from agent.execution import ToolJob, execute
from agent.fact_finding import FactsQuery, find_facts
from agent.ports.policy import PolicyDecision, PolicyQuery
from agent.ports.tool_room import ToolReply


class InProcessToolRunner:
    """`ports.ToolRunner` that runs the call here, after the same checks as on AWS."""

    def __init__(self, room: ToolRoom) -> None:
        self._room = room
        self._lock = threading.Lock()
        self.runs: Counter[str] = Counter()
        """How often each call was run."""

    def run(
        self,
        tenant_id: str,
        run_id: str,
        call_id: str,
        *,
        timeout_s: float,  # noqa: ARG002 - the contract's, which room 3 minds
        traceparent: str | None,  # noqa: ARG002 - the port's
    ) -> ToolReply:
        """See `ports.ToolRunner`."""
        reply = execute(self._room, tenant_id, run_id, call_id)
        with self._lock:
            self.runs[f"{run_id}/{call_id}"] += 1
        return reply


class InProcessResourceFacts:
    """`ports.ResourceFacts` that reads here, after the same checks as on AWS."""

    def __init__(self, room: ToolRoom) -> None:
        self._room = room
        self.is_down = False
        """Whether nothing can be found out."""
        self.asked: list[str] = []
        """Which resources, in order."""

    def of(self, tenant_id: str, run_id: str, *, tool: str, resource: str) -> dict[str, JsonValue] | None:
        """See `ports.ResourceFacts`."""
        self.asked.append(resource)
        if self.is_down:
            raise FactsUnavailable("the room is down")
        query = FactsQuery(tenant_id=tenant_id, run_id=run_id, tool=tool, resource=resource)
        found = find_facts(self._room, query)
        return found.model_dump(mode="json") if found else None


@dataclass
class MemoryToolQueue:
    """`ports.ToolQueue` as a list of jobs."""

    jobs: deque[ToolJob] = field(default_factory=deque)

    def send(
        self,
        tenant_id: str,
        run_id: str,
        call_id: str,
        *,
        traceparent: str | None,
    ) -> None:
        """See `ports.ToolQueue`."""
        self.jobs.append(ToolJob(tenant_id=tenant_id, run_id=run_id, call_id=call_id, traceparent=traceparent))


@dataclass
class MemoryWake:
    """`ports.Wake` as a list of runs to be worked on: tenant, run."""

    runs: deque[tuple[str, str]] = field(default_factory=deque)

    def wake(self, tenant_id: str, run_id: str, *, traceparent: str | None) -> None:  # noqa: ARG002 - the port's
        """See `ports.Wake`."""
        self.runs.append((tenant_id, run_id))


@dataclass(frozen=True)
class FixedPolicy:
    """`ports.Policy` with a verdict for each tool that is named, and allow for all others."""

    verdicts: Mapping[str, Literal["allow", "ask", "deny"]] = field(default_factory=dict)

    def decide(self, query: PolicyQuery) -> PolicyDecision:
        """See `ports.Policy`."""
        return PolicyDecision(
            verdict=self.verdicts.get(query.tool, "allow"), policies=("fixed",), policy_sha256="fixed"
        )
