"""The tools, one file each, and those of servers outside that mcp.lock.json has; `TOOLS` is what there is."""

from pathlib import Path

from agent.pinned_tools import read
from agent.tools import by_name
from support_desk.tools.export_orders import export_orders
from support_desk.tools.issue_refund import issue_refund
from support_desk.tools.list_orders import list_orders
from support_desk.tools.lookup_order import lookup_order
from support_desk.tools.save_draft import save_draft
from support_desk.tools.search_policy import search_policy

_LOCK = Path(__file__).parent.parent / "mcp.lock.json"
_OWN = (search_policy, lookup_order, list_orders, save_draft, issue_refund, export_orders)

TOOLS = by_name([*_OWN, *read(_LOCK)])
