"""The ledger on DynamoDB. `agent.testing.ledger.MemoryLedger` is its twin, held to the same contract suite.

A grant is one transaction: it lowers `remaining` of the user, the tenant and one shard of the platform, each on the
condition that enough is there, and puts the grant's own item. So money is either taken everywhere, with a record of
where, or nowhere; and asking again finds the record. An account comes into being with its limit at its first use; where
the limit is another by now, the difference is given or taken first, so `remaining` may be below zero for a while.

The surprise: giving back puts a closing item where the run's next grant would stand. It makes giving back idempotent,
and a holder that died and comes back late can't take money nobody would return.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ulid import ULID

from agent.aws.accounts import tenant_account, user_account
from agent.aws.dynamodb import Backoff, Item, batch_get, store_errors, transact
from agent.errors import ConfigurationInvalid, StoreUnavailable
from agent.limits import POOLS, Limits, Pool, period
from agent.ports.limits import LimitBook
from agent.ports.money import Balance, Grant, Scope
from agent.run_header import RunHeader

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

MAX_SHARDS = 50
"""What one batch read and one transaction can hold beside the rest."""
MAX_DECISIONS = 6
"""How often a grant is decided again because accounts changed meanwhile."""
ATTEMPTS = 12
"""For a transaction. A tenant's runs all meet at its month: `make bench` tells how often, and eight are too few."""
ACCOUNT_LIFE = timedelta(days=400)
GRANT_LIFE = timedelta(days=30)
"""Far beyond the longest run; what was granted stands in the run's log for good."""

GRANT = len(POOLS)
"""The position of the grant's item in its transaction, after the accounts."""


@dataclass(frozen=True)
class _Account:
    """One item that holds money: a user's day, a tenant's month, or one shard of the platform's month."""

    pk: str
    sk: str
    limit_micros: int

    @property
    def key(self) -> dict[str, Any]:
        return {"pk": {"S": self.pk}, "sk": {"S": self.sk}}


