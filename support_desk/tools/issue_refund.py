"""Refund part or all of an order, once a person has approved this very call.

A refund is a record that the shop's payment run picks up; no payment provider is called from here. An order's refunds
are numbered, and number n is written only if it is new: whoever writes it has seen all earlier ones, so two calls at
once can't refund more than was paid. The one that loses reads again.
"""

from typing import Any, Literal

from pydantic import BaseModel, Field

from agent.contracts import Effect
from agent.tools import Arguments, TenantData, ToolContext, ToolFailed, facts, tool
from support_desk.orders import Currency, HandledOrder, OrderId, find_order, handler_of

MAX_REFUNDS = 20
"""Refunds of one order, and attempts of one call to get the next number."""


class IssueRefund(Arguments):
    """How much of which order, and why."""

    order_id: OrderId
    amount_cents: int = Field(ge=1, le=1_000_000, description="In cents of the order's currency: 12.50 is 1250.")
    reason: Literal["damaged", "lost", "late", "wrong_article", "returned", "goodwill"]


class Refund(BaseModel):
    """A refund as it is recorded."""

    refund_id: str = Field(pattern=r"^[0-9]{4,10}-[0-9]{2}$")
    order_id: OrderId
    amount_cents: int
    currency: Currency
    refunded_total_cents: int
    """Of this order, this refund included."""


class RefundableOrder(HandledOrder):
    """What policies are told of an order that is to be refunded, in cents of its currency."""

    total_cents: int
    refunded_cents: int
    """By all refunds of it so far."""


@facts(RefundableOrder)
def refundable_order(data: TenantData, order_id: str) -> RefundableOrder | None:
    """Read what an order cost and what of it was refunded. A call that waits for a person may be told more, later."""
    item = data.get("order", order_id)
    if item is None:
        return None
    refunded = sum(refund["amount_cents"] for refund in _earlier(data, order_id))
    return RefundableOrder(handler=handler_of(item), total_cents=item["total_cents"], refunded_cents=refunded)


def _earlier(data: TenantData, order_id: str) -> list[dict[str, Any]]:
    return data.query("refund", prefix=f"{order_id}-", limit=MAX_REFUNDS)


@tool(
    effect=Effect.DESTRUCTIVE,
    mode="idempotent",
    resource="Order::{order_id}",
    facts=refundable_order,
    data_actions=("dynamodb:GetItem", "dynamodb:Query", "dynamodb:PutItem"),
    errors=("order_not_found", "refund_too_large"),
    if_unknown="ask_person",  # it is money: whether it was paid back is not for the model to guess
    trusted=True,
    shown_to_user=True,
    parallel=False,
    allowances=("amount_cents.user_day", "amount_cents.tenant_day"),
)
def issue_refund(args: IssueRefund, context: ToolContext) -> Refund:
    """Refund an amount of an order to the customer. Amounts are in cents; refunds never exceed the order's total.

    Needs a person's approval. Returns the refund and what has been refunded of the order in all.
    """
    order = find_order(context.data, args.order_id)
    if order is None:
        raise ToolFailed("order_not_found", f"There is no order {args.order_id}; nothing was refunded.")
    while True:
        earlier = _earlier(context.data, args.order_id)
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
            "tainted": context.tainted,
            "idempotency_key": context.idempotency_key,
        }
        if context.data.put("refund", refund.refund_id, record, only_if_new=True):
            return refund
