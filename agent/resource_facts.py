"""What the platform finds out about the resources of one turn's calls, so that policy need not believe an argument.

Each resource is asked about once, and after a failure none is any more: a turn may name many, and nobody hears a cancel
meanwhile. What comes back is held to the type that the tool declares, because it is going to decide.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import JsonValue, ValidationError

from agent.contracts import canonical_json
from agent.errors import FactsUnavailable, TryLater
from agent.tools import Tool

MAX_FACTS_BYTES = 2048
"""Of one resource, as they stand in the decision."""


class AskFacts(Protocol):
    """`ports.ResourceFacts.of`, for one run."""

    def __call__(self, *, tool: str, resource: str) -> Mapping[str, JsonValue] | None:
        """Return what a resource is; None where there is none."""
        ...


@dataclass
class FactsOfTurn:
    """The facts of one turn's resources, by tool and resource."""

    ask: AskFacts
    _known: dict[tuple[str, str], dict[str, JsonValue] | None] = field(default_factory=dict)
    _is_down: bool = False

    def of(self, tool: Tool[Any], resource: str) -> dict[str, JsonValue] | None:
        """Return what the resource is; None where there is no such resource.

        Raises:
            FactsUnavailable: it could not be found out, now or for an earlier call of the turn.
        """
        key = (tool.contract.name, resource)
        if key not in self._known:
            if self._is_down:
                raise FactsUnavailable("an earlier call's could not be read")
            self._is_down = True  # until this one has come well
            self._known[key] = _asked(self.ask, tool, resource)
            self._is_down = False
        return self._known[key]


def _asked(ask: AskFacts, tool: Tool[Any], resource: str) -> dict[str, JsonValue] | None:
    if tool.facts is None:
        return {}
    try:
        found = ask(tool=tool.contract.name, resource=resource)
        if found is None:
            return None
        told = canonical_json(dict(found))
        facts = tool.facts.kind.model_validate_json(told).model_dump(mode="json")
    except (TryLater, ValidationError, ValueError, TypeError) as broken:
        raise FactsUnavailable(f"no facts of {tool.contract.name}'s resource: {type(broken).__name__}") from broken
    if len(told.encode()) > MAX_FACTS_BYTES:
        raise FactsUnavailable(f"facts of more than {MAX_FACTS_BYTES} bytes")
    return facts
