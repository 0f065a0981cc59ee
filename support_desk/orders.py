"""A shop's orders as the tools read them: the record, the shapes of its fields, and walking through all of them."""

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agent.tools import Facts, TenantData, facts

PAGE = 100


def _is_real(day: str) -> str:
    date.fromisoformat(day)
    return day


OrderId = Annotated[str, Field(pattern=r"^[0-9]{4,10}$", description="The order's number, digits only, such as 1001.")]
Day = Annotated[
    str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", description="A day as YYYY-MM-DD."), AfterValidator(_is_real)
]
Cents = Annotated[int, Field(ge=0)]
Currency = Literal["EUR", "GBP", "USD"]
OrderStatus = Literal["placed", "packed", "shipped", "delivered", "returned", "cancelled"]


class Record(BaseModel):
    """What the table holds, read leniently: an attribute that a newer writer added is left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class OrderLine(Record):
    """One article of an order."""

    sku: str
    title: str
    quantity: int = Field(ge=1)
    unit_price_cents: Cents


class Order(Record):
    """An order of the shop's customer. Amounts in cents of `currency`, without refunds."""

    order_id: OrderId
    status: OrderStatus
    customer_name: str
    customer_email: str
    placed_on: Day
    shipped_on: Day | None = None
    expected_on: Day | None = None
    """When the carrier means to deliver, or did."""
    carrier: str | None = None
    tracking_number: str | None = None
    lines: tuple[OrderLine, ...]
    total_cents: Cents
    currency: Currency
    customer_note: str = ""
    """Whatever the customer typed at checkout: nobody has checked it."""


class HandledOrder(Facts):
    """What policies are told of an order that somebody is going to write about."""

    handler: str = Field(max_length=128)
    """The user who looks after it; empty while nobody does. The model is not told."""


def handler_of(item: dict[str, Any]) -> str:
    """Return who looks after an order."""
    return str(item.get("handler") or "")


@facts(HandledOrder)
def handled_order(data: TenantData, order_id: str) -> HandledOrder | None:
    """Read who looks after an order."""
    item = data.get("order", order_id)
    return None if item is None else HandledOrder(handler=handler_of(item))


def find_order(data: TenantData, order_id: str) -> Order | None:
    """Return an order of the tenant, or None."""
    item = data.get("order", order_id)
    return None if item is None else Order.model_validate(item)


def each_order(data: TenantData, *, after: str = "", at_most: int) -> Iterator[Order]:
    """Yield the tenant's orders in the order of their numbers, behind `after`, a page at a time."""
    while at_most > 0:
        page = data.query("order", after=after, limit=min(PAGE, at_most))
        yield from (Order.model_validate(item) for item in page)
        if len(page) < min(PAGE, at_most):
            return
        at_most -= len(page)
        after = page[-1]["order_id"]
