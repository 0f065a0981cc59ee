"""Switches in the control table: a board is one item, which has all of its switches.

One item and not one a switch: what a run must know is then three keys in one read, whatever tools and models there are.
`agent.testing.controls.MemoryControlBook` is the twin, held to the same contract suite.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agent.audit import Change, of_switch
from agent.aws.audit import DynamoDbAuditTrail
from agent.aws.dynamodb import Backoff, Item, batch_get
from agent.controls import Board, Controls, Switch, Target, boards, changed, standing
from agent.errors import NotFound
from agent.ports.clock import Clock
from agent.ports.controls import AuditTrail

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

CACHE_S = 1.0
"""How long this process goes by what it has read. The port allows two seconds."""
MAX_CACHED = 1_000
SORT_KEY = {"S": "SWITCHES"}


class DynamoDbControlBook:
    """`ports.ControlBook` on the control table."""

    def __init__(self, client: "DynamoDBClient", table: str, *, clock: Clock, backoff: Backoff | None = None) -> None:
        self._client = client
        self._table = table
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._trail = DynamoDbAuditTrail(client, table, backoff=self._backoff)
        self._known: dict[str, tuple[float, Sequence[Switch]]] = {}

    def effective(self, tenant_id: str, user_id: str, *, release: str, agent: str) -> Controls:
        """See `ports.ControlBook`. One call a second for each tenant."""
        switches = self._holding_for(tenant_id)
        return Controls.of(switches, user_id=user_id, agent=agent, release=release, now=self._clock.now())

    @property
    def audit(self) -> AuditTrail:
        """See `ports.ControlBook`."""
        return self._trail

    def switches(self, board: Board) -> tuple[Switch, ...]:
        """See `ports.ControlBook`. Read anew each time."""
        rows = batch_get(self._client, self._table, [_key(board)], backoff=self._backoff)
        now = self._clock.now()
        return tuple(switch for row in rows for switch in _to_switches(row) if switch.is_on(now))

    def switch_on(self, board: Board, switch: Switch) -> None:
        """See `ports.ControlBook`."""
        self._change(board, switch.target, switch, by=switch.by, reason=switch.reason)

    def switch_off(self, board: Board, target: Target, *, by: str, reason: str) -> None:
        """See `ports.ControlBook`."""
        self._change(board, target, None, by=by, reason=reason)

    def _change(self, board: Board, target: Target, switch: Switch | None, *, by: str, reason: str) -> None:
        now = self._clock.now()

        def edit(row: Item, version: int) -> tuple[dict[str, Any], Change]:
            before = _to_switches(row)
            found = standing(before, target, now)
            if switch is None and found is None:
                raise NotFound("there is no such switch")
            entries = {s.target.id: {"S": s.model_dump_json()} for s in changed(before, target, switch, now)}
            change = of_switch(board, target, found, switch, by=by, reason=reason, at=now)
            return {"switches": {"M": entries}}, change.model_copy(update={"version": version})

        self._trail.alter(_key(board), edit)
        self._known.pop(board.tenant_id, None)

    def _holding_for(self, tenant_id: str) -> Sequence[Switch]:
        now = self._clock.monotonic()
        read_at, switches = self._known.get(tenant_id, (now - CACHE_S, ()))
        if now - read_at < CACHE_S:
            return switches
        keys = [_key(board) for board in boards(tenant_id)]
        rows = batch_get(self._client, self._table, keys, backoff=self._backoff)
        switches = [switch for row in rows for switch in _to_switches(row)]
        if len(self._known) >= MAX_CACHED:
            self._known.clear()
        self._known[tenant_id] = now, switches
        return switches


def _key(board: Board) -> dict[str, dict[str, str]]:
    return {"pk": {"S": board.key}, "sk": SORT_KEY}


def _to_switches(row: Item) -> list[Switch]:
    return [Switch.model_validate_json(entry["S"]) for entry in row["switches"]["M"].values()] if row else []
