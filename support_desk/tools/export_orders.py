"""Export orders as a CSV file: the slow tool, which goes through the queue while the run waits without compute."""

import csv
import io

from pydantic import BaseModel, Field

from agent.contracts import Effect
from agent.tools import Arguments, ToolContext, tool
from support_desk.orders import Day, Order, OrderStatus, each_order

MAX_ROWS = 20_000
COLUMNS = (
    "order_id",
    "status",
    "customer_name",
    "customer_email",
    "placed_on",
    "carrier",
    "tracking_number",
    "total_cents",
    "currency",
)


class ExportOrders(Arguments):
    """Every filter that is given must match; none exports all orders."""

    status: OrderStatus | None = None
    placed_from: Day | None = None
    placed_to: Day | None = None

    def matches(self, order: Order) -> bool:
        """Tell whether an order passes every filter."""
        return (
            (self.status is None or order.status == self.status)
            and (self.placed_from is None or order.placed_on >= self.placed_from)
            and (self.placed_to is None or order.placed_on <= self.placed_to)
        )


class ExportedOrders(BaseModel):
    """The file, by the name a user sees; where it lies is the platform's business and stands in the log."""

    file: str = Field(pattern=r"^orders-call_[0-9]{1,4}_[0-9]{1,3}\.csv$")
    rows: int = Field(ge=0)
    complete: bool
    """False where the export stopped at its bound: then narrow the dates."""


@tool(
    effect=Effect.READ,
    mode="idempotent",
    resource="OrderBook::all",
    queued=True,
    timeout_s=300,
    data_actions=("dynamodb:Query",),
    writes_files=True,
    trusted=True,
    shown_to_user=True,
    allowances=("calls.user_hour", "calls.tenant_hour"),
)
def export_orders(args: ExportOrders, context: ToolContext) -> ExportedOrders:
    """Export orders to a CSV file, filtered by status and the days they were placed. Takes up to a few minutes.

    Returns the file's name and its number of rows, not the orders. Use `list_orders` to read some orders.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(COLUMNS)
    read = rows = 0
    for read, order in enumerate(each_order(context.data, at_most=MAX_ROWS), start=1):
        if args.matches(order):
            rows += 1
            table.writerow([_cell(getattr(order, column)) for column in COLUMNS])
        if read % 1000 == 0:
            context.progress(f"{read} orders read, {rows} exported")
    context.progress(f"{read} orders read, {rows} exported; writing the file")
    # The call's id in the name: a repeated call writes over its own file, and no other.
    name = f"orders-{context.call_id}.csv"
    context.files.write(name, text.getvalue().encode(), content_type="text/csv; charset=utf-8")
    return ExportedOrders(file=name, rows=rows, complete=read < MAX_ROWS)


def _cell(value: object) -> str:
    """Return a cell that a spreadsheet won't run as a formula: names and addresses are typed by customers."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
