"""Decide from a terminal about calls that need a person: `python -m local.approve` lists them, with an id it decides.

Shows what the API shows approvers: the arguments that will run, and the requester's own words. Exit codes are those of
`local.ask`.
"""

import json
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from agent.events import ApprovalChoice
from local.ask import REFUSED, TIMEOUT_S, UNREACHABLE, CannotAsk, read_endpoint, require_ok, safe, state_folder


def main(
    approval: Annotated[str | None, typer.Argument(help="The approval to decide; without one, list them.")] = None,
    person: Annotated[str, typer.Option("--as", help="Whose token to use.")] = "acme-approver",
    decision: Annotated[
        ApprovalChoice, typer.Option(help="The last two are for a call that was started and whose end nobody saw.")
    ] = "approve",
    reason: Annotated[str, typer.Option(help="For the requester, through the agent.")] = "",
) -> None:
    """List what waits for a person, or decide it."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    try:
        url, token = read_endpoint(state_folder() / "endpoint.json", person)
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT_S) as client:
            if approval is None:
                show(client, console)
            else:
                decide(client, console, approval, decision, reason)
    except CannotAsk as wrong:
        Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(f"error: {wrong}")
        raise typer.Exit(wrong.code) from None


def show(client: httpx.Client, console: Console) -> None:
    """Print what waits for a person, the oldest first; the first page of it.

    Raises:
        CannotAsk: the API refused, or can't be reached.
    """
    waiting = _send(client, "GET", "/approvals")["approvals"]
    for asked in waiting:
        console.print(f"{asked['approval_id']}  {asked['tool']} ({asked['effect']}), until {asked['expires_at']}")
        if asked["tainted"]:
            console.print("  the agent had read text from outside before it asked for this: compare with the request")
        if asked["kind"] == "resolution":
            console.print(
                f"  started, and nobody saw how it ended; has it happened? Its key: {asked['idempotency_key']}"
            )
        for argument in asked["arguments"]:
            value = json.dumps(argument["value"], ensure_ascii=False)
            console.print(safe(f"  {argument['title']}: {value}"))
        known = ", ".join(f"{name} {value}" for name, value in asked["facts"].items())
        console.print(safe(f"  acts on {asked['resource']}" + (f": {known}" if known else "")))
        console.print(safe(f"  asked by {asked['requested_by']}, in their words: {asked['input']['text']}"))
    if not waiting:
        console.print("nothing waits for a person")


def decide(client: httpx.Client, console: Console, approval: str, decision: ApprovalChoice, reason: str) -> None:
    """Decide one call.

    Raises:
        CannotAsk: the API refused, or can't be reached, or the id is none.
    """
    if not approval.isidentifier():
        raise CannotAsk(f"{approval!r} is no approval's id", REFUSED)
    _send(client, "POST", f"/approvals/{approval}", {"decision": decision, "reason": reason})
    console.print(f"{approval}: {decision}")


def _send(client: httpx.Client, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
    try:
        answer = client.request(method, path, json=body)
    except httpx.TransportError as lost:
        raise CannotAsk(f"the cloud does not answer at {client.base_url}: {lost}", UNREACHABLE) from lost
    require_ok(answer)
    document: dict[str, Any] = answer.json()
    return document


if __name__ == "__main__":
    typer.run(main)
