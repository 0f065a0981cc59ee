"""Who may do what, as a question and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import JsonValue

from agent.identity import Principal


@dataclass(frozen=True)
class PolicyQuery:
    """May this principal do this, with these arguments, to this resource?"""

    principal: Principal
    tool: str
    arguments: dict[str, Any]
    resource: str
    """`Type::id` of what the call acts on, from the contract, within the principal's tenant."""
    tainted: bool = False
    """Whether text from outside is in the conversation."""
    force_review: bool = False
    read_only: bool = False
    facts: Mapping[str, JsonValue] = field(default_factory=dict)
    """Attributes of the resource, as the platform has just read them."""


@dataclass(frozen=True)
class PolicyDecision:
    """The verdict, and what it rests on."""

    verdict: Literal["allow", "ask", "deny"]
    policies: tuple[str, ...]
    policy_sha256: str
    reason: str = ""


class Policy(Protocol):
    """Decides tool calls. Fails closed: an evaluation error is a deny."""

    def decide(self, query: PolicyQuery) -> PolicyDecision:
        """Return the verdict; never raises for a query it can't evaluate, it denies."""
        ...
