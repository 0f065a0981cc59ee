"""Where a team's code may look on, and where it may say no. It can never say yes.

A *hook* is given a frozen event and returns it, or a copy with stricter values: each event declares which fields may be
changed and what stricter means, and `tighten` holds hooks to it. A hook that raises or loosens fails closed. An
*observer* is told facts and decides nothing, so its errors are logged and change nothing.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from agent.errors import HookFailed
from agent.events import Payload, Verdict
from agent.identity import Principal
from agent.run_header import RunHeader

logger = logging.getLogger(__name__)

STRICTNESS = {Verdict.ALLOW: 0, Verdict.ASK: 1, Verdict.DENY: 2}


@dataclass(frozen=True)
class CallDeciding:
    """The gate is about to let a tool call pass. A hook may turn `verdict` towards deny, and say why in `message`."""

    TIGHTENS: ClassVar[Mapping[str, Callable[[Any, Any], bool]]] = {
        "verdict": lambda before, after: STRICTNESS[after] >= STRICTNESS[before],
        "message": lambda _before, after: isinstance(after, str),
    }

    principal: Principal
    tool: str
    arguments_json: str
    """The frozen arguments, as they will run."""
    verdict: Verdict
    message: str = ""


@dataclass(frozen=True)
class ModelAsking:
    """A model call is about to be made. A hook may lower `max_tokens`."""

    TIGHTENS: ClassVar[Mapping[str, Callable[[Any, Any], bool]]] = {
        "max_tokens": lambda before, after: 1 <= after <= before,
    }

    principal: Principal
    model_id: str
    turn: int
    max_tokens: int


E = TypeVar("E", CallDeciding, ModelAsking)


@dataclass(frozen=True)
class Hooks:
    """A team's hooks and observers, in the order they are called."""

    deciding: tuple[Callable[[CallDeciding], CallDeciding], ...] = ()
    asking: tuple[Callable[[ModelAsking], ModelAsking], ...] = ()
    observers: tuple[Callable[[RunHeader, Payload], None], ...] = ()
    """Told each start and end of a model or tool call, as the holder records it."""

    def tell(self, header: RunHeader, fact: Payload) -> None:
        """Tell the observers of a fact."""
        for observer in self.observers:
            try:
                observer(header, fact)
            except Exception as broken:  # noqa: BLE001 - an observer decides nothing, so it can't be let break a run
                logger.warning("observer failed", extra={"run_id": header.run_id, "error": type(broken).__name__})


def tighten(hooks: tuple[Callable[[E], E], ...], event: E) -> E:
    """Return the event as the hooks leave it.

    Raises:
        HookFailed: a hook raised, returned something else, or loosened a field.
    """
    for hook in hooks:
        try:
            after = hook(event)
            stricter = type(after) is type(event) and _is_stricter(event, after)
        except Exception as broken:
            raise HookFailed(f"a hook on {type(event).__name__} raised {type(broken).__name__}") from broken
        if not stricter:
            raise HookFailed(f"a hook on {type(event).__name__} changed what it may not, or loosened it")
        event = after
    return event


def _is_stricter(before: E, after: E) -> bool:
    changed = {
        f.name: (getattr(before, f.name), getattr(after, f.name))
        for f in fields(before)
        if getattr(before, f.name) != getattr(after, f.name)
    }
    return all(name in before.TIGHTENS and before.TIGHTENS[name](*values) for name, values in changed.items())