class DynamoDbLedger:
    """`ports.Ledger` on one table. The platform's month is spread over `shards` items, so that no item gets hot."""

    def __init__(
        self,
        client: "DynamoDBClient",
        table: str,
        limits: LimitBook,
        shards: int,
        *,
        backoff: Backoff | None = None,
        pick: Callable[[int], int] = random.randrange,
    ) -> None:
        if not 1 <= shards <= MAX_SHARDS:
            raise ConfigurationInvalid(f"platform_shards: {shards} is not between 1 and {MAX_SHARDS}")
        self._client = client
        self._table = table
        self._limits = limits
        self._shards = shards
        self._backoff = backoff or Backoff(attempts=ATTEMPTS)
        self._pick = pick

    def grant(self, grant: Grant, *, at: datetime) -> int | Scope:
        """See `ports.Ledger`. One call where there is money enough."""
        amount = grant.want_micros
        shard = self._pick(self._shards)
        limits = self._limits.of(grant.tenant_id, grant.user_id)
        for _ in range(MAX_DECISIONS):
            accounts = self._accounts(grant.tenant_id, grant.user_id, limits, at, shard)
            short = [pool for pool, account in zip(POOLS, accounts, strict=True) if account.limit_micros < amount]
            if not short:
                refused = self._commit(
                    [*(self._take(a, amount, at) for a in accounts), self._record(grant, amount, accounts, at)]
                )
                if GRANT in refused:
                    return int(refused[GRANT]["amount"]["N"])
                if not refused:
                    return amount
                if self._adjust([(accounts[n], refused[n]) for n, _ in enumerate(POOLS) if n in refused]):
                    continue
                short = [pool for n, pool in enumerate(POOLS) if n in refused]
            if short == ["platform"]:
                shard, left = self._fullest_shard(limits, at)
                if left >= amount:
                    continue
            if amount == grant.need_micros:
                return short[0]
            amount = grant.need_micros
        raise StoreUnavailable(f"a grant was not decided in {MAX_DECISIONS} attempts")

    def _adjust(self, refused: Sequence[tuple[_Account, Item]]) -> bool:
        """Give or take what limits have changed by since these accounts were made; False where none has."""
        changed = [(a, row) for a, row in refused if "limit" in row and int(row["limit"]["N"]) != a.limit_micros]
        for account, row in changed:
            was = int(row["limit"]["N"])
            with store_errors():
                try:
                    self._client.update_item(
                        TableName=self._table,
                        Key=account.key,
                        UpdateExpression="SET remaining = remaining + :more, #limit = :limit",
                        ConditionExpression="#limit = :was",  # so that the difference is given once
                        ExpressionAttributeNames={"#limit": "limit"},
                        ExpressionAttributeValues={
                            ":more": {"N": str(account.limit_micros - was)},
                            ":limit": {"N": str(account.limit_micros)},
                            ":was": {"N": str(was)},
                        },
                    )
                except (
                    self._client.exceptions.ConditionalCheckFailedException,
                    self._client.exceptions.TransactionConflictException,
                ):
                    continue  # somebody else is at it; the next decision sees what came of it
        return bool(changed)

    def give_back(self, header: RunHeader, *, at: datetime) -> None:
        """See `ports.Ledger`. What a dead holder took and never recorded in the log flows back, too."""
        for _ in range(MAX_DECISIONS):
            grants = self._grants(header.tenant_id, header.run_id)
            if any("closed" in grant for grant in grants):
                return
            back = _what_to_return(grants, used=header.granted_micros - header.slice_micros)
            closing = {
                "pk": {"S": _grants_key(header.tenant_id, header.run_id)},
                "sk": {"S": _grant_key(len(grants) + 1)},
                "closed": {"BOOL": True},
                "amount": {"N": "0"},
                "expires_at": _epoch(at + GRANT_LIFE),
            }
            writes = [self._put_new(closing), *(self._return(pk, sk, micros) for (pk, sk), micros in back.items())]
            if not self._commit(writes):
                return
        raise StoreUnavailable(f"money was not given back in {MAX_DECISIONS} attempts")

    def balances(self, tenant_id: str, user_id: str, *, at: datetime) -> dict[Scope, Balance]:
        """See `ports.Ledger`."""
        limits = self._limits.of(tenant_id, user_id)
        user, tenant, _ = self._accounts(tenant_id, user_id, limits, at, 0)
        shards = self._platform(limits, at)
        left = self._remaining([user, tenant, *shards])
        platform = sum(left[account.pk] for account in shards)
        return {
            "user": Balance(user.limit_micros, max(0, left[user.pk])),
            "tenant": Balance(tenant.limit_micros, max(0, left[tenant.pk])),
            "platform": Balance(limits.platform_month_micros, max(0, platform)),
        }

    def _accounts(self, tenant_id: str, user_id: str, limits: Limits, at: datetime, shard: int) -> tuple[_Account, ...]:
        """Return the accounts a grant takes from, in the order of `POOLS`."""

        def account(pool: Pool, pk: str) -> _Account:
            return _Account(pk, period(pool, at), limits.of(pool))

        user, tenant = user_account(tenant_id, user_id), tenant_account(tenant_id)
        return account("user", user), account("tenant", tenant), self._platform(limits, at)[shard]

    def _platform(self, limits: Limits, at: datetime) -> list[_Account]:
        share, rest = divmod(limits.platform_month_micros, self._shards)
        month = period("platform", at)
        return [_Account(f"B#platform#{n}", month, share + (n < rest)) for n in range(self._shards)]

    def _remaining(self, accounts: Sequence[_Account]) -> dict[str, int]:
        """Return what is left by partition key, as today's limits have it; an account never used has its limit."""
        rows = batch_get(self._client, self._table, [a.key for a in accounts], backoff=self._backoff)
        spent = {row["pk"]["S"]: int(row["limit"]["N"]) - int(row["remaining"]["N"]) for row in rows}
        return {account.pk: account.limit_micros - spent.get(account.pk, 0) for account in accounts}

    def _fullest_shard(self, limits: Limits, at: datetime) -> tuple[int, int]:
        accounts = self._platform(limits, at)
        left = self._remaining(accounts)
        amounts = [left[account.pk] for account in accounts]
        best = max(amounts)
        # Any of the fullest: rivals that all saw the same shards must not all run to the first one.
        candidates = [n for n, micros in enumerate(amounts) if micros == best]
        return candidates[self._pick(len(candidates))], best

    def _take(self, account: _Account, amount: int, at: datetime) -> dict[str, Any]:
        # A condition can't add attributes up: `remaining` is what it can compare. `limit` is a reserved word.
        return {
            "Update": {
                "TableName": self._table,
                "Key": account.key,
                "UpdateExpression": "SET remaining = if_not_exists(remaining, :limit) - :amount, "
                "#limit = if_not_exists(#limit, :limit), expires_at = if_not_exists(expires_at, :expires)",
                "ConditionExpression": "attribute_not_exists(remaining) OR (remaining >= :amount AND #limit = :limit)",
                "ExpressionAttributeNames": {"#limit": "limit"},
                "ExpressionAttributeValues": {
                    ":limit": {"N": str(account.limit_micros)},
                    ":amount": {"N": str(amount)},
                    ":expires": _epoch(at + ACCOUNT_LIFE),
                },
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
        }

    def _record(self, grant: Grant, amount: int, accounts: Sequence[_Account], at: datetime) -> dict[str, Any]:
        item = {
            "pk": {"S": _grants_key(grant.tenant_id, grant.run_id)},
            "sk": {"S": _grant_key(grant.number)},
            "amount": {"N": str(amount)},
            "accounts": {"L": [{"M": account.key} for account in accounts]},
            "expires_at": _epoch(at + GRANT_LIFE),
        }
        return self._put_new(item)

    def _put_new(self, item: dict[str, Any]) -> dict[str, Any]:
        put = {"TableName": self._table, "Item": item, "ConditionExpression": "attribute_not_exists(pk)"}
        return {"Put": {**put, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}}

    def _return(self, pk: str, sk: str, micros: int) -> dict[str, Any]:
        return {
            "Update": {
                "TableName": self._table,
                "Key": {"pk": {"S": pk}, "sk": {"S": sk}},
                "UpdateExpression": "SET remaining = remaining + :back",
                "ExpressionAttributeValues": {":back": {"N": str(micros)}},
            }
        }

    def _grants(self, tenant_id: str, run_id: str) -> list[Item]:
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": _grants_key(tenant_id, run_id)}},
            ConsistentRead=True,
        )
        with store_errors():
            return [item for page in pages for item in page["Items"]]

    def _commit(self, writes: Sequence[Any]) -> dict[int, Item]:
        return transact(self._client, writes, token=str(ULID()), backoff=self._backoff)


def _what_to_return(grants: Sequence[Item], *, used: int) -> Counter[tuple[str, str]]:
    """Return the micro-dollars that flow back to each account: the newest grants were the last to be spent."""
    left = sum(int(grant["amount"]["N"]) for grant in grants) - used
    back: Counter[tuple[str, str]] = Counter()
    for grant in reversed(grants):
        part = min(left, int(grant["amount"]["N"]))
        if part <= 0:
            break
        left -= part
        for account in grant["accounts"]["L"]:
            back[account["M"]["pk"]["S"], account["M"]["sk"]["S"]] += part
    return back


def _grants_key(tenant_id: str, run_id: str) -> str:
    return f"G#{tenant_id}#{run_id}"


def _grant_key(number: int) -> str:
    return f"{number:06d}"


def _epoch(moment: datetime) -> dict[str, str]:
    return {"N": str(int(moment.timestamp()))}
