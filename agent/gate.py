"""Every tool call passes here, in one fixed order, before anything of its turn runs.

Known tool → enabled in the release → arguments by schema, then frozen → policy → limits → time → the team's hooks,
which may only tighten. The first check that fails decides; where none fails, policy or a hook may still ask for a
person. What is frozen here (canonical JSON and its hash) is what runs, byte for byte. A check that can't be made is a
no.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, JsonValue, ValidationError

from agent.errors import HookFailed
from agent.events import Decision, ToolUse, Verdict
from agent.hooks import CallDeciding, tighten
from agent.identity import Principal
from agent.ports import Policy, PolicyDecision, PolicyQuery
from agent.release import Release
from agent.tools import Tool, canonical_json

MAX_ARGUMENT_BYTES = 32_768
MAX_ARGUMENT_DEPTH = 16


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
    policy: Policy
    hooks: tuple[Callable[[CallDeciding], CallDeciding], ...]
    principal: Principal
    calls_before: int
    """Calls of earlier turns of the run that were not denied."""
    seconds_left: float
    """Until the run's deadline."""

    def decide(self, uses: Sequence[ToolUse]) -> tuple[Decision, ...]:
        """Return a decision for each call of a turn, in call order."""
        decisions: list[Decision] = []
        for use in uses:
            passed = sum(1 for decision in decisions if decision.verdict is not Verdict.DENY)
            decisions.append(self._decide(use, position=len(decisions), passed=passed))
        return tuple(decisions)

    def _decide(self, use: ToolUse, *, position: int, passed: int) -> Decision:
        draft = Decision(call_id=use.call_id, tool=use.tool, verdict=Verdict.DENY, code="")
        try:
            tool = self._known(use)
            contract = tool.contract
            draft = draft.model_copy(
                update={
                    "contract_sha256": contract.sha256(),
                    "queued": contract.queued,
                    "effect": contract.effect,
                    "shown_to_user": contract.shown_to_user,
                }
            )
            self._enabled(use)
            arguments, typed = _frozen(tool, use)
            frozen = canonical_json(arguments)
            digest = hashlib.sha256(frozen.encode()).hexdigest()
            draft = draft.model_copy(update={"arguments": arguments, "arguments_sha256": digest})
            ruling = self._ruled(tool, arguments, typed)
            draft = draft.model_copy(update={"policy_sha256": ruling.policy_sha256, "policies": ruling.policies})
            _permitted(ruling)
            self._within_limits(position, passed)
            self._in_time()
            verdict = self._tightened(use, frozen, Verdict(ruling.verdict))
        except _Denied as no:
            return draft.model_copy(update={"code": no.code, "message": str(no)})
        code = "approval_needed" if verdict is Verdict.ASK else "allowed"
        return draft.model_copy(update={"verdict": verdict, "code": code})

    def _known(self, use: ToolUse) -> Tool[Any]:
        tool = self.tools.get(use.tool)
        if tool is None:
            raise _Denied("unknown_tool", "There is no such tool. Use only the tools you were given.")
        return tool

    def _enabled(self, use: ToolUse) -> None:
        if use.tool not in self.release.tools:
            raise _Denied("not_in_release", "This tool is not enabled. Use only the tools you were given.")

    def _ruled(self, tool: Tool[Any], arguments: dict[str, JsonValue], typed: BaseModel) -> PolicyDecision:
        try:
            resource = tool.resource_of(typed)
        except Exception as broken:
            raise _Denied("resource_unknown", "It could not be told what this call acts on.") from broken
        query = PolicyQuery(principal=self.principal, tool=tool.contract.name, arguments=arguments, resource=resource)
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


def _permitted(ruling: PolicyDecision) -> None:
    if ruling.verdict not in {"allow", "ask"}:
        raise _Denied("policy_denied", ruling.reason or "The user may not do this. Don't try again; tell the user.")


def _frozen(tool: Tool[Any], use: ToolUse) -> tuple[dict[str, JsonValue], BaseModel]:
    """Return the validated arguments with defaults filled in, as JSON and as their type."""
    if use.arguments is None:
        raise _Denied("invalid_arguments", "The arguments are not a JSON object.")
    if max(_depths(use.arguments)) > MAX_ARGUMENT_DEPTH:
        raise _Denied("invalid_arguments", f"The arguments nest deeper than {MAX_ARGUMENT_DEPTH} levels.")
    raw = canonical_json(use.arguments)
    if len(raw.encode()) > MAX_ARGUMENT_BYTES:
        raise _Denied("invalid_arguments", f"The arguments have more than {MAX_ARGUMENT_BYTES} bytes.")
    try:
        typed = tool.arguments.model_validate_json(raw)
    except ValidationError as wrong:
        problems = (f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in wrong.errors()[:5])
        raise _Denied("invalid_arguments", "; ".join(problems)[:1000]) from wrong
    return typed.model_dump(mode="json"), typed


def _depths(value: JsonValue, depth: int = 1) -> Iterator[int]:
    """Yield the depth of each container, without recursion: the nesting is the model's choice."""
    stack: list[tuple[JsonValue, int]] = [(value, depth)]
    while stack:
        item, depth = stack.pop()
        yield depth
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        stack.extend((child, depth + 1) for child in inner if isinstance(child, dict | list))
