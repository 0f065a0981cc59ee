"""What `make new-tool` writes for each effect: a small tool that works, its test, its action, permit and limits.

`$name` and so on are filled in by `local.new_tool`. Each text is as `ruff format` leaves it.
"""

from string import Template

READ = Template('''"""Get one $kind of the tenant by its id."""

from pydantic import BaseModel, ConfigDict, Field

from agent.contracts import Effect
from agent.tools import Arguments, ToolContext, ToolFailed, tool


class $Name(Arguments):
    """Which $kind."""

    ${kind}_id: str = Field(pattern=r"^[a-z0-9-]{1,64}$$", description="The ${kind}'s id, such as $kind-1.")


class Found$Kind(BaseModel):
    """What the table holds, read leniently: an attribute that is not named here is left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ${kind}_id: str
    title: str


@tool(
    effect=Effect.READ,
    mode="idempotent",
    resource="$Kind::{${kind}_id}",
    data_actions=("dynamodb:GetItem",),
    errors=("${kind}_not_found",),
    allowances=("calls.user_minute",),
)
def $name(args: $Name, context: ToolContext) -> Found$Kind:
    """Get one $kind by its id. Returns its title."""
    item = context.data.get("$kind", args.${kind}_id)
    if item is None:
        raise ToolFailed("${kind}_not_found", f"There is no $kind {args.${kind}_id}. Check the id with the user.")
    return Found$Kind.model_validate(item)
''')

ADD = Template('''"""$Doing one $kind: a record that is new. $Outcome"""

import hashlib
from typing import Literal

from pydantic import BaseModel, Field

from agent.contracts import Effect
from agent.tools import Arguments, ToolContext, tool


class $Name(Arguments):
    """What the $kind says."""

    text: str = Field(min_length=1, max_length=4000)


class New$Kind(BaseModel):
    """Where the $kind is."""

    ${kind}_id: str = Field(pattern=r"^$kind-[0-9a-f]{16}$$")
    status: Literal["$status"] = "$status"


@tool(
    effect=Effect.$EFFECT,
    mode="idempotent",
    resource="$Kind::new",
    data_actions=("dynamodb:PutItem",),
    trusted=True,  # an id and a fixed word: nobody's sentence fits into it
    parallel=False,
    allowances=("calls.user_day",),
)
def $name(args: $Name, context: ToolContext) -> New$Kind:
    """$Doing one $kind. $Outcome Returns its id."""
    # From the call's key, so that a repeated call finds its own record and doesn't make a second one.
    ${kind}_id = "$kind-" + hashlib.sha256(context.idempotency_key.encode()).hexdigest()[:16]
    about = {"author": context.principal.user_id, "tainted": context.tainted, "status": "$status"}
    context.data.put("$kind", ${kind}_id, {"${kind}_id": ${kind}_id, "text": args.text, **about}, only_if_new=True)
    return New$Kind(${kind}_id=${kind}_id)
''')

REMOVE = Template('''"""Mark one $kind as removed."""

from typing import Literal

from pydantic import BaseModel, Field

from agent.contracts import Effect
from agent.tools import Arguments, ToolContext, ToolFailed, tool

ID = r"^$kind-[0-9a-f]{1,32}$$"


class $Name(Arguments):
    """Which $kind."""

    ${kind}_id: str = Field(pattern=ID, description="The ${kind}'s id, such as $kind-1.")


class Removed$Kind(BaseModel):
    """What became of the $kind."""

    ${kind}_id: str = Field(pattern=ID)
    status: Literal["removed"] = "removed"


@tool(
    effect=Effect.DESTRUCTIVE,
    mode="idempotent",
    resource="$Kind::{${kind}_id}",
    data_actions=("dynamodb:GetItem", "dynamodb:PutItem"),
    errors=("${kind}_not_found",),
    trusted=True,  # an id and a fixed word: nobody's sentence fits into it
    parallel=False,
    allowances=("calls.user_day",),
)
def $name(args: $Name, context: ToolContext) -> Removed$Kind:
    """Mark one $kind as removed. It can't be undone here."""
    item = context.data.get("$kind", args.${kind}_id)
    if item is None:
        raise ToolFailed("${kind}_not_found", f"There is no $kind {args.${kind}_id}; nothing was removed.")
    context.data.put("$kind", args.${kind}_id, {**item, "status": "removed", "removed_by": context.principal.user_id})
    return Removed$Kind(${kind}_id=args.${kind}_id)
''')

