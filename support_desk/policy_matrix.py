"""Who may do what, computed: `make policy` prints it, policies/matrix.txt is the reviewed copy, a test holds it true.

Every combination goes through the gate with the support desk's own release, contracts and policies, so what stands here
is what a run would get, the platform's floor included. Nothing needs AWS.

    make policy                             print the matrix
    make policy ARGS=write                  write it to policies/matrix.txt, after a change of the policies
    make policy ARGS="explain --role user --tool issue_refund --arg order_id=1001 --arg amount_cents=600
                      --arg reason=late --fact handler= --fact total_cents=500 --fact refunded_cents=0"
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from agent.controls import Controls
from agent.errors import ConfigurationInvalid
from agent.events import Decision, ToolUse
from agent.explaining import explain
from agent.gate import Gate
from agent.identity import Principal, Role
from agent.limits import MAX_MICROS, Limits, read_allowances
from agent.policy import CedarPolicy
from agent.ports.policy import PolicyQuery
from agent.release import Release
from support_desk.tools import TOOLS

FOLDER = Path(__file__).parent
PATH = FOLDER / "policies" / "matrix.txt"
RELEASE = "support-desk-local-1"
"""The one with every tool."""
ME, COLLEAGUE = "me", "colleague"

PEOPLE: Mapping[str, frozenset[Role]] = {
    "user": frozenset({Role.USER}),
    "approver": frozenset({Role.APPROVER}),
    "user and approver": frozenset({Role.USER, Role.APPROVER}),
    "operator": frozenset({Role.OPERATOR}),
    "no role": frozenset(),
}


@dataclass(frozen=True)
class State:
    """What holds around a call."""

    name: str
    tainted: bool = False
    force_review: bool = False
    read_only: bool = False


STATES = (
    State("usual"),
    State("tainted", tainted=True),
    State("force review", force_review=True),
    State("read-only", read_only=True),
)


@dataclass(frozen=True)
class Case:
    """A call worth looking at: its arguments, and what the platform would read of what it acts on."""

    tool: str
    what: str
    arguments: Mapping[str, JsonValue]
    facts: Mapping[str, JsonValue] | None = field(default_factory=dict)
    """None: there is no such resource."""


@cache
def _policy() -> CedarPolicy:
    return CedarPolicy.load(FOLDER / "policies")


@cache
def _release() -> Release:
    return Release.read(FOLDER, RELEASE)


DRAFT: Mapping[str, JsonValue] = {"order_id": "1001", "subject": "Your order", "body": "It is on its way."}


def _refund(what: str, amount_cents: int, handler: str = "", *, total: int = 100_000, refunded: int = 0) -> Case:
    arguments: dict[str, JsonValue] = {"order_id": "1001", "amount_cents": amount_cents, "reason": "late"}
    order: dict[str, JsonValue] = {"handler": handler, "total_cents": total, "refunded_cents": refunded}
    return Case("issue_refund", what, arguments, order)


CASES = (
    Case("search_policy", "the shop's rules", {"query": "return shoes"}),
    Case("lookup_order", "an order", {"order_id": "1001"}),
    Case("list_orders", "the order book", {}),
    Case("export_orders", "the order book", {}),
    Case("save_draft", "own order", DRAFT, {"handler": ME}),
    Case("save_draft", "order nobody looks after", DRAFT, {"handler": ""}),
    Case("save_draft", "a colleague's order", DRAFT, {"handler": COLLEAGUE}),
    Case("save_draft", "no such order", DRAFT, None),
    Case("parcels__track_parcel", "a parcel", {"tracking_number": "JD014600007919"}),
    _refund("own order, 0.01", 1, ME),
    _refund("a colleague's order, 0.01", 1, COLLEAGUE),
    _refund("up to the limit, 500.00", 50_000),
    _refund("above the limit, 500.01", 50_001),
    _refund("all that is left of the order", 1_000, refunded=99_000),
    _refund("more than is left of the order", 1_001, refunded=99_000),
    Case("issue_refund", "no such order", {"order_id": "1001", "amount_cents": 1, "reason": "late"}, None),
)


AMPLE = Limits(
    user_day_micros=MAX_MICROS,
    tenant_month_micros=MAX_MICROS,
    platform_month_micros=MAX_MICROS,
    allowances={f"{tool}.{name}": MAX_MICROS for tool in TOOLS for name in TOOLS[tool].contract.allowances},
)
"""What others have used up is not the matrix's matter."""


