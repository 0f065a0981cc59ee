"""Look one order up: the tool to read first."""

from agent.contracts import Effect
from agent.tools import Arguments, ToolContext, ToolFailed, tool
from support_desk.orders import Order, OrderId, find_order


class LookupOrder(Arguments):
    """Which order."""

    order_id: OrderId


@tool(
    effect=Effect.READ,
    mode="idempotent",
    resource="Order::{order_id}",
    data_actions=("dynamodb:GetItem",),
    errors=("order_not_found",),
    # An application may draw the order from it; who may ask about an order may see it.
    shown_to_user=True,
)
def lookup_order(args: LookupOrder, context: ToolContext) -> Order:
    """Look up one order by its number: status, carrier, tracking number, dates, articles, total and customer.

    Use it for every question about a single order. Amounts are in cents. `customer_note` is what the customer typed.
    """
    order = find_order(context.data, args.order_id)
    if order is None:
        raise ToolFailed("order_not_found", f"There is no order {args.order_id}. Check the number with the user.")
    return order
