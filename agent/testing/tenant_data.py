"""Tenants' items in memory: the twin of `agent.aws.tenant_data`, held to the same contract suite."""

import bisect
import json
import threading
from typing import Any

from agent.contracts import Contract, DataAction, canonical_json
from agent.errors import ConfigurationInvalid
from agent.identity import Principal
from agent.tenant_items import require_id, require_item, require_page
from agent.testing.secrets import MemorySecrets
from agent.testing.tenant_files import MemoryTenantFiles
from agent.tools import ReadSecret

EVERYTHING: tuple[DataAction, ...] = ("dynamodb:GetItem", "dynamodb:Query", "dynamodb:PutItem")


class MemoryTable:
    """The tenant data table: all tenants' items under their keys."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.items: dict[tuple[str, str, str], str] = {}
        self.objects: dict[str, bytes] = {}


class MemoryTenantData:
    """`tools.TenantData` of one tenant. What the contract does not list is refused, as AWS would refuse it."""

    def __init__(self, table: MemoryTable, tenant_id: str, actions: tuple[DataAction, ...] = EVERYTHING) -> None:
        self._table = table
        self._tenant_id = tenant_id
        self._actions = actions

    def get(self, kind: str, item_id: str) -> dict[str, Any] | None:
        """See `tools.TenantData`."""
        require_id(kind, item_id)
        self._require("dynamodb:GetItem")
        with self._table.lock:
            text = self._table.items.get((self._tenant_id, kind, item_id))
        return None if text is None else json.loads(text)

    def query(self, kind: str, *, prefix: str = "", after: str = "", limit: int = 50) -> list[dict[str, Any]]:
        """See `tools.TenantData`."""
        require_page(kind, prefix, after, limit)
        self._require("dynamodb:Query")
        with self._table.lock:
            of_kind = {i: text for (t, k, i), text in self._table.items.items() if (t, k) == (self._tenant_id, kind)}
        ids = sorted(of_kind)
        rest = ids[bisect.bisect_right(ids, after) :] if after else ids
        return [json.loads(of_kind[i]) for i in rest if i.startswith(prefix)][:limit]

    def put(self, kind: str, item_id: str, item: dict[str, Any], *, only_if_new: bool = False) -> bool:
        """See `tools.TenantData`."""
        require_id(kind, item_id)
        require_item(item)
        self._require("dynamodb:PutItem")
        key = (self._tenant_id, kind, item_id)
        with self._table.lock:
            if only_if_new and key in self._table.items:
                return False
            self._table.items[key] = canonical_json(item)
            return True

    def _require(self, action: DataAction) -> None:
        if action not in self._actions:
            raise ConfigurationInvalid(f"the contract does not list {action}")


class MemoryTenantAccess:
    """`execution.TenantAccess` over one table."""

    def __init__(self, table: MemoryTable, secrets: MemorySecrets | None = None) -> None:
        self._table = table
        self._secrets = secrets or MemorySecrets()

    def data(self, tenant_id: str, contract: Contract) -> MemoryTenantData:
        """See `execution.TenantAccess`."""
        return MemoryTenantData(self._table, tenant_id, contract.data_actions)

    def files(self, tenant_id: str, run_id: str, contract: Contract) -> MemoryTenantFiles:
        """See `execution.TenantAccess`."""
        return MemoryTenantFiles(self._table.objects, tenant_id, run_id, may_write=contract.writes_files)

    def secrets(self, principal: Principal, contract: Contract) -> ReadSecret:
        """See `execution.TenantAccess`."""
        return self._secrets.reader(principal, contract)

    def results(self, tenant_id: str, run_id: str) -> MemoryTenantFiles:
        """See `execution.TenantAccess`."""
        return MemoryTenantFiles(self._table.objects, tenant_id, run_id)
