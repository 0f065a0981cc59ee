"""Switches, limits and their audit: commands that the function `administer` carries out.

They need the right to invoke that function and no other; who did it is what AWS says of the credentials they ran with.
"""

import json
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table

from agent.audit import MAX_PAGE
from agent.controls import Kind, Target
from agent.errors import InputInvalid
from agent.operating import (
    Command,
    ListStoppedTools,
    ListSwitches,
    NoteDeployment,
    ReadAudit,
    SetLimit,
    ShowLimits,
    SwitchOff,
    SwitchOn,
    to_command,
)
from agent.tool_servers import MAX_STOPPED
from ops.console import deployment_of, out, refusal, show, warn
from ops.deployment import NotDeployed, Refused

switches = typer.Typer(help="Stop runs, tools or models, and switch modes on; within seconds.", no_args_is_help=True)
limits = typer.Typer(help="Budgets, runs in flight, jobs in the queue: change within seconds.", no_args_is_help=True)

tools = typer.Typer(help="Tools of servers outside.", no_args_is_help=True)

Tenant = Annotated[str, typer.Option(help="For this tenant; without it, for the platform.")]
User = Annotated[str, typer.Option(help="For this user of the tenant.")]
What = Annotated[
    str,
    typer.Argument(
        help="everything, new_runs, force_review, read_only; or user:ID, agent:NAME, release:NAME, tool:NAME, model:ID."
    ),
]
Why = Annotated[str, typer.Option("--reason", help="For the audit.")]
NO_REASON = "none given"


@switches.command("list")
def list_switches(context: typer.Context, tenant: Tenant = "") -> None:
    """Print the switches that are on: the platform's, and with a tenant those for it."""
    table = Table("whose", "what", "until", "by", "reason")
    for switch in _administer(context, ListSwitches, tenant_id=tenant)["switches"]:
        whose = f"{switch['tenant_id'] or 'everybody'} ({switch['side']})"
        target = Target.model_validate(switch["target"])
        table.add_row(whose, target.id, switch["expires_at"], switch["by"], switch["reason"])
    show(table)


@switches.command("on")
def switch_on(
    context: typer.Context,
    what: What,
    reason: Why,
    tenant: Tenant = "",
    hours: Annotated[float, typer.Option(min=0.01, max=720, help="It ends by itself then.")] = 24,
) -> None:
    """Switch something off, or a mode on: this puts the switch on."""
    target, for_s = _target(what), max(1, round(hours * 3600))
    known = deployment_of(context).names(target.kind)
    if known and target.name not in known:
        warn(f"no {target.kind} that is known here is called {target.name}; there are {', '.join(sorted(known))}")
    done = _administer(context, SwitchOn, tenant_id=tenant, target=target.model_dump(), reason=reason, for_s=for_s)
    out.print(f"the switch of {what} is on until {done['switch']['expires_at']}; it holds within seconds")


@switches.command("off")
def switch_off(context: typer.Context, what: What, reason: Why, tenant: Tenant = "") -> None:
    """Take a switch off again."""
    _administer(context, SwitchOff, tenant_id=tenant, target=_target(what).model_dump(), reason=reason)
    out.print(f"the switch of {what} is off; that holds within seconds")


@limits.command("show")
def show_limits(context: typer.Context, tenant: Tenant = "", user: User = "") -> None:
    """Print what holds for a scope, and what is set for exactly it."""
    _require_tenant(tenant, user)
    table = Table("limit", "holds", "set here")
    for name, limit in _administer(context, ShowLimits, tenant_id=tenant, user_id=user)["limits"].items():
        table.add_row(name, str(limit["holds"]), "" if limit["set_here"] is None else str(limit["set_here"]))
    show(table)


@limits.command("set")
def set_limit(
    context: typer.Context, name: str, value: int, tenant: Tenant = "", user: User = "", reason: Why = NO_REASON
) -> None:
    """Set a limit of a scope; money in micro-dollars."""
    _set(context, name, value, tenant, user, reason)


@limits.command("unset")
def unset_limit(
    context: typer.Context, name: str, tenant: Tenant = "", user: User = "", reason: Why = NO_REASON
) -> None:
    """Let the wider scope's limit hold again."""
    _set(context, name, None, tenant, user, reason)


@tools.command("stopped")
def list_stopped_tools(context: typer.Context) -> None:
    """Print which tools were found changed at their servers, and whether the stage's release still declares them so."""
    declared = deployment_of(context).servers_tools()
    table = Table("tool", "since", "contract", "now")
    stopped = _administer(context, ListStoppedTools)["tools"]
    for tool in stopped:
        now = "refused until it is reviewed" if tool["contract_sha256"] in declared else "not of the release"
        table.add_row(tool["tool"], tool["since"], tool["contract_sha256"][:12], now)
    show(table)
    out.print(f"{len(stopped)} shown{'; there may be more' if len(stopped) == MAX_STOPPED else ''}")


def read_audit(
    context: typer.Context,
    tenant: Tenant = "",
    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE)] = 20,
    before: Annotated[str, typer.Option(help="What the page before ended with.")] = "",
) -> None:
    """Print what operators have changed for a tenant, or for everybody: one JSON object a line, the newest first."""
    page = _administer(context, ReadAudit, tenant_id=tenant, limit=limit, before=before or None)
    for change in page["changes"]:
        out.print(json.dumps(change))
    if page["before"]:
        out.print(f"there is more: --before {page['before']}")


def note_deployment(context: typer.Context, reason: Why = "deployed") -> None:
    """Note in the audit which release new runs are bound to now, and who deployed it: for after `make deploy`."""
    release = deployment_of(context).release()
    _administer(context, NoteDeployment, release=release.name, release_sha256=release.sha256, reason=reason)
    out.print(f"noted: release {release.name}")


def _set(context: typer.Context, name: str, value: int | None, tenant: str, user: str, reason: str) -> None:
    _require_tenant(tenant, user)
    _administer(context, SetLimit, tenant_id=tenant, user_id=user, name=name, value=value, reason=reason)
    whose = " ".join(part for part in (tenant, user) if part) or "the platform"
    out.print(f"{name} of {whose} {'unset' if value is None else value}; it holds within seconds")


def _administer(context: typer.Context, kind: type[Command], **fields: object) -> dict[str, Any]:
    try:
        command = to_command({**fields, "do": kind.model_fields["do"].default})
        return deployment_of(context).administer(command)
    except (InputInvalid, NotDeployed, Refused) as no:
        raise refusal(no) from None


def _target(what: str) -> Target:
    kind, _, name = what.partition(":")
    try:
        return Target.model_validate({"kind": kind, "name": name})
    except ValidationError:
        kinds = ", ".join(Kind.__args__)  # type: ignore[attr-defined]  # of a Literal
        raise typer.BadParameter(
            f"no such target: {what!r}; there are {kinds}, some with a name behind a colon"
        ) from None


def _require_tenant(tenant: str, user: str) -> None:
    if user and not tenant:
        raise typer.BadParameter("a user belongs to a tenant: name that, too")