def decided(case: Case, roles: frozenset[Role], state: State) -> Decision:
    """Return what the gate decides about a call."""
    gate = Gate(
        tools=TOOLS,
        release=_release(),
        controls=Controls(force_review=state.force_review, read_only=state.read_only),
        policy=_policy(),
        facts=lambda *, tool, resource: case.facts,  # noqa: ARG005 - one case, one resource
        hooks=(),
        principal=Principal(tenant_id="acme", user_id=ME, roles=roles),
        limits=lambda: AMPLE,
        calls_before=0,
        seconds_left=60,
        tainted=state.tainted,
    )
    [decision] = gate.decide([ToolUse(call_id="call_1_0", tool=case.tool, arguments=dict(case.arguments))])
    return decision


def matrix() -> str:
    """Return the whole matrix as text: people, cases and states with the same outcome share a line."""
    lines = [
        "What the support desk's policies decide. Written by `make policy ARGS=write`; a test holds it true.",
        "ask: once a person has approved it. by: the policies that decided, or the check of the gate that said no.",
    ]
    numbers = read_allowances(FOLDER / "limits.toml", "prod")
    for tool, cases in groupby(CASES, key=lambda case: case.tool):
        lines += ["", f"{tool} ({TOOLS[tool].contract.effect.value})"]
        allowed = [f"{numbers.get(f'{tool}.{name}', 0)} {name}" for name in TOOLS[tool].contract.allowances]
        lines += [f"  over all runs together, approved or not: {', '.join(allowed)}"] if allowed else []
        for case in cases:
            outcomes = {who: tuple(_outcomes(case, roles)) for who, roles in PEOPLE.items()}
            for outcome in dict.fromkeys(outcomes.values()):
                who = ", ".join(name for name, theirs in outcomes.items() if theirs == outcome)
                lines += [f"  {case.what}: {who}", *outcome]
    return "\n".join(lines) + "\n"


def _outcomes(case: Case, roles: frozenset[Role]) -> Iterator[str]:
    results = {state.name: decided(case, roles, state) for state in STATES}
    told = {name: (d.verdict.value, ", ".join(d.policies) or d.code) for name, d in results.items()}
    for result in dict.fromkeys(told.values()):
        states = [name for name in told if told[name] == result]
        when = "always" if len(states) == len(STATES) else ", ".join(states)
        yield f"    {when:<38} {result[0]:<6} by {result[1]}"


def explained(query: PolicyQuery, decision: Decision) -> str:
    """Return why a call was decided as it was."""
    lines = [f"{decision.tool} on {decision.resource or 'nothing'}: {decision.verdict.value} ({decision.code})"]
    if decision.message:
        lines.append(f"  the model is told: {decision.message}")
    context = {"tainted": query.tainted, "force_review": query.force_review, "read_only": query.read_only}
    lines += [
        f"  who: roles {', '.join(sorted(query.principal.roles)) or 'none'}",
        f"  arguments: {json.dumps(dict(query.arguments), ensure_ascii=False)}",
        f"  facts of the resource: {json.dumps(dict(query.facts), ensure_ascii=False)}",
        f"  context: {', '.join(f'{name} {str(on).lower()}' for name, on in context.items())}",
    ]
    if not (decision.policy_sha256 and decision.resource):
        return "\n".join([*lines, "  no policy was asked, or the record does not say about what"]) + "\n"
    policy = _policy()
    if decision.policy_sha256 != policy.decide(query).policy_sha256:
        lines.append("  the policies have changed since: what follows is what today's say")
    for approved in (False, True):
        evaluation = policy.evaluate(query)[approved]
        verdict = "permitted" if evaluation.permits else "not permitted"
        lines += ["", f"once approved: {verdict}" if approved else f"unapproved: {verdict}"]
        lines += [f"  error: {error}" for error in evaluation.errors]
        for each in explain(policy, query, approved=approved):
            lines.append(f"  {each.effect} {each.policy}: {'holds' if each.holds else 'does not hold'}")
            lines += [f"    {condition.outcome:<14} {condition.text}" for condition in each.conditions]
    return "\n".join(lines) + "\n"


