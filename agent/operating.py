"""What operators can do, whichever door they come through: switches, limits, and reading what was changed.

The platform's operators reach all of it; a tenant's only the board and the scopes of their own, where a
switch or a limit can make things stricter and never looser. Neither approves a call here, nor reads a run.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from agent import audit
from agent.audit import MAX_PAGE, MAX_REASON, Change
from agent.controls import MAX_DURATION, Board, Part, Switch, Target, boards
from agent.errors import InputInvalid, StoreUnavailable
from agent.identity import TenantId, UserId
from agent.limits import LimitName, Limits, LimitScope
from agent.ports.clock import Clock
from agent.ports.controls import AuditTrail, ControlBook
from agent.ports.limits import LimitBook
from agent.tool_servers import StoppedTools

Nobody = Literal[""]
Reason = Annotated[str, Field(min_length=1, max_length=MAX_REASON)]
Seconds = Annotated[int, Field(gt=0, le=int(MAX_DURATION.total_seconds()))]


class SwitchOn(Part):
    """Switch something off, or a mode on, for so long."""

    do: Literal["switch_on"] = "switch_on"
    tenant_id: TenantId | Nobody = ""
    target: Target
    reason: Reason
    for_s: Seconds


class SwitchOff(Part):
    """Take a switch of the platform's operators off."""

    do: Literal["switch_off"] = "switch_off"
    tenant_id: TenantId | Nobody = ""
    target: Target
    reason: Reason


class ListSwitches(Part):
    """Tell which switches are on: the platform's, and those for a tenant."""

    do: Literal["list_switches"] = "list_switches"
    tenant_id: TenantId | Nobody = ""


class SetLimit(Part):
    """Set a limit, or with None let the wider scope's hold again."""

    do: Literal["set_limit"] = "set_limit"
    tenant_id: TenantId | Nobody = ""
    user_id: UserId | Nobody = ""
    name: str = Field(max_length=64)
    value: int | None
    reason: Reason


class ShowLimits(Part):
    """Tell what holds for a scope, and what is set for exactly it."""

    do: Literal["show_limits"] = "show_limits"
    tenant_id: TenantId | Nobody = ""
    user_id: UserId | Nobody = ""


class ReadAudit(Part):
    """Tell what was changed for a tenant, or for everybody, the newest first."""

    do: Literal["read_audit"] = "read_audit"
    tenant_id: TenantId | Nobody = ""
    limit: int = Field(default=20, ge=1, le=MAX_PAGE)
    before: str | None = Field(default=None, pattern=audit.ID)


class ListStoppedTools(Part):
    """Tell which contracts of servers' tools are stopped until a review."""

    do: Literal["list_stopped_tools"] = "list_stopped_tools"


class NoteDeployment(Part):
    """Note in the audit which release new runs are bound to from now on."""

    do: Literal["note_deployment"] = "note_deployment"
    release: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")
    release_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    reason: Reason


Command = Annotated[
    SwitchOn | SwitchOff | ListSwitches | SetLimit | ShowLimits | ReadAudit | ListStoppedTools | NoteDeployment,
    Field(discriminator="do"),
]
COMMANDS: TypeAdapter[Command] = TypeAdapter(Command)


def to_command(document: object) -> Command:
    """Return the command a document is.

    Raises:
        InputInvalid: it is none; the field is named.
    """
    try:
        return COMMANDS.validate_python(document, strict=False)
    except ValidationError as wrong:
        first = wrong.errors(include_input=False, include_url=False)[0]
        # Around the field stand the command's name and, where a field has two types, what pydantic calls one.
        field = ".".join(str(part) for part in first["loc"][1:] if part != "constrained-str")
        raise InputInvalid(first["msg"], field=field or "command") from None


