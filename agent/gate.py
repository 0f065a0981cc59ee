"""Every tool call passes here, in one fixed order, before anything of its turn runs.

Known tool → enabled in the release and switched on → arguments by schema, then frozen → policy → limits → time → the
team's hooks, which may only tighten. The first check that fails decides; where none fails, policy or a hook may still
ask for a person. What is frozen here (canonical JSON and its hash) is what runs, byte for byte. A check that can't be
made is a no.

Where a contract says that policies need to know more of a resource than whose it is, the platform finds it out here,
and the decision keeps what it was decided on.

Below the policies lies a floor that none of them can undo: while an agent is read-only no call has an effect, and while
every effect is to be reviewed, or text from outside is in the conversation, none happens without a person.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from pydantic import BaseModel, JsonValue, ValidationError

from agent import allowances
from agent.contracts import Contract, Effect, canonical_json, sha256_of
from agent.controls import Controls
from agent.errors import FactsUnavailable, HookFailed, StoreUnavailable
from agent.events import Decision, Mode, ToolUse, Verdict
from agent.floor import floor
from agent.held_run import HeldRun
from agent.hooks import STRICTNESS, CallDeciding, tighten
from agent.identity import Principal
from agent.limits import Limits
from agent.ports.policy import Policy, PolicyDecision, PolicyQuery
from agent.release import Release
from agent.resource_facts import AskFacts, FactsOfTurn
from agent.tool_results import SWITCHED_OFF
from agent.tools import Tool

MAX_ARGUMENT_BYTES = 32_768
MAX_ARGUMENT_DEPTH = 16
MAX_PROBLEMS = 1000
"""Characters of what the model is told is wrong with its arguments."""
MAX_NAME = 64
"""Of an argument's name in it: the model may have made it up."""


