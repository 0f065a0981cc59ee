"""What no policy file may say, read off its text: the mistakes that Cedar's own validator lets pass.

Cedar skips a `forbid` whose condition errs, and a call that should have been forbidden may then be permitted.
`agent.policy` denies such a call, so an erring `forbid` denies too much instead; either way it does not do what it
says. So a `forbid` here can't err: it compares, and looks whether something is there, and neither calculates, parses,
nor asks an entity that may be missing. What needs a number belongs on a `permit`, where an error permits nothing. That
an optional attribute is read only behind its `has` is the validator's to check.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from cedarpy import policies_to_json_str

from agent.errors import ConfigurationInvalid

SAFE_IN_FORBID = frozenset(
    {"&&", "||", "!", "==", "!=", "has", "in", "is", "contains", "containsAll", "containsAny", "if-then-else", "like"}
)
LEAVES = frozenset({"Value", "Var", "Set"})
Node = Mapping[str, Any]


def each_policy(policies: str) -> list[tuple[str, Node]]:
    """Return the policies of a text as Cedar's JSON, in its order, each with its `@id`, or what Cedar calls it.

    Raises:
        ConfigurationInvalid: one of them is a template.
    """
    parsed = json.loads(policies_to_json_str(policies))
    if parsed.get("templates"):
        raise ConfigurationInvalid("policies: templates are not supported")
    in_order = sorted(parsed["staticPolicies"].items(), key=lambda item: int(item[0].removeprefix("policy")))
    return [((policy.get("annotations") or {}).get("id") or name, policy) for name, policy in in_order]


def problems(policies: str) -> list[str]:
    """Return what is wrong with policies that parse; empty where nothing is.

    Raises:
        ConfigurationInvalid: one of them is a template.
    """
    found = list(each_policy(policies))
    names = Counter(name for name, _ in found)
    wrong = [f"two policies are called {name}" for name, count in names.items() if count > 1]
    for name, policy in found:
        if not (policy.get("annotations") or {}).get("id"):
            wrong.append(f"{name} has no @id, and a decision could not name it")
        if policy["effect"] == "permit" and policy["action"]["op"] == "All":
            wrong.append(f"{name} permits every action: name those it is for")
        if policy["effect"] == "forbid":
            conditions = [condition["body"] for condition in policy["conditions"]]
            wrong += [f"{name} is a forbid and {what}" for body in conditions for what in dict.fromkeys(_erring(body))]
    return wrong


def _erring(node: Node) -> Iterator[str]:
    """Yield what in a condition could err."""
    ((operator, operands),) = node.items()
    if operator == ".":
        if "Value" in (root := _root(node)):
            yield f"asks {json.dumps(root['Value'])} for an attribute, which may be missing"
        yield from _erring(operands["left"])
    elif operator == "Set":
        for item in operands:
            yield from _erring(item)
    elif operator in SAFE_IN_FORBID:
        for operand in operands.values():
            if isinstance(operand, dict):
                yield from _erring(operand)
    elif operator not in LEAVES:
        yield f"uses `{operator}`: what could err, or is a limit, belongs on a permit"


def _root(node: Node) -> Node:
    while "." in node:
        node = node["."]["left"]
    return node
