"""What the operator's commands share: where they print, which deployment they are for, how they refuse."""

from typing import cast

import typer
from rich.console import Console
from rich.table import Table

from agent.errors import CallerMistake
from ops.deployment import Deployment

MAX_WIDTH = 2_000
"""Of a table, in characters."""

out = Console(soft_wrap=True, highlight=False, markup=False)
_err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def deployment_of(context: typer.Context) -> Deployment:
    """Return the deployment that the command is for."""
    return cast("Deployment", context.obj)


def refusal(error: Exception) -> typer.Exit:
    """Say why not, and return what ends the command."""
    said = str(error.args[0] if error.args else error)
    field = error.field if isinstance(error, CallerMistake) else None
    _err.print(f"error: {f'{field}: ' if field else ''}{said}")
    return typer.Exit(1)


def warn(text: str) -> None:
    """Say what the operator may not have meant."""
    _err.print(f"warning: {text}")


def show(table: Table) -> None:
    """Print a table with all that is in it, also where it is wider than the terminal: names are for copying."""
    whole = out.measure(table, options=out.options.update_width(MAX_WIDTH)).maximum
    Console(width=max(out.width, whole), highlight=False, markup=False).print(table)
