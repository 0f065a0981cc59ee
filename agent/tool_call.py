"""One start of a tool call, whoever made it: the loop or the queue's worker. Room 3 runs it, here it becomes a result.

The tool's breaker is told what its function did, not what the tool said: an error of the tool's own is an answer, and
so is a refusal. Trouble of any other kind is raised as it comes. It ends the invocation, and whoever is next finds the
start open in the log.
"""

from dataclasses import dataclass

from agent import tracing
from agent.contracts import Contract
from agent.errors import CallNotDecided, ToolLost, ToolUnreached
from agent.events import Decision
from agent.ports.breakers import Breakers
from agent.ports.tool_room import ToolRunner
from agent.run_state import Result
from agent.tool_results import breaker, completed, refused, unavailable


@dataclass(frozen=True)
class Start:
    """A call whose `tool.started` is in the log."""

    tenant_id: str
    run_id: str
    decision: Decision
    contract: Contract
    """The one it was decided under."""
    attempt: int
    """The number of this start."""
    calls: int
    """In its turn."""


def carry_out(start: Start, runner: ToolRunner, breakers: Breakers) -> Result | None:
    """Run the call and return its result; None where its end was not seen."""
    decision, name = start.decision, breaker(start.decision.tool)
    with tracing.execute_tool(decision.tool, decision.call_id, tenant_id=start.tenant_id, run_id=start.run_id) as span:
        try:
            reply = runner.run(
                start.tenant_id,
                start.run_id,
                decision.call_id,
                timeout_s=start.contract.timeout_s,
                traceparent=tracing.traceparent(),
            )
        except (ToolUnreached, ToolLost) as trouble:
            tracing.fail(span, trouble.code)
            breakers.failed(name)
            return unavailable(decision, attempt=start.attempt) if isinstance(trouble, ToolUnreached) else None
        except CallNotDecided as no:
            tracing.fail(span, no.code)
            breakers.succeeded(name)
            return refused(decision)
        breakers.succeeded(name)
        span.set_attribute(tracing.OUTCOME, reply.outcome)
        return completed(decision, start.contract, reply, calls=start.calls)