class _Denied(Exception):
    """A check said no: the decision's code, and the sentence for the model."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The gate of one turn: what it checks against."""

    tools: Mapping[str, Tool[Any]]
    release: Release
    controls: Controls | None
    """What operators have switched; None where that can't be read."""
    policy: Policy
    facts: AskFacts
    hooks: tuple[Callable[[CallDeciding], CallDeciding], ...]
    principal: Principal
    calls_before: int
    """Calls of earlier turns of the run that were not denied."""
    seconds_left: float
    """Until the run's deadline."""
    limits: Callable[[], Limits]
    """What holds for the principal now; asked for only where a tool has allowances."""
    tainted: bool
    """Whether text from outside is in the conversation."""
    guards_ask: bool = False
    """Whether a guard of the release has fired that wants every further effect reviewed."""

    @classmethod
    def of(cls, run: HeldRun, principal: Principal, *, calls_before: int) -> Self:
        """Return the gate of a run as it is now, for this principal of it."""
        runtime = run.runtime
        return cls(
            tools=runtime.tools,
            release=run.release,
            controls=_controls(run),
            policy=runtime.policy,
            facts=partial(runtime.facts.of, run.header.tenant_id, run.header.run_id),
            hooks=runtime.hooks.deciding,
            principal=principal,
            calls_before=calls_before,
            seconds_left=run.seconds_left(),
            limits=partial(runtime.limits.of, principal.tenant_id, principal.user_id),
            tainted=run.header.tainted,
            guards_ask=run.header.guards_ask,
        )

    @property
    def modes(self) -> tuple[Mode, ...]:
        """What operators, or a guard that fired, demand of every effect. Where that can't be read: both."""
        if self.controls is None:
            return ("force_review", "read_only")
        force_review = self.controls.force_review or self.guards_ask
        on: dict[Mode, bool] = {"force_review": force_review, "read_only": self.controls.read_only}
        return tuple(mode for mode in on if on[mode])

    def decide(self, uses: Sequence[ToolUse]) -> tuple[Decision, ...]:
        """Return a decision for each call of a turn, in call order."""
        decisions: list[Decision] = []
        facts = FactsOfTurn(self.facts)
        for use in uses:
            passed = sum(1 for decision in decisions if decision.verdict is not Verdict.DENY)
            decisions.append(self._decide(use, facts, position=len(decisions), passed=passed))
        return tuple(decisions)

    def _decide(self, use: ToolUse, facts: FactsOfTurn, *, position: int, passed: int) -> Decision:
        draft = Decision(
            call_id=use.call_id,
            tool=use.tool,
            verdict=Verdict.DENY,
            code="",
            tainted=self.tainted,
            modes=self.modes,
        )
        try:
            tool = self._known(use)
            contract = tool.contract
            draft = draft.model_copy(
                update={
                    "contract_sha256": contract.sha256(),
                    "queued": contract.queued,
                    "effect": contract.effect,
                    "if_unknown": contract.if_unknown,
                    "shown_to_user": contract.shown_to_user,
                }
            )
            self._enabled(use, contract)
            least = self._least(contract.effect)
            arguments, typed = _frozen(tool, use)
            frozen = canonical_json(arguments)
            digest = hashlib.sha256(frozen.encode()).hexdigest()
            draft = draft.model_copy(update={"arguments": arguments, "arguments_sha256": digest})
            resource = _resource(tool, typed)
            draft = draft.model_copy(update={"resource": resource})
            if tool.facts:  # each costs a call to room 3: not for a call that can't pass anyway
                self._within_limits(position, passed)
                self._in_time()
                found = _facts(facts, tool, resource)
                draft = draft.model_copy(update={"facts": found, "facts_sha256": sha256_of(found)})
            ruling = self._ruled(tool, draft)
            draft = draft.model_copy(update={"policy_sha256": ruling.policy_sha256, "policies": ruling.policies})
            _permitted(ruling)
            self._within_limits(position, passed)
            uses = self._within_allowances(contract, arguments)
            self._in_time()
            verdict = max(least, Verdict(ruling.verdict), key=STRICTNESS.__getitem__)
            verdict = self._tightened(use, frozen, verdict)
        except _Denied as no:
            return draft.model_copy(update={"code": no.code, "message": str(no)})
        code = "approval_needed" if verdict is Verdict.ASK else "allowed"
        return draft.model_copy(update={"verdict": verdict, "code": code, "uses": uses})

    def _known(self, use: ToolUse) -> Tool[Any]:
        tool = self.tools.get(use.tool)
        if tool is None:
            raise _Denied("unknown_tool", "There is no such tool. Use only the tools you were given.")
        return tool

    def _enabled(self, use: ToolUse, contract: Contract) -> None:
        if use.tool not in self.release.tools:
            raise _Denied("not_in_release", "This tool is not enabled. Use only the tools you were given.")
        if not self.release.offers(contract):
            raise _Denied("tool_changed", "This tool has changed and stays off until it has been reviewed.")
        if self.controls is None:
            raise _Denied("controls_unavailable", "Whether this tool is switched on could not be checked.")
        if self.controls.tool_off(use.tool):
            raise _Denied("tool_switched_off", SWITCHED_OFF)

    def _least(self, effect: Effect) -> Verdict:
        """Return the mildest verdict that the call may get, whatever the policies say."""
        least = floor(effect, tainted=self.tainted, modes=self.modes)
        if least is Verdict.DENY:
            raise _Denied("read_only", "Nothing may be changed or sent at the moment. Don't try again; tell the user.")
        return least

    def _ruled(self, tool: Tool[Any], draft: Decision) -> PolicyDecision:
        query = PolicyQuery(
            principal=self.principal,
            tool=tool.contract.name,
            arguments=draft.arguments,
            resource=draft.resource,
            facts=draft.facts,
            tainted=self.tainted,
            force_review="force_review" in self.modes,
            read_only="read_only" in self.modes,
        )
        try:
            return self.policy.decide(query)
        except Exception as broken:
            raise _Denied("policy_unavailable", "The rules could not be checked.") from broken

    def _within_limits(self, position: int, passed: int) -> None:
        caps = self.release.caps
        if position >= caps.max_calls_per_turn:
            raise _Denied("too_many_calls", f"At most {caps.max_calls_per_turn} calls at once. Ask again for this one.")
        if self.calls_before + passed >= caps.max_tool_calls:
            raise _Denied("max_tool_calls", "This run may make no more tool calls.")

    def _within_allowances(self, contract: Contract, arguments: dict[str, JsonValue]) -> dict[str, int]:
        """Return what the call uses up, having refused one that exceeds an allowance all by itself.

        Whether enough is left for it is known when it takes it, before it starts: see `agent.allowances`.
        """
        uses = contract.uses(arguments)
        if not uses:
            return uses
        try:
            limits = self.limits()
        except StoreUnavailable as unknown:
            raise _Denied("limits_unavailable", allowances.UNCHECKED) from unknown
        for name, amount in uses.items():
            limit = limits.allowance(contract.name, name)
            if amount > limit:
                raise _Denied("limit_reached", allowances.too_much(name, limit))
        return uses

    def _in_time(self) -> None:
        if self.seconds_left < 1:
            raise _Denied("no_time_left", "The run's time is up.")

    def _tightened(self, use: ToolUse, frozen: str, verdict: Verdict) -> Verdict:
        event = CallDeciding(principal=self.principal, tool=use.tool, arguments_json=frozen, verdict=verdict)
        try:
            after = tighten(self.hooks, event)
        except HookFailed as broken:
            raise _Denied("hook_failed", "A rule of this agent could not be checked.") from broken
        if after.verdict is Verdict.DENY:
            raise _Denied("hook_denied", after.message or "A rule of this agent forbids this.")
        return after.verdict


