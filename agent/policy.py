"""Cedar decides tool calls: policies and their schema are files beside the agent, evaluated in process.

A call is evaluated twice, with `approved` false and true: permitted both times is *allow*, permitted only when approved
is *ask*, anything else is *deny*. So is an error in either: Cedar skips a `forbid` whose condition errs, which would
fail open. The tenant of the resource comes from the principal the run was admitted with, its other attributes from what
the platform has just read of it, and none of them from an argument.

What a policy may be asked besides, in the context of every action: `approved`, `tainted`, `force_review`, `read_only`
and `arguments`. The gate keeps to taint and modes whatever the policies make of them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from cedarpy import AuthzResult, Decision, PolicySet, Schema, is_authorized_batch, validate_policies

from agent import policy_lint
from agent.errors import ConfigurationInvalid
from agent.ports.policy import PolicyDecision, PolicyQuery

ESCAPES = frozenset({"__entity", "__extn", "__expr"})
"""Keys by which Cedar's JSON turns an object into an entity or a function: an argument must not reach for them."""


class CedarPolicy:
    """`ports.Policy` over the policies of one agent."""

    def __init__(self, policies: str, schema: str) -> None:
        """Parse and check both, once.

        Raises:
            ConfigurationInvalid: a policy or the schema is no Cedar, or a policy does not fit the schema.
        """
        try:
            self._policies = PolicySet.from_str(policies)
            self._schema = Schema.from_str(schema)
        except ValueError as wrong:
            raise ConfigurationInvalid(f"policies: {wrong}") from wrong
        checked = validate_policies(policies, schema)
        if not checked.validation_passed:
            raise ConfigurationInvalid(f"policies: {'; '.join(map(str, checked.errors))}")
        self.texts = (policies, schema)
        """The policies and their schema, as they were read."""
        self._sha256 = hashlib.sha256(f"{policies}\0{schema}".encode()).hexdigest()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read every `.cedar` file of a folder, in the order of their names, and its `schema.cedarschema`.

        Raises:
            ConfigurationInvalid: a file is missing or wrong, or says what no policy may (see `policy_lint`). A folder
                without policies is a mistake, not a deny-all.
        """
        files = sorted(folder.glob("*.cedar"))
        if not files:
            raise ConfigurationInvalid(f"policies: no .cedar file in {folder.name}/")
        try:
            policies = "\n".join(file.read_text(encoding="utf-8") for file in files)
            schema = (folder / "schema.cedarschema").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as wrong:
            raise ConfigurationInvalid(f"policies: {wrong}") from wrong
        loaded = cls(policies, schema)
        if found := policy_lint.problems(policies):
            raise ConfigurationInvalid(f"policies: {'; '.join(found)}")
        return loaded

    def decide(self, query: PolicyQuery) -> PolicyDecision:
        """See `ports.Policy`."""
        try:
            unapproved, approved = self.evaluate(query)
        except Exception as wrong:  # noqa: BLE001 - fails closed whatever a hostile argument manages to break
            return self._decision("deny", reason=f"the call could not be evaluated ({type(wrong).__name__})")
        if unapproved.errors or approved.errors:
            return self._decision("deny", unapproved, approved, reason="the call could not be evaluated")
        if unapproved.permits and approved.permits:
            return self._decision("allow", unapproved)
        if approved.permits:
            return self._decision("ask", unapproved, approved, reason="a person has to approve this")
        return self._decision("deny", approved)

    def evaluate(self, query: PolicyQuery) -> tuple["Evaluation", "Evaluation"]:
        """Return what Cedar says to a call that nobody has approved, and to the same call approved.

        Raises:
            ValueError: the query is none that Cedar takes.
        """
        requests = [request(query, approved=approved) for approved in (False, True)]
        answers = is_authorized_batch(requests, self._policies, entities(query), self._schema)
        unapproved, approved = (_evaluation(answer) for answer in answers)
        return unapproved, approved

    def _decision(
        self, verdict: Literal["allow", "ask", "deny"], *evaluations: "Evaluation", reason: str = ""
    ) -> PolicyDecision:
        policies = tuple(sorted({policy for evaluation in evaluations for policy in evaluation.policies}))
        return PolicyDecision(verdict=verdict, policies=policies, policy_sha256=self._sha256, reason=reason)


@dataclass(frozen=True)
class Evaluation:
    """One answer of Cedar's."""

    permits: bool
    policies: tuple[str, ...]
    """Ids of those that determined it: the permits that allowed, or the forbids that did not."""
    errors: tuple[str, ...]


def _evaluation(answer: AuthzResult) -> Evaluation:
    diagnostics = answer.diagnostics
    names = diagnostics.id_annotations_by_reason
    errors = tuple(diagnostics.errors)
    if answer.decision is Decision.NoDecision:
        errors = errors or ("no decision",)
    return Evaluation(
        permits=answer.decision is Decision.Allow and not errors,
        policies=tuple(sorted(names.get(policy, policy) for policy in diagnostics.reasons)),
        errors=errors,
    )


def request(query: PolicyQuery, *, approved: bool) -> dict[str, Any]:
    """Return the query as Cedar's request."""
    # Ids as dicts: in Cedar's text form a quote or a newline in an id would be syntax.
    arguments = {name: value for name, value in query.arguments.items() if value is not None}
    return {
        "principal": {"type": "User", "id": query.principal.user_id},
        "action": {"type": "Action", "id": query.tool},
        "resource": _resource(query),
        "context": {
            "approved": approved,
            "tainted": query.tainted,
            "force_review": query.force_review,
            "read_only": query.read_only,
            "arguments": _plain(arguments),
        },
    }


def entities(query: PolicyQuery) -> list[dict[str, Any]]:
    """Return principal and resource, with all that policies may know of them."""
    principal = query.principal
    roles = sorted(role.value for role in principal.roles)
    facts = {name: value for name, value in query.facts.items() if value is not None}
    return [
        {
            "uid": {"type": "User", "id": principal.user_id},
            "attrs": {"tenant": principal.tenant_id, "user_id": principal.user_id, "roles": roles},
            "parents": [],
        },
        {"uid": _resource(query), "attrs": {**_attributes(facts), "tenant": principal.tenant_id}, "parents": []},
    ]


def _attributes(facts: Mapping[str, object]) -> dict[str, Any]:
    attributes = _plain(dict(facts))
    assert isinstance(attributes, dict)  # noqa: S101 - as `_plain` gives back what it gets
    return attributes


def _resource(query: PolicyQuery) -> dict[str, str]:
    kind, separator, identity = query.resource.partition("::")
    if not separator:
        raise ValueError("a resource is written Type::id")
    return {"type": kind, "id": identity}


def _plain(value: object) -> object:
    match value:
        case dict():
            if not ESCAPES.isdisjoint(value):
                raise ValueError("an argument speaks Cedar's own JSON")
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value