TEST = Template('''"""`$name`: what it does in one tenant, and nothing of it in another; and who may have it done."""

import json
from typing import Any

from agent.execution import execute
from agent.identity import Principal, Role
from agent.policy import CedarPolicy
from agent.ports.policy import PolicyQuery
from agent.testing.decided_run import CALL, RUN, DecidedRun
from agent.testing.tenant_data import MemoryTenantData
from support_desk.lock_contracts import FOLDER
from support_desk.tools.$name import $name

ARGUMENTS = $arguments


def run(*, has: dict[str, Any] | None = None, tenant: str = "acme", times: int = 1) -> tuple[dict[str, Any], Any]:
    """Return what the call answers in acme, and a tenant's items of its kind afterwards."""
    desk = DecidedRun($name)
    if has:
        MemoryTenantData(desk.table, tenant).put("$kind", "$kind-1", has)
    desk.decide(ARGUMENTS)
    for attempt in range(1, times + 1):
        desk.start(attempt=attempt)
        reply = execute(desk.room, "acme", RUN, CALL)
    items = [json.loads(text) for (of, kind, _), text in desk.table.items.items() if (of, kind) == (tenant, "$kind")]
    return json.loads(reply.content), items

$tests

def verdict(*roles: Role, **state: bool) -> str:
    principal = Principal(tenant_id="acme", user_id="u-1", roles=frozenset(roles))
    resource = $name.resource_of($name.arguments(**ARGUMENTS))
    query = PolicyQuery(principal, "$name", ARGUMENTS, resource, **state)  # type: ignore[arg-type] # flags alone
    return CedarPolicy.load(FOLDER / "policies").decide(query).verdict


def test_users_and_approvers_may_$suffix() -> None:
    assert verdict(Role.USER) == verdict(Role.APPROVER) == "$verdict"
    assert verdict(Role.OPERATOR) == verdict() == "deny"
''')

TESTS_READ = Template("""
def test_it_is_found_in_the_own_tenant_alone() -> None:
    item = {"${kind}_id": "$kind-1", "title": "A title", "internal": "left out"}
    assert run(has=item)[0] == {"${kind}_id": "$kind-1", "title": "A title"}
    assert run(has=item, tenant="globex")[0]["error"] == "${kind}_not_found"
""")

TESTS_ADD = Template("""
def test_it_happens_once_however_often_its_call_runs() -> None:
    answer, items = run(times=3)
    [item] = items
    assert item == {
        "${kind}_id": answer["${kind}_id"],
        "text": ARGUMENTS["text"],
        "author": "u-1",
        "tainted": False,
        "status": "$status",
    }
    assert run(tenant="globex")[1] == []
""")

TESTS_REMOVE = Template("""
def test_it_happens_in_the_own_tenant_alone_however_often_its_call_runs() -> None:
    item = {"${kind}_id": "$kind-1", "title": "A title"}
    removed = {**item, "status": "removed", "removed_by": "u-1"}
    assert run(has=item, times=2) == ({"${kind}_id": "$kind-1", "status": "removed"}, [removed])
    answer, items = run(has=item, tenant="globex")
    assert (answer["error"], items) == ("${kind}_not_found", [item])
""")

ACTION = Template("""
action $name ${parents}appliesTo {
  principal: User,
  resource: $Kind,
  context: {
    approved: Bool,
    tainted: Bool,
    force_review: Bool,
    read_only: Bool,
    arguments: { $argument: String },
  },
};
""")

ENTITY = Template("""
entity $Kind {
  tenant: String,
};
""")

PERMIT = Template("""
@id("$id")
permit (principal, action == Action::"$name", resource) when {
  principal.tenant == resource.tenant &&
  principal.roles.containsAny(["user", "approver"])$approved
};
""")

LIMITS = Template("""
[$name]
"$allowance" = $number
""")
