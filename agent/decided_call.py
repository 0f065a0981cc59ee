"""What room 3 needs to run a call, and the proof that it may: the run's log shows the call decided, cleared and open.

Only ids come in. Who asks, what was decided and with which arguments is read from the log, never from the caller.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from agent.contracts import Contract, canonical_json, sha256_of
from agent.errors import CallNotDecided
from agent.events import Decision, Verdict
from agent.floor import floor
from agent.held_run import read_state
from agent.hooks import STRICTNESS
from agent.identity import Principal
from agent.pinned_call import Outside
from agent.ports.clock import Clock
from agent.ports.jobs import ProgressNotes
from agent.ports.run_log import RunLog
from agent.run_state import RunState, Turn
from agent.tools import Arguments, ReadSecret, TenantData, TenantFiles, Tool


class TenantAccess(Protocol):
    """Opens one tenant's data for one call, with the rights of the call's contract and no more."""

    def data(self, tenant_id: str, contract: Contract) -> TenantData:
        """Return the tenant's items.

        Raises:
            StoreUnavailable: no session could be had.
        """
        ...

    def files(self, tenant_id: str, run_id: str, contract: Contract) -> TenantFiles:
        """Return the run's files."""
        ...

    def secrets(self, principal: Principal, contract: Contract) -> ReadSecret:
        """Return what reads the secrets of the call's contract, of this tenant and user alone."""
        ...

    def results(self, tenant_id: str, run_id: str) -> TenantFiles:
        """Return the place where the platform itself puts results that are too large for the log."""
        ...


def _wait(done: threading.Event, seconds: float) -> bool:
    return done.wait(seconds)


@dataclass(frozen=True)
class ToolRoom:
    """What room 3 needs to run a call."""

    log: RunLog
    tools: Mapping[str, Tool[Any]]
    access: TenantAccess
    clock: Clock
    notes: ProgressNotes
    wait: Callable[[threading.Event, float], bool] = _wait
    """Wait for the tool to end; False where the time passed first."""
    outside: Outside | None = None
    """The way to servers outside; without it their tools fail."""


@dataclass(frozen=True)
class DecidedCall:
    """A call as the log shows it: allowed or approved, started and open."""

    principal: Principal
    decision: Decision
    tool: Tool[Any]
    arguments: Arguments
    attempt: int
    """The number of its start."""


def find_call(state: RunState, call_id: str) -> tuple[Turn, Decision] | None:
    """Return the newest turn and the decision about one of its calls: no older call can be open."""
    if state.turn is None:
        return None
    decisions = [decision for decision in state.turn.completed.decisions if decision.call_id == call_id]
    return (state.turn, decisions[0]) if decisions else None


def require_decided(room: ToolRoom, tenant_id: str, run_id: str, call_id: str) -> DecidedCall:
    """Return the call, or refuse it. Every reason gets the same error; the message is for the platform's log.

    Raises:
        CallNotDecided: see the message.
    """
    state = read_state(room.log, tenant_id, run_id)
    if state is None or state.created.principal.tenant_id != tenant_id:
        raise CallNotDecided("there is no such run")
    if state.is_over:
        raise CallNotDecided("the run is over")
    found = find_call(state, call_id)
    if found is None:
        raise CallNotDecided("the newest turn has no decision about this call")
    turn, decision = found
    if decision.verdict is Verdict.DENY:
        raise CallNotDecided("the decision is deny")
    if call_id not in turn.started:
        raise CallNotDecided("the call has not been started")
    if not turn.is_cleared(decision):
        raise CallNotDecided("no approval of the call was given and consumed by its start")
    if call_id in turn.decided and turn.decided[call_id].by == state.created.principal.user_id:
        raise CallNotDecided("the call was approved by who asked for it")
    if turn.is_closed(call_id):
        raise CallNotDecided("the call has its result already, or only a person can say what became of it")
    tool, arguments = _require_same(room, decision)
    return DecidedCall(state.created.principal, decision, tool, arguments, turn.started[call_id][0].attempt)


def _require_same(room: ToolRoom, decision: Decision) -> tuple[Tool[Any], Arguments]:
    """Return tool and arguments of a decision, if they are those that were decided, and decided as they must be."""
    tool = room.tools.get(decision.tool)
    if tool is None or tool.contract.sha256() != decision.contract_sha256:
        raise CallNotDecided("the call was decided under another contract of its tool")
    least = floor(tool.contract.effect, tainted=decision.tainted, modes=decision.modes)
    if STRICTNESS[decision.verdict] < STRICTNESS[least]:
        raise CallNotDecided("the call was decided below the floor of its effect")
    if sha256_of(decision.arguments) != decision.arguments_sha256:
        raise CallNotDecided("the arguments are not the ones that were decided")
    try:
        return tool, tool.arguments.model_validate_json(canonical_json(decision.arguments))
    except ValidationError as error:
        raise CallNotDecided("the decided arguments do not fit the tool") from error
