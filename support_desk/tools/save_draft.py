"""Save a draft of a message. Nothing is sent: a person reads and sends it."""

import hashlib
from typing import Literal

from pydantic import BaseModel, Field

from agent.contracts import Effect
from agent.tools import Arguments, ToolContext, ToolFailed, tool
from support_desk.orders import OrderId, find_order, handled_order


class SaveDraft(Arguments):
    """The message, and the order it is about."""

    order_id: OrderId
    subject: str = Field(min_length=1, max_length=120, pattern=r"^[^\r\n]+$")
    body: str = Field(min_length=1, max_length=4000)


class SavedDraft(BaseModel):
    """Where the draft is."""

    draft_id: str = Field(pattern=r"^draft-[0-9a-f]{16}$")
    order_id: OrderId
    status: Literal["draft"] = "draft"


@tool(
    effect=Effect.WRITE,
    mode="idempotent",
    resource="Order::{order_id}",
    facts=handled_order,
    data_actions=("dynamodb:GetItem", "dynamodb:PutItem"),
    errors=("order_not_found",),
    trusted=True,
    shown_to_user=True,  # the user should see word for word what was saved under their name
    parallel=False,
)
def save_draft(args: SaveDraft, context: ToolContext) -> SavedDraft:
    """Save a draft of a message to the customer of an order. It is not sent: a person reads and sends it.

    Returns the draft's id. Save one draft per message; saving again makes another draft.
    """
    if find_order(context.data, args.order_id) is None:
        raise ToolFailed("order_not_found", f"There is no order {args.order_id}, so the draft was not saved.")
    # From the call's key, so that a repeated call finds its own draft and doesn't make a second one.
    draft_id = "draft-" + hashlib.sha256(context.idempotency_key.encode()).hexdigest()[:16]
    author = context.principal.user_id
    # Whoever reads it before sending should know where it may come from.
    about = {"draft_id": draft_id, "author": author, "status": "draft", "tainted": context.tainted}
    draft = {**args.model_dump(), **about}
    context.data.put("draft", draft_id, draft, only_if_new=True)
    return SavedDraft(draft_id=draft_id, order_id=args.order_id)