@dataclass(frozen=True)
class Desk:
    """What operators work with."""

    switches: ControlBook
    limits: LimitBook
    audit: AuditTrail
    clock: Clock
    stopped_tools: StoppedTools | None = None
    """What the platform's operators alone are told of."""

    def switch_on(self, board: Board, target: Target, *, until: datetime, by: str, reason: str) -> Switch:
        """Put a switch on a board.

        Raises:
            InputInvalid: it ends too late or too soon, a user is switched for no tenant, or the board is full.
        """
        if target.kind == "user" and not board.tenant_id:
            raise InputInvalid("a user belongs to a tenant: name that, too", field="tenant_id")
        switch = Switch(target=target, reason=reason, by=by, created_at=self.clock.now(), expires_at=until)
        self.switches.switch_on(board, switch)
        return switch

    def carry_out(self, command: Command, *, by: str) -> dict[str, Any]:
        """Do what a platform's operator asks for, and return what there is to tell.

        Raises:
            InputInvalid, NotFound: it can't be done; nothing was changed.
            StoreUnavailable: perhaps not done.
        """
        match command:
            case SwitchOn():
                until = self.clock.now() + timedelta(seconds=command.for_s)
                board = Board(command.tenant_id)
                switch = self.switch_on(board, command.target, until=until, by=by, reason=command.reason)
                return {"switch": switch.model_dump(mode="json")}
            case SwitchOff():
                board = Board(command.tenant_id)
                self.switches.switch_off(board, command.target, by=by, reason=command.reason)
                return {}
            case ListSwitches():
                shown = boards(command.tenant_id) if command.tenant_id else (Board(),)
                return {"switches": [described(board, switch) for board in shown for switch in self.on(board)]}
            case SetLimit():
                scope = _scope(command.tenant_id, command.user_id)
                self.limits.change(scope, command.name, command.value, by=by, reason=command.reason)
                return {}
            case ShowLimits():
                scope = _scope(command.tenant_id, command.user_id)
                return {"limits": limits_of(self.limits, scope)}
            case ReadAudit():
                changes, before = self.audit.changes(command.tenant_id, limit=command.limit, before=command.before)
                return {"changes": [change.model_dump(mode="json") for change in changes], "before": before}
            case ListStoppedTools():
                return {"tools": self._stopped()}
            case NoteDeployment():
                now = self.clock.now()
                after = f'{{"release":"{command.release}","sha256":"{command.release_sha256}"}}'
                self.audit.note(
                    Change(
                        id=audit.new_id(now),
                        at=now,
                        by=by,
                        side="platform",
                        action="deploy",
                        subject=f"release {command.release}",
                        reason=command.reason,
                        after=after,
                    )
                )
                return {}

    def _stopped(self) -> list[dict[str, str]]:
        if self.stopped_tools is None:
            raise StoreUnavailable("stopped tools are not told here")
        return [
            {"tool": tool.tool, "contract_sha256": tool.contract_sha256, "since": tool.since.isoformat()}
            for tool in self.stopped_tools.stopped()
        ]

    def on(self, board: Board) -> tuple[Switch, ...]:
        """Return the switches of a board that are on."""
        return self.switches.switches(board)


def described(board: Board, switch: Switch) -> dict[str, Any]:
    """Return a switch with whose it is, as JSON."""
    side = "tenant" if board.by_tenant else "platform"
    return {"tenant_id": board.tenant_id, "side": side, **switch.model_dump(mode="json")}


def limits_of(book: LimitBook, scope: LimitScope) -> dict[LimitName, dict[str, int | None]]:
    """Return for each limit of a scope what holds, and what is set here."""
    holds: Limits = book.of(scope.tenant_id, scope.user_id)
    own = book.overrides(scope)
    return {name: {"holds": holds.as_mapping()[name], "set_here": own.get(name)} for name in scope.names(holds)}


def _scope(tenant_id: str, user_id: str) -> LimitScope:
    if user_id and not tenant_id:
        raise InputInvalid("a user belongs to a tenant: name that, too", field="tenant_id")
    return LimitScope(tenant_id, user_id)
