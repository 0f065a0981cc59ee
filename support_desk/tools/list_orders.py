"""List orders by status, customer or date, a page at a time."""

from typing import Annotated

from pydantic import BaseModel, Field

from agent.contracts import Effect
from agent.tools import Arguments, ToolContext, tool
from support_desk.orders import Cents, Day, Order, OrderId, OrderStatus, each_order

MAX_READ = 1000
"""Orders one call looks at: a filter that matches none of them still ends in a second or so."""


MAX_LISTED = 25


class ListOrders(Arguments):
    """Every filter that is given must match; none lists all orders."""

    status: OrderStatus | None = None
    customer_email: Annotated[str, Field(max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")] | None = None
    placed_from: Day | None = None
    placed_to: Day | None = None
    after_order_id: OrderId | None = Field(
        default=None, description="Go on behind this order: the last answer's `next`."
    )
    limit: int = Field(default=10, ge=1, le=MAX_LISTED)

    def matches(self, order: Order) -> bool:
        """Tell whether an order passes every filter."""
        return (
            (self.status is None or order.status == self.status)
            and (self.customer_email is None or order.customer_email.casefold() == self.customer_email.casefold())
            and (self.placed_from is None or order.placed_on >= self.placed_from)
            and (self.placed_to is None or order.placed_on <= self.placed_to)
        )


class OrderSummary(BaseModel):
    """An order on one line."""

    order_id: str
    status: OrderStatus
    customer_name: str
    placed_on: str
    total_cents: Cents
    currency: str


class OrderPage(BaseModel):
    """Some orders, and where to go on."""

    orders: list[OrderSummary]
    next: str | None
    """The last order that was looked at, where more may follow; None at the end of the book."""


@tool(
    effect=Effect.READ,
    mode="idempotent",
    resource="OrderBook::all",
    data_actions=("dynamodb:Query",),
    max_rows=MAX_LISTED,
    next_page="Call again with the last order's `order_id` as `after_order_id`.",
)
def list_orders(args: ListOrders, context: ToolContext) -> OrderPage:
    """List orders, oldest number first, filtered by status, customer e-mail and the days they were placed.

    Returns at most `limit` orders. If `next` is not null there may be more: call again with it as `after_order_id`.
    """
    found: list[OrderSummary] = []
    orders = each_order(context.data, after=args.after_order_id or "", at_most=MAX_READ)
    for read, order in enumerate(orders, start=1):
        if args.matches(order):
            found.append(OrderSummary.model_validate(order.model_dump(include=set(OrderSummary.model_fields))))
        if len(found) == args.limit or read == MAX_READ:
            return OrderPage(orders=found, next=order.order_id)
    return OrderPage(orders=found, next=None)
