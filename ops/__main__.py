"""The platform operator's command: `python -m ops --stage prod limits show --tenant acme`.

Works with the IAM credentials of whoever calls it; there is no HTTP door for it. Switches, limits and audit need the
right to invoke one function, `administer`; runs and dead letters are read from their table and queue.
What it prints of a run leaves out what people and models wrote, unless `--contents` asks for it.

Exit codes: 0 done, 1 refused or not deployed, 2 wrong usage.
"""

from typing import Annotated

import typer
from botocore.exceptions import BotoCoreError, ClientError

from agent.contracts import canonical_json
from agent.errors import KeepgateError
from ops import administration, deployment
from ops.console import deployment_of, out, refusal
from ops.dead_letters import MAX_MESSAGES, DeadLetters
from ops.deployment import NotDeployed
from ops.run_story import in_brief

PAGE = 1_000
MAX_EVENTS = 10_000

app = typer.Typer(help="Keepgate's platform operator.", no_args_is_help=True)
dead_letters = typer.Typer(help="Tool jobs that were given up.", no_args_is_help=True)
runs = typer.Typer(help="Runs, as their logs tell them.", no_args_is_help=True)
app.add_typer(administration.switches, name="switches")
app.add_typer(administration.limits, name="limits")
app.add_typer(administration.tools, name="tools")
app.command("audit")(administration.read_audit)
app.command("note-deployment")(administration.note_deployment)
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(runs, name="runs")

Bound = Annotated[int, typer.Option(min=1, max=MAX_MESSAGES, help="At most so many.")]


@app.callback()
def main(context: typer.Context, stage: Annotated[str, typer.Option(help="dev, prod or local.")] = "local") -> None:
    """Find the stage that the command is for."""
    if context.obj is not None:
        return
    try:
        context.obj = deployment.find(stage)
    except NotDeployed as missing:
        raise refusal(missing) from None


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
        typer.confirm(
            f"Send up to {limit} dead letters to the {deployment_of(context).stage.name} queue again?", abort=True
        )
    out.print(f"{letters.redrive(limit)} went back")


@runs.command("show")
def show_run(
    context: typer.Context,
    tenant: str,
    run_id: str,
    contents: Annotated[bool, typer.Option(help="Also print what the events say.")] = False,
) -> None:
    """Print a run's header and its events."""
    log = deployment_of(context).log()
    header = log.header(tenant, run_id)
    if header is None:
        raise refusal(KeyError(f"there is no run {run_id} of {tenant}"))
    shown = header.model_dump(mode="json", exclude={"message", "approvals"})
    for name, value in shown.items():
        out.print(f"{name:18} {value}")
    after = 0
    while after < MAX_EVENTS and (events := log.events(tenant, run_id, after=after, limit=PAGE)):
        for event in events:
            said = canonical_json(event.data.model_dump(mode="json")) if contents else in_brief(event.data)
            out.print(
                f"{event.seq:5} {event.at:%Y-%m-%dT%H:%M:%S.%fZ} epoch {event.epoch:3} {event.type:18} {said}".rstrip()
            )
        after = events[-1].seq


def _letters(context: typer.Context) -> DeadLetters:
    found = deployment_of(context)
    return DeadLetters(found.client("sqs"), found.outputs["ToolDeadLetterQueueUrl"], found.outputs["ToolQueueUrl"])


if __name__ == "__main__":
    try:
        app(prog_name="python -m ops")
    except (NotDeployed, KeepgateError, ClientError, BotoCoreError) as failed:
        raise SystemExit(refusal(failed).exit_code) from None
