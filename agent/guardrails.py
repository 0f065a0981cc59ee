"""When the release's guards are asked, and what follows from what they find: at input, tools' output, and answer.

Everything here is a function of the release and the text, so a run that is resumed sees the same. What fired is an
event of the log: the guard, the kinds, the response, never the text. A guard that can't be asked blocks.

- *Input*, before the first model call: `block` ends the run.
- *Tool output*, before it becomes the call's result: `block` puts an error result in its place.
- *Answer*, each text of the model, also beside tool calls, with the arguments that are shown: `block` ends the run,
  `fall_back` ends it with the release's text. While it streams, `agent.hold_back` keeps back what is not decided.
- `flag` records; `ask` puts every further effect of the run before a person (see `Gate`).
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from agent.endings import EndReason
from agent.errors import ConfigurationInvalid, RunFailed
from agent.events import Decision, GuardFired, ToolCompleted, Verdict
from agent.folding import Folded, fold
from agent.guard import About, Guard, Place, Response
from agent.held_run import HeldRun
from agent.hold_back import HoldBack
from agent.release import Release
from agent.run_state import Result, RunState
from agent.streamed_answer import joined
from agent.tool_results import failed

Settling = Result | GuardFired
"""What settles a call: its result comes first, and then what guards found in it."""

INTERVENED = "guardrail_intervened"
"""The stop reason of a guardrail at the model's service; the text that comes with it is the guardrail's."""

SERVICE = "model_service"
"""The name under which such an intervention is recorded."""

BROKEN = "guard_failed"
"""The kind that is recorded where a guard could not be asked."""

HELD_BACK = "The call ran. Its result is held back by a rule of this agent, for what is in it. Don't ask for it again."


_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')


def at(release: Release, place: Place) -> tuple[Guard, ...]:
    """Return the guards of a place."""
    return tuple(guard for guard in release.guards if guard.at == place)


def require_input(run: HeldRun) -> None:
    """Have the guards look at the question, once in a run's life.

    Raises:
        RunFailed: one of them blocks it.
    """
    state = run.state
    fired = [event for event in state.guards_fired if event.at == "input"]
    if not fired and not state.turns and not state.failures:
        guards = at(run.release, "input")
        fired = list(_fired(guards, fold(state.created.input), _about(state), run.release, at="input"))
        for event in fired:
            run.note(event)
    if any(event.response == "block" for event in fired):
        raise RunFailed(EndReason.INPUT_BLOCKED, f"guards: {[event.guard for event in fired]}")


def guarded(release: Release, result: ToolCompleted, *, tenant_id: str, turn: int) -> list[Settling]:
    """Return a call's result as the log takes it, an error where a guard blocks it, and what fired."""
    guards = [
        guard
        for guard in at(release, "tool_output")
        # Not whether the contract is trusted: the sentence of a trusted tool's error is not.
        if (result.tool in guard.tools if guard.tools else not result.trusted)
    ]
    if not guards:
        return [result]
    fired = [
        event.model_copy(update={"call_id": result.call_id})
        for event in _fired(guards, _readable(result.content), About(tenant_id), release, at="tool_output", turn=turn)
    ]
    return [_held_back(result) if _blocks(fired) else result, *fired]


def guarded_in(state: RunState, releases: Callable[[str], Release], result: Result) -> Sequence[Settling]:
    """Do the same for a call of a run's newest turn. Without its release no guard can be asked, so nothing passes."""
    if not isinstance(result, ToolCompleted) or result.did_not_run:
        return [result]  # the platform's own words
    header, turn = state.header, state.turn
    try:
        release = releases(header.release)
    except ConfigurationInvalid:
        return [_held_back(result)]
    return guarded(release, result, tenant_id=header.tenant_id, turn=turn.number if turn else 0)


@dataclass(frozen=True)
class Judgement:
    """What the guards say of an answer."""

    replacement: str | None
    """See `ModelCompleted`."""
    fired: tuple[GuardFired, ...]


def hold_back(run: HeldRun) -> HoldBack:
    """Return what the next answer's text passes on its way out."""
    guards = [guard for guard in at(run.release, "answer") if guard.response != "flag"]
    return HoldBack(guards, _about(run.state), run.release.hold)


def judge(
    run: HeldRun, texts: Sequence[str], decisions: Sequence[Decision], *, held: HoldBack, service: Sequence[str] | None
) -> Judgement:
    """Return what becomes of a complete answer: its texts, and the arguments that its user would be shown.

    `service` says what a guardrail of the model's service found that put its own words in place of the answer.
    """
    turn = len(run.state.turns) + 1
    shown = [text for decision in decisions if decision.shown_to_user for text in _texts(decision.arguments)]
    folded = fold("\n".join([joined(texts), *shown]))
    guards = at(run.release, "answer")
    fired = list(_fired(guards, folded, _about(run.state), run.release, at="answer", turn=turn))
    if service is not None:
        fired.append(_event(SERVICE, service, "block", run.release, at="answer", turn=turn))
    if held.has_fired and not any(event.response in {"block", "fall_back"} for event in fired):
        # The window and the whole don't agree: what was kept back stays so.
        fired.append(_event("hold_back", [BROKEN], "block", run.release, at="answer", turn=turn))
    if _blocks(fired):
        return Judgement("", tuple(fired))
    instead = [event.guard for event in fired if event.response == "fall_back"]
    text = next((guard.text for guard in guards if guard.called in instead), None)
    return Judgement(text, tuple(fired))


def _blocks(fired: Sequence[GuardFired]) -> bool:
    return any(event.response == "block" for event in fired)


def _held_back(result: ToolCompleted) -> ToolCompleted:
    decision = Decision(call_id=result.call_id, tool=result.tool, verdict=Verdict.ALLOW, code="allowed")
    return failed(decision, "result_blocked", HELD_BACK).model_copy(update={"duration_ms": result.duration_ms})


def _about(state: RunState) -> About:
    done = {
        result.tool
        for turn in state.turns
        for result in turn.results.values()
        if isinstance(result, ToolCompleted) and result.outcome == "ok"
    }
    return About(state.header.tenant_id, frozenset(done))


def _fired(
    guards: Sequence[Guard], text: Folded, about: About, release: Release, *, at: Place, turn: int = 0
) -> Iterator[GuardFired]:
    for guard in guards:
        response = guard.response
        try:
            kinds = sorted({kind for kind, _, _ in guard.find(text, about)})
        except Exception:  # noqa: BLE001 - a guard that can't be asked says no, whatever is the matter with it
            kinds, response = [BROKEN], "block"
        if kinds:
            yield _event(guard.called, kinds, response, release, at=at, turn=turn)


def _event(
    guard: str, kinds: Sequence[str], response: Response, release: Release, *, at: Place, turn: int
) -> GuardFired:
    return GuardFired(
        at=at, guard=guard, kinds=tuple(kinds), response=response, release_sha256=release.sha256, turn=turn
    )


def _readable(content: str) -> Folded:
    """Return a result's texts, keys included, as the model will read them: JSON's escapes undone."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return fold(content)
    return fold("\n".join(_texts(value)))


def _texts(value: JsonValue) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for key, inner in value.items():
                yield key
                if key == "head" and isinstance(inner, str) and value.get("truncated") is True:
                    # The beginning of a JSON text: another level of escapes, which would stand between words.
                    inner = _ESCAPE.sub(lambda found: str(json.loads(f'"{found[0]}"')), inner)
                yield from _texts(inner)
        case list():
            for inner in value:
                yield from _texts(inner)
        case int() | float():
            yield str(value)
