"""A run whose log the test writes: to try room 3, and a team's tools, on calls in any state."""

from datetime import timedelta
from typing import Any

from agent.contracts import sha256_of
from agent.decided_call import ToolRoom
from agent.dispatch import Dispatcher
from agent.events import (
    Decision,
    Event,
    ModelCompleted,
    Payload,
    RunClaimed,
    RunCreated,
    ToolQueued,
    ToolStarted,
    ToolUse,
    Verdict,
)
from agent.identity import Principal, Role
from agent.ports.run_log import NewRun, RunLog
from agent.testing.clock import FakeClock
from agent.testing.controls import MemoryControlBook
from agent.testing.job_lines import MemoryJobLines
from agent.testing.limits import MemoryLimitBook
from agent.testing.progress import MemoryProgressNotes
from agent.testing.rooms import MemoryToolQueue
from agent.testing.run_log import MemoryRunLog
from agent.testing.secrets import MemorySecrets
from agent.testing.tenant_data import MemoryTable, MemoryTenantAccess
from agent.tools import Tool, by_name

RUN = "run_01JABCDEFGHJKMNPQRSTVWXYZ0"
CALL = "call_1_0"


class DecidedRun:
    """A claimed run of `u-1` at a tenant, with one tool and a tool room over tables in memory."""

    def __init__(
        self, tool: Tool[Any], *, log: RunLog | None = None, run_id: str = RUN, tenant_id: str = "acme"
    ) -> None:
        self.run_id = run_id
        self.tenant_id = tenant_id
        self.tool = tool
        self._memory = MemoryRunLog()
        self.log: RunLog = log or self._memory
        self.table = MemoryTable()
        self.clock = FakeClock()
        self.controls = MemoryControlBook(self.clock)
        self.notes = MemoryProgressNotes()
        self.secrets = MemorySecrets(self.clock)
        access = MemoryTenantAccess(self.table, self.secrets)
        self.room = ToolRoom(self.log, by_name([tool]), access, self.clock, self.notes)
        now = self.clock.now()
        created = RunCreated(
            principal=Principal(tenant_id=tenant_id, user_id="u-1", roles=frozenset({Role.USER})),
            input="?",
            release="r",
            deadline_at=now + timedelta(hours=1),
            limit_micros=1,
        )
        nonce = run_id
        event = Event(
            tenant_id=tenant_id, run_id=run_id, seq=1, at=now, epoch=0, nonce=nonce, release="r", data=created
        )
        self.header = self.log.create(NewRun(event=event, idempotency_key=None, body_sha256=""))
        self.append(RunClaimed(owner="o", epoch=1, lease_until=now + timedelta(minutes=5)))

    def append(self, *payloads: Payload) -> None:
        """Append as the holder, to the log as it stands."""
        current = self.log.header(self.tenant_id, self.run_id) or self.header
        self.header = self.log.append(current, payloads, at=self.clock.now())

    def decide(self, arguments: dict[str, Any], *, call_id: str = CALL, turn: int = 1, **changes: Any) -> None:  # noqa: ANN401 - any field
        """Append an answer whose one call is allowed; `changes` are fields of the decision to be wrong on purpose."""
        contract = self.tool.contract
        decision = Decision(
            call_id=call_id,
            tool=contract.name,
            verdict=Verdict.ALLOW,
            code="allowed",
            arguments=arguments,
            arguments_sha256=sha256_of(arguments),
            contract_sha256=contract.sha256(),
            queued=contract.queued,
        ).model_copy(update=changes)
        answer = ModelCompleted(
            turn=turn,
            attempt=1,
            model_id="m",
            content=(ToolUse(call_id=call_id, tool=contract.name, arguments=arguments),),
            stop_reason="tool_use",
            usage=None,
            cost_micros=0,
            duration_ms=1,
            decisions=(decision,),
        )
        self.append(answer)

    def start(self, call_id: str = CALL, attempt: int = 1) -> None:
        """Append that the call begins."""
        self.append(ToolStarted(call_id=call_id, tool=self.tool.contract.name, attempt=attempt))

    def queue(self, call_id: str = CALL, *, wait_s: float = 600) -> None:
        """Append that the call goes through the queue."""
        due_at = self.clock.now() + timedelta(seconds=wait_s)
        self.append(ToolQueued(call_id=call_id, tool=self.tool.contract.name, due_at=due_at))

    def dispatcher(self) -> Dispatcher:
        """Return what sends the run's queued calls, into a queue of its own, where the log is in memory."""
        return Dispatcher(MemoryJobLines(self._memory), MemoryToolQueue(), MemoryLimitBook(), self.clock)

    def payloads(self) -> list[Payload]:
        """Return what the log says after the model's answer."""
        events = [event.data for event in self.log.events(self.tenant_id, self.run_id)]
        answers = [position for position, data in enumerate(events) if isinstance(data, ModelCompleted)]
        return events[answers[-1] + 1 :] if answers else []
