"""Refund part or all of an order, once a person has approved this very call.

A refund is a record that the shop's payment run picks up; no payment provider is called from here. An order's refunds
are numbered, and number n is written only if it is new: whoever writes it has seen all earlier ones, so two calls at
once can't refund more than was paid. The one that loses reads again.
"""

from typing import Any, Literal

from pydantic import BaseModel, Field

from agent.tools import Arguments, Effect, ToolContext, ToolFailed, tool
from support_desk.orders import OrderId, find_order

MAX_REFUNDS = 20
"""Refunds of one order, and attempts of one call to get the next number."""


class IssueRefund(Arguments):
    """How much of which order, and why."""

    order_id: OrderId
    amount_cents: int = Field(ge=1, le=1_000_000, description="In cents of the order's currency: 12.50 is 1250.")
    reason: Literal["damaged", "lost", "late", "wrong_article", "returned", "goodwill"]


class Refund(BaseModel):
    """A refund as it is recorded."""

    refund_id: str
    order_id: str
    amount_cents: int
    currency: str
    refunded_total_cents: int
    """Of this order, this refund included."""


@tool(
    effect=Effect.DESTRUCTIVE,
    mode="idempotent",
    resource="Order::{order_id}",
    data_actions=("dynamodb:GetItem", "dynamodb:Query", "dynamodb:PutItem"),
    trusted=True,
    shown_to_user=True,
    parallel=False,
)
def issue_refund(args: IssueRefund, context: ToolContext) -> Refund:
    """Refund an amount of an order to the customer. Amounts are in cents; refunds never exceed the order's total.

    Needs a person's approval. Returns the refund and what has been refunded of the order in all.
    """
    order = find_order(context.data, args.order_id)
    if order is None:
        raise ToolFailed("order_not_found", f"There is no order {args.order_id}; nothing was refunded.")
    while True:
        earlier = context.data.query("refund", prefix=f"{args.order_id}-", limit=MAX_REFUNDS)
        already = sum(refund["amount_cents"] for refund in earlier)
        own = [refund for refund in earlier if refund["idempotency_key"] == context.idempotency_key]
        if own:
            return Refund.model_validate(own[0])
        if len(earlier) == MAX_REFUNDS or already + args.amount_cents > order.total_cents:
            raise ToolFailed(
                "refund_too_large",
                f"Order {args.order_id} cost {order.total_cents} cents and {already} are refunded already.",
            )
        refund = Refund(
            refund_id=f"{args.order_id}-{len(earlier) + 1:02d}",
            order_id=args.order_id,
            amount_cents=args.amount_cents,
            currency=order.currency,
            refunded_total_cents=already + args.amount_cents,
        )
        record: dict[str, Any] = {
            **refund.model_dump(),
            "reason": args.reason,
            "requested_by": context.principal.user_id,
            "idempotency_key": context.idempotency_key,
        }
        if context.data.put("refund", refund.refund_id, record, only_if_new=True):
            return refund
