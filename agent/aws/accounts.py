"""What users and tenants have left, for those who may only look: two reads, and no way to spend.

`agent.aws.ledger` is who gives and takes; the names of accounts stand here, for both.
"""

from datetime import datetime
from typing import TYPE_CHECKING

from agent.aws.dynamodb import Backoff, batch_get
from agent.limits import Pool, period
from agent.ports.limits import LimitBook
from agent.ports.money import Balance, Scope

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


def user_account(tenant_id: str, user_id: str) -> str:
    """Return the partition key of a user's account."""
    return f"B#user#{tenant_id}#{user_id}"


def tenant_account(tenant_id: str) -> str:
    """Return the partition key of a tenant's account."""
    return f"B#tenant#{tenant_id}"


class DynamoDbAccounts:
    """`ports.Accounts` on the ledger's table."""

    def __init__(
        self, client: "DynamoDBClient", table: str, limits: LimitBook, *, backoff: Backoff | None = None
    ) -> None:
        self._client = client
        self._table = table
        self._limits = limits
        self._backoff = backoff or Backoff()

    def own_balances(self, tenant_id: str, user_id: str, *, at: datetime) -> dict[Scope, Balance]:
        """See `ports.Accounts`. It asks for these accounts and no other: its function has no right on more."""
        limits = self._limits.of(tenant_id, user_id)
        pools: dict[Pool, str] = {"tenant": tenant_account(tenant_id)}
        if user_id:
            pools["user"] = user_account(tenant_id, user_id)
        keys = [{"pk": {"S": pk}, "sk": {"S": period(pool, at)}} for pool, pk in pools.items()]
        rows = batch_get(self._client, self._table, keys, backoff=self._backoff)
        spent = {row["pk"]["S"]: int(row["limit"]["N"]) - int(row["remaining"]["N"]) for row in rows}
        return {
            pool: Balance(limits.of(pool), max(0, limits.of(pool) - spent.get(pk, 0))) for pool, pk in pools.items()
        }