def _explain(asked: argparse.Namespace) -> str:
    arguments, facts = _pairs(asked.arg), _pairs(asked.fact)
    roles = frozenset(Role(role) for role in asked.role)
    state = State("asked", asked.tainted, asked.force_review, asked.read_only)
    case = Case(asked.tool, "asked", arguments, None if asked.missing else facts)
    decision = decided(case, roles, state)
    query = PolicyQuery(
        principal=Principal(tenant_id="acme", user_id=ME, roles=roles),
        tool=decision.tool,
        arguments=decision.arguments,
        resource=decision.resource,
        tainted=state.tainted,
        force_review=state.force_review,
        read_only=state.read_only,
        facts=facts,
    )
    return explained(query, decision)


def _explain_recorded(path: Path, roles: Sequence[str], user: str) -> str:
    """Explain every decision of a `model.completed` event, as JSON: its payload, or the event around it."""
    try:
        event = json.loads(path.read_text(encoding="utf-8"))
        decisions = [Decision.model_validate(recorded) for recorded in event.get("data", event)["decisions"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as wrong:
        raise ConfigurationInvalid(f"{path} holds no model.completed event as JSON") from wrong
    told: list[str] = []
    for decision in decisions:
        query = PolicyQuery(
            principal=Principal(
                tenant_id=event.get("tenant_id", "acme"), user_id=user, roles=frozenset(map(Role, roles))
            ),
            tool=decision.tool,
            arguments=decision.arguments,
            resource=decision.resource,
            tainted=decision.tainted,
            force_review="force_review" in decision.modes,
            read_only="read_only" in decision.modes,
            facts=decision.facts,
        )
        told.append(explained(query, decision))
    return "\n".join(told)


def _pairs(texts: Sequence[str]) -> dict[str, Any]:
    """Return `name=value` pairs; digits are a number, but those of an id."""
    pairs: dict[str, Any] = {}
    for text in texts:
        name, is_pair, value = text.partition("=")
        if not is_pair:
            raise ConfigurationInvalid(f"{text!r} is no NAME=VALUE")
        pairs[name] = int(value) if value.lstrip("-").isdigit() and not name.endswith("_id") else value
    return pairs


def main(arguments: Sequence[str]) -> str:
    """Return what a command line asks for."""
    parser = argparse.ArgumentParser(prog="make policy", description="What the support desk's policies decide.")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("write", help="write the matrix to policies/matrix.txt")
    one = commands.add_parser("explain", help="explain one call, or the decisions of a recorded event")
    one.add_argument("--role", action="append", default=[], choices=[role.value for role in Role])
    one.add_argument("--tool", choices=sorted(TOOLS))
    one.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE")
    one.add_argument("--fact", action="append", default=[], metavar="NAME=VALUE", help="of the resource; yours is `me`")
    one.add_argument("--missing", action="store_true", help="there is no such resource")
    one.add_argument("--tainted", action="store_true")
    one.add_argument("--force-review", action="store_true")
    one.add_argument("--read-only", action="store_true")
    one.add_argument("--event", type=Path, help="a model.completed event as JSON, in place of a call")
    one.add_argument("--user", default=ME, help="whose event it is")
    asked = parser.parse_args(arguments)
    if asked.command == "explain" and asked.event:
        return _explain_recorded(asked.event, asked.role, asked.user)
    if asked.command == "explain":
        if not asked.tool:
            parser.error("explain needs --tool or --event")
        return _explain(asked)
    text = matrix()
    if asked.command == "write":
        PATH.write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    try:
        sys.stdout.write(main(sys.argv[1:]))
    except ConfigurationInvalid as wrong:
        sys.exit(f"error: {wrong}")
