"""Which model the next attempt of a turn goes to: the release's own, or its fallback while that can go unnoticed.

Each attempt follows from those that failed before it in the same turn. A model is given up for the turn after its
attempts, or at once where its service does not offer it; a request that was rejected is wrong for every model. Once the
user has seen text of one model, no other takes over in that turn, because it would go on in another voice. The next
turn begins with the release's own model again: its breaker remembers what one turn forgets.
"""

from agent.controls import Controls
from agent.errors import ModelNotOffered, ModelSwitchedOff
from agent.events import ModelCompleted, ModelFailed
from agent.ports.breakers import Breakers
from agent.release import ModelChoice, Release
from agent.run_state import RunState

ITS_OWN = frozenset({ModelNotOffered.code, ModelSwitchedOff.code})
"""Failures that no retry helps against, and that say nothing against another model."""


def left(state: RunState, release: Release, controls: Controls) -> list[ModelChoice]:
    """Return the models that the turn's next attempt may go to, the preferred one first; none: the turn has failed."""
    choices = [release.model, *([release.fallback] if release.fallback else [])]
    seen = {failure.model_id for failure in state.failures if failure.shown}
    may = [choice for choice in choices if seen <= {choice.id} and not controls.model_off(choice.id)]
    return [choice for choice in may if not _is_given_up(state, choice)]


def is_switched_off(release: Release, controls: Controls) -> bool:
    """Tell whether a model of the release is switched off."""
    return any(choice and controls.model_off(choice.id) for choice in (release.model, release.fallback))


def tried(state: RunState, choice: ModelChoice) -> int:
    """Return how many attempts of the turn a model has failed."""
    return sum(failure.model_id == choice.id for failure in state.failures)


def breaker(model_id: str) -> str:
    """Return the name of a model's breaker."""
    return f"model#{model_id}"


def tell(breakers: Breakers, outcome: ModelCompleted | ModelFailed) -> None:
    """Tell a model's breaker what a call came to. A rejected request is the request's fault: the service answered."""
    if isinstance(outcome, ModelFailed) and outcome.error == ModelSwitchedOff.code:
        breakers.gave_up(breaker(outcome.model_id))
    elif isinstance(outcome, ModelFailed) and (outcome.retryable or outcome.error == ModelNotOffered.code):
        breakers.failed(breaker(outcome.model_id))
    else:
        breakers.succeeded(breaker(outcome.model_id))


def _is_given_up(state: RunState, choice: ModelChoice) -> bool:
    if any(not failure.retryable and failure.error not in ITS_OWN for failure in state.failures):
        return True
    final = any(not failure.retryable for failure in state.failures if failure.model_id == choice.id)
    return final or tried(state, choice) >= choice.max_attempts