def _resource(tool: Tool[Any], typed: BaseModel) -> str:
    try:
        return tool.resource_of(typed)
    except Exception as broken:
        raise _Denied("resource_unknown", "It could not be told what this call acts on.") from broken


def _facts(facts: FactsOfTurn, tool: Tool[Any], resource: str) -> dict[str, JsonValue]:
    try:
        found = facts.of(tool, resource)
    except Exception as broken:
        raise _Denied(FactsUnavailable.code, "What this call acts on could not be looked at.") from broken
    if found is None:
        raise _Denied("resource_missing", f"There is no {resource.replace('::', ' ')}. Check it with the user.")
    return found


def _controls(run: HeldRun) -> Controls | None:
    try:
        return run.controls()
    except StoreUnavailable:
        return None


def _permitted(ruling: PolicyDecision) -> None:
    if ruling.verdict not in {"allow", "ask"}:
        raise _Denied("policy_denied", ruling.reason or "The user may not do this. Don't try again; tell the user.")


def _frozen(tool: Tool[Any], use: ToolUse) -> tuple[dict[str, JsonValue], BaseModel]:
    """Return the validated arguments with defaults filled in, as JSON and as their type."""
    if max(_depths(use.arguments)) > MAX_ARGUMENT_DEPTH:
        raise _Denied("invalid_arguments", f"The arguments nest deeper than {MAX_ARGUMENT_DEPTH} levels.")
    raw = canonical_json(use.arguments)
    if len(raw.encode()) > MAX_ARGUMENT_BYTES:
        raise _Denied("invalid_arguments", f"The arguments have more than {MAX_ARGUMENT_BYTES} bytes.")
    try:
        typed = tool.arguments.model_validate_json(raw)
    except ValidationError as wrong:
        told = "; ".join(_problem(tool.contract, problem["loc"], problem["msg"]) for problem in wrong.errors()[:5])
        raise _Denied("invalid_arguments", f"{told[:MAX_PROBLEMS]}. Correct this and call again.") from wrong
    return typed.model_dump(mode="json"), typed


def _problem(contract: Contract, loc: Sequence[str | int], message: str) -> str:
    """Return what is wrong with which argument, and from the contract what it should be."""
    path = ".".join(str(part)[:MAX_NAME] for part in loc) or "arguments"
    declared = contract.schema_.get("properties", {})
    if loc and loc[0] not in declared:
        return f"{path}: {message} (there are: {', '.join(declared) or 'no arguments'})"
    about = declared[loc[0]].get("description") if loc else None
    return f"{path}: {message}" + (f" ({about})" if about else "")


def _depths(value: JsonValue, depth: int = 1) -> Iterator[int]:
    """Yield the depth of each container, without recursion: the nesting is the model's choice."""
    stack: list[tuple[JsonValue, int]] = [(value, depth)]
    while stack:
        item, depth = stack.pop()
        yield depth
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        stack.extend((child, depth + 1) for child in inner if isinstance(child, dict | list))
