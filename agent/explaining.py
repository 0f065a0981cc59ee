"""Why a call was decided as it was: each policy that speaks of it, condition by condition, for people to read.

A policy's condition is cut at its outermost `&&`, and the parts are tried one after another, each together with those
before it, as Cedar itself goes: the first that does not hold is the reason why the policy did not. For reviewers and
operators; nothing is decided here.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from cedarpy import is_authorized, policies_from_json_str

from agent.policy import CedarPolicy, entities, request
from agent.policy_lint import Node, each_policy
from agent.ports.policy import PolicyQuery

Outcome = Literal["holds", "does not hold", "errs", "not reached"]


@dataclass(frozen=True)
class Condition:
    """A part of a policy's condition, and what came of it."""

    text: str
    outcome: Outcome


@dataclass(frozen=True)
class Explained:
    """A policy that speaks of the call, and how it came out for this request."""

    policy: str
    effect: Literal["permit", "forbid"]
    conditions: tuple[Condition, ...]

    @property
    def holds(self) -> bool:
        """Whether the policy takes effect."""
        return all(condition.outcome == "holds" for condition in self.conditions)


def explain(policy: CedarPolicy, query: PolicyQuery, *, approved: bool) -> list[Explained]:
    """Return every policy whose scope takes in the call, in the order of the files."""
    texts, schema = policy.texts
    found: list[Explained] = []
    for name, each in each_policy(texts):
        if _tries(query, schema, each, [], approved=approved) == "holds":
            conditions = tuple(_conditions(query, schema, each, approved=approved))
            found.append(Explained(name, each["effect"], conditions))
    return found


def _conditions(query: PolicyQuery, schema: str, policy: Node, *, approved: bool) -> Iterator[Condition]:
    so_far: list[Node] = []
    outcome: Outcome = "holds"
    for part in _parts(policy):
        so_far.append(part)
        if outcome == "holds":
            outcome = _tries(query, schema, policy, so_far, approved=approved)
            yield Condition(_text(part), outcome)
        else:
            yield Condition(_text(part), "not reached")


def _parts(policy: Node) -> Iterator[Node]:
    for condition in policy["conditions"]:
        body = condition["body"]
        yield from _and(body) if condition["kind"] == "when" else [{"!": {"arg": body}}]


def _and(node: Node) -> Iterator[Node]:
    if "&&" in node:
        yield from _and(node["&&"]["left"])
        yield from _and(node["&&"]["right"])
    else:
        yield node


def _tries(query: PolicyQuery, schema: str, policy: Node, parts: list[Node], *, approved: bool) -> Outcome:
    tried = {**policy, "effect": "permit", "conditions": [{"kind": "when", "body": part} for part in parts]}
    answer = is_authorized(request(query, approved=approved), _to_text(tried), entities(query), schema)
    if answer.diagnostics.errors:
        return "errs"
    return "holds" if answer.allowed else "does not hold"


def _text(part: Node) -> str:
    anything = {"principal": {"op": "All"}, "action": {"op": "All"}, "resource": {"op": "All"}}
    text = _to_text({**anything, "effect": "permit", "conditions": [{"kind": "when", "body": part}]})
    text = " ".join(text[text.index("{") + 1 : text.rindex("}")].split())
    while (plain := re.sub(r"(?<![\w])\(([\w.]+)\)", r"\1", text)) != text:  # Cedar puts each path in parentheses
        text = plain
    return text


def _to_text(policy: Node) -> str:
    whole: dict[str, Any] = {"templates": {}, "templateLinks": [], "staticPolicies": {"policy0": dict(policy)}}
    return policies_from_json_str(json.dumps(whole))
