"""What the operator's commands share: where they print, which deployment they are for, how they refuse."""

from typing import cast

import typer
from rich.console import Console

from ops.deployment import Deployment

out = Console(soft_wrap=True, highlight=False, markup=False)


def deployment_of(context: typer.Context) -> Deployment:
    """Return the deployment that the command is for."""
    return cast("Deployment", context.obj)


def refusal(error: Exception) -> typer.Exit:
    """Say why not, and return what ends the command."""
    Console(stderr=True, soft_wrap=True, markup=False).print(f"error: {error.args[0] if error.args else error}")
    return typer.Exit(1)
