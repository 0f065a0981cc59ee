"""Cedar decides tool calls: policies and their schema are files beside the agent, evaluated in process.

A call is evaluated twice, with `approved` false and true: permitted unapproved is *allow*, permitted only when approved
is *ask*, anything else is *deny*. An answer counts as a permit only where the diagnostics are free of errors: Cedar
skips a `forbid` whose condition errs, which would fail open. The tenant of the resource comes from the principal the
run was admitted with, never from an argument.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal, Self

from cedarpy import AuthzResult, Decision, PolicySet, Schema, is_authorized_batch, validate_policies

from agent.errors import ConfigurationInvalid
from agent.ports import PolicyDecision, PolicyQuery

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
        self._sha256 = hashlib.sha256(f"{policies}\0{schema}".encode()).hexdigest()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read every `.cedar` file of a folder, in the order of their names, and its `schema.cedarschema`.

        Raises:
            ConfigurationInvalid: a file is missing or wrong. A folder without policies is a mistake, not a deny-all.
        """
        files = sorted(folder.glob("*.cedar"))
        if not files:
            raise ConfigurationInvalid(f"policies: no .cedar file in {folder.name}/")
        try:
            policies = "\n".join(file.read_text(encoding="utf-8") for file in files)
            schema = (folder / "schema.cedarschema").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as wrong:
            raise ConfigurationInvalid(f"policies: {wrong}") from wrong
        return cls(policies, schema)

    def decide(self, query: PolicyQuery) -> PolicyDecision:
        """See `ports.Policy`."""
        try:
            entities = _entities(query)
            requests = [_request(query, approved=approved) for approved in (False, True)]
            unapproved, approved = is_authorized_batch(requests, self._policies, entities, self._schema)
        except Exception as wrong:  # noqa: BLE001 - fails closed whatever a hostile argument manages to break
            return self._decision("deny", reason=f"the call could not be evaluated ({type(wrong).__name__})")
        if _is_permitted(unapproved):
            return self._decision("allow", unapproved)
        if _is_permitted(approved):
            return self._decision("ask", approved, reason="a person has to approve this")
        if unapproved.diagnostics.errors or unapproved.decision is Decision.NoDecision:
            return self._decision("deny", unapproved, reason="the call could not be evaluated")
        return self._decision("deny", unapproved)

    def _decision(
        self, verdict: Literal["allow", "ask", "deny"], answer: AuthzResult | None = None, reason: str = ""
    ) -> PolicyDecision:
        policies: tuple[str, ...] = ()
        if answer is not None:
            names = answer.diagnostics.id_annotations_by_reason
            policies = tuple(sorted(names.get(policy, policy) for policy in answer.diagnostics.reasons))
        return PolicyDecision(verdict=verdict, policies=policies, policy_sha256=self._sha256, reason=reason)


def _is_permitted(answer: AuthzResult) -> bool:
    return answer.decision is Decision.Allow and not answer.diagnostics.errors


def _request(query: PolicyQuery, *, approved: bool) -> dict[str, Any]:
    # Ids as dicts: in Cedar's text form a quote or a newline in an id would be syntax.
    arguments = {name: value for name, value in query.arguments.items() if value is not None}
    return {
        "principal": {"type": "User", "id": query.principal.user_id},
        "action": {"type": "Action", "id": query.tool},
        "resource": _resource(query),
        "context": {"approved": approved, "arguments": _plain(arguments)},
    }


def _entities(query: PolicyQuery) -> list[dict[str, Any]]:
    principal = query.principal
    roles = sorted(role.value for role in principal.roles)
    return [
        {
            "uid": {"type": "User", "id": principal.user_id},
            "attrs": {"tenant": principal.tenant_id, "roles": roles},
            "parents": [],
        },
        {"uid": _resource(query), "attrs": {"tenant": principal.tenant_id}, "parents": []},
    ]


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
