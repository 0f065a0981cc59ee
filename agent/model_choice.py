"""Which model the next attempt of a turn goes to: the release's own, or its fallback while that can go unnoticed.

Each attempt follows from those that failed before it in the same turn. A model is given up for the turn after its
attempts, or at once where its service does not offer it; a request that was rejected is wrong for every model. The
fallback takes over only where the user has seen nothing of the failed attempts, because another model goes on in
another voice. The next turn begins with the release's own model again: its breaker remembers what one turn forgets.
"""

from agent.errors import ModelNotOffered
from agent.events import ModelCompleted, ModelFailed
from agent.ports import Breakers
from agent.release import ModelChoice, Release
from agent.runlog import RunState


def left(state: RunState, release: Release) -> list[ModelChoice]:
    """Return the models that the turn's next attempt may go to, the preferred one first; none: the turn has failed."""
    choices = [release.model]
    if release.fallback is not None and not any(failure.shown for failure in state.failures):
        choices.append(release.fallback)
    return [choice for choice in choices if not _is_given_up(state, choice)]


def tried(state: RunState, choice: ModelChoice) -> int:
    """Return how many attempts of the turn a model has failed."""
    return sum(failure.model_id == choice.id for failure in state.failures)


def breaker(model_id: str) -> str:
    """Return the name of a model's breaker."""
    return f"model#{model_id}"


def tell(breakers: Breakers, outcome: ModelCompleted | ModelFailed) -> None:
    """Tell a model's breaker what a call came to. A rejected request is the request's fault: the service answered."""
    if isinstance(outcome, ModelFailed) and (outcome.retryable or outcome.error == ModelNotOffered.code):
        breakers.failed(breaker(outcome.model_id))
    else:
        breakers.succeeded(breaker(outcome.model_id))


def _is_given_up(state: RunState, choice: ModelChoice) -> bool:
    if any(not failure.retryable and failure.error != ModelNotOffered.code for failure in state.failures):
        return True
    final = any(not failure.retryable for failure in state.failures if failure.model_id == choice.id)
    return final or tried(state, choice) >= choice.max_attempts
