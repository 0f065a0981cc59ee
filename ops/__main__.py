"""The platform operator's command: `python -m ops --stage prod limits show --tenant acme`.

Works with the IAM credentials of whoever calls it, on the tables and queues themselves: there is no HTTP door for it.
What it prints of a run leaves out what people and models wrote, unless `--contents` asks for it.

Exit codes: 0 done, 1 refused or not deployed, 2 wrong usage.
"""

from typing import Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from agent.errors import KeepgateError
from agent.limits import LimitName, LimitScope
from agent.tools import canonical_json
from ops import deployment
from ops.dead_letters import MAX_MESSAGES, DeadLetters
from ops.deployment import Deployment, NotDeployed

PAGE = 1_000
MAX_EVENTS = 10_000

app = typer.Typer(help="Keepgate's platform operator.", no_args_is_help=True)
limits = typer.Typer(help="Budgets, runs in flight, jobs in the queue: change within seconds.", no_args_is_help=True)
dead_letters = typer.Typer(help="Tool jobs that were given up.", no_args_is_help=True)
runs = typer.Typer(help="Runs, as their logs tell them.", no_args_is_help=True)
app.add_typer(limits, name="limits")
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(runs, name="runs")
out = Console(soft_wrap=True, highlight=False, markup=False)

Tenant = Annotated[str, typer.Option(help="For this tenant; without it, for the platform.")]
User = Annotated[str, typer.Option(help="For this user of the tenant.")]
Bound = Annotated[int, typer.Option(min=1, max=MAX_MESSAGES, help="At most so many.")]


@app.callback()
def main(context: typer.Context, stage: Annotated[str, typer.Option(help="dev, prod or local.")] = "local") -> None:
    """Find the stage that the command is for."""
    if context.obj is not None:
        return
    try:
        context.obj = deployment.find(stage)
    except NotDeployed as missing:
        raise _refusal(missing) from None


@limits.command("show")
def show_limits(context: typer.Context, tenant: Tenant = "", user: User = "") -> None:
    """Print what holds for a scope, and what is set for exactly it."""
    scope, book = _scope(tenant, user), _of(context).limits()
    own, holds = book.overrides(scope), book.of(tenant, user).as_mapping()
    table = Table("limit", "holds", "set here")
    for name in scope.names:
        table.add_row(name, str(holds[name]), str(own.get(name, "")))
    out.print(table)


@limits.command("set")
def set_limit(context: typer.Context, name: str, value: int, tenant: Tenant = "", user: User = "") -> None:
    """Set a limit of a scope; money in micro-dollars."""
    _change(context, _scope(tenant, user), name, value)


@limits.command("unset")
def unset_limit(context: typer.Context, name: str, tenant: Tenant = "", user: User = "") -> None:
    """Let the wider scope's limit hold again."""
    _change(context, _scope(tenant, user), name, None)


@dead_letters.command("list")
def list_dead_letters(context: typer.Context, limit: Bound = 20) -> None:
    """Print dead letters and leave them where they are."""
    letters = _letters(context).look(limit)
    for letter in letters:
        out.print(f"{letter.message_id}  received {letter.receives}  {letter.body!r}")
    out.print(f"{len(letters)} shown")


@dead_letters.command("redrive")
def redrive_dead_letters(
    context: typer.Context,
    limit: Bound = 20,
    dry_run: Annotated[bool, typer.Option(help="Only say what would go back.")] = False,
    yes: Annotated[bool, typer.Option(help="Don't ask.")] = False,
) -> None:
    """Send dead letters to the queue again. Jobs of calls that are done with are dropped there."""
    letters = _letters(context)
    if dry_run:
        out.print(f"{len(letters.look(limit))} would go back")
        return
    if not yes:
        typer.confirm(f"Send up to {limit} dead letters to the {_of(context).stage.name} queue again?", abort=True)
    out.print(f"{letters.redrive(limit)} went back")


@runs.command("show")
def show_run(
    context: typer.Context,
    tenant: str,
    run_id: str,
    contents: Annotated[bool, typer.Option(help="Also print what the events say.")] = False,
) -> None:
    """Print a run's header and its events."""
    log = _of(context).log()
    header = log.header(tenant, run_id)
    if header is None:
        raise _refusal(KeyError(f"there is no run {run_id} of {tenant}"))
    shown = header.model_dump(mode="json", exclude={"message", "approvals"})
    for name, value in shown.items():
        out.print(f"{name:18} {value}")
    after = 0
    while after < MAX_EVENTS and (events := log.events(tenant, run_id, after=after, limit=PAGE)):
        for event in events:
            said = f"  {canonical_json(event.data.model_dump(mode='json'))}" if contents else ""
            out.print(f"{event.seq:5} {event.at:%Y-%m-%dT%H:%M:%S.%fZ} epoch {event.epoch:3} {event.type}{said}")
        after = events[-1].seq


def _change(context: typer.Context, scope: LimitScope, name: str, value: int | None) -> None:
    try:
        _of(context).limits().change(scope, cast("LimitName", name), value)  # which refuses what is none
    except KeepgateError as wrong:
        raise _refusal(wrong) from None
    out.print(f"{scope.key} {name} {'unset' if value is None else value}; it holds within seconds")


def _scope(tenant: str, user: str) -> LimitScope:
    if user and not tenant:
        raise typer.BadParameter("a user belongs to a tenant: name that, too")
    return LimitScope(tenant, user)


def _letters(context: typer.Context) -> DeadLetters:
    found = _of(context)
    return DeadLetters(found.client("sqs"), found.outputs["ToolDeadLetterQueueUrl"], found.outputs["ToolQueueUrl"])


def _of(context: typer.Context) -> Deployment:
    return cast("Deployment", context.obj)


def _refusal(error: Exception) -> typer.Exit:
    Console(stderr=True, soft_wrap=True, markup=False).print(f"error: {error.args[0] if error.args else error}")
    return typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="python -m ops")
