"""A small agent for tests about the runtime: one tool of each kind, whose effects are counted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, Field

from agent.contracts import Effect
from agent.pricing import Price, Prices
from agent.release import Caps, ModelChoice, Release
from agent.testing.cloud import MemoryCloud
from agent.testing.model import ScriptedModel, Step
from agent.tools import Arguments, Tool, ToolContext, ToolFailed, by_name, tool

MODEL, FALLBACK = "test.model-1", "test.model-2"
PRICE = Price(input=Decimal(1), output=Decimal(5), cache_read=Decimal("0.1"), cache_write=Decimal("1.25"))
PRICES = Prices({MODEL: PRICE, FALLBACK: PRICE.model_copy(update={"input": Decimal(3), "output": Decimal(15)})})
QUESTION = "Where is my order?"


class Item(Arguments):
    item: str
    count: int = Field(default=1, ge=0)


class Done(BaseModel):
    done: str


class Saved(BaseModel):
    done: Literal["saved"] = "saved"


class Paid(BaseModel):
    done: Literal["paid"] = "paid"


class Wired(BaseModel):
    done: Literal["wired"] = "wired"


ALLOWANCES = ("count.user_day", "count.tenant_day", "calls.user_minute")


def tools(effects: Counter[str], *, allowances: tuple[str, ...] = ()) -> Mapping[str, Tool[Any]]:
    """Return the tools; each run of one counts under `tool run/call`, and uses up these allowances."""

    def acted(name: str, context: ToolContext) -> None:
        effects[f"{name} {context.idempotency_key}"] += 1

    @tool(
        effect=Effect.READ,
        mode="idempotent",
        resource="Item::{item}",
        allowances=allowances,
        errors=("not_found",),
    )
    def look(args: Item, context: ToolContext) -> Done:
        """Look an item up; harmless, and others may run beside it."""
        acted("look", context)
        if args.item == "nothing":
            raise ToolFailed("not_found", "There is no such item.")
        return Done(done=f"looked {args.item}")

    @tool(
        effect=Effect.WRITE,
        mode="idempotent",
        resource="Item::{item}",
        parallel=False,
        trusted=True,
        allowances=allowances,
    )
    def save(args: Item, context: ToolContext) -> Saved:
        """Save an item; saving it again changes nothing."""
        acted("save", context)
        return Saved()

    @tool(
        effect=Effect.DESTRUCTIVE,
        mode="once",
        resource="Item::{item}",
        parallel=False,
        trusted=True,
        allowances=allowances,
    )
    def pay(args: Item, context: ToolContext) -> Paid:
        """Pay for an item; must never happen twice."""
        acted("pay", context)
        return Paid()

    @tool(
        effect=Effect.READ, mode="idempotent", resource="Item::{item}", queued=True, timeout_s=60, allowances=allowances
    )
    def export(args: Item, context: ToolContext) -> Done:
        """Export an item; takes long, so it goes through the queue."""
        acted("export", context)
        return Done(done=f"exported {args.item}")

    @tool(
        effect=Effect.EXTERNAL, mode="once", resource="Item::{item}", queued=True, timeout_s=60, allowances=allowances
    )
    def ship(args: Item, context: ToolContext) -> Done:
        """Ship an item; takes long, and must never happen twice."""
        acted("ship", context)
        return Done(done=f"shipped {args.item}")

    @tool(
        effect=Effect.DESTRUCTIVE,
        mode="once",
        if_unknown="ask_person",
        resource="Item::{item}",
        parallel=False,
        trusted=True,
        shown_to_user=True,
        allowances=allowances,
    )
    def wire(args: Item, context: ToolContext) -> Wired:
        """Wire money for an item; where nobody knows whether it went out, a person looks."""
        acted("wire", context)
        return Wired()

    @tool(
        effect=Effect.EXTERNAL,
        mode="once",
        if_unknown="ask_person",
        resource="Item::{item}",
        queued=True,
        timeout_s=60,
        allowances=allowances,
    )
    def post(args: Item, context: ToolContext) -> Done:
        """Post an item; takes long, and where nobody knows whether it left, a person looks."""
        acted("post", context)
        return Done(done=f"posted {args.item}")

    return by_name([look, save, pay, export, ship, wire, post])


def release(*, timeout_s: float = 30, **caps: int) -> Release:
    """Return a release of all tools, with these caps instead of the generous ones."""
    generous = {
        "max_turns": 8,
        "max_tool_calls": 20,
        "max_duration_s": 3600,
        "max_wait_s": 1200,
        "limit_micros": 1_000_000,
        "slice_micros": 50_000,
    }
    return Release(
        name="sample-1",
        agent="sample",
        model=ModelChoice(id=MODEL, reason="a model that plays its script", max_tokens=1000, timeout_s=timeout_s),
        prompt_file="none",
        prompt="You help.",
        tools=("look", "save", "pay", "export", "ship", "wire", "post"),
        caps=Caps(**{**generous, **caps}),
    )


class SampleCloud(MemoryCloud):
    """The sample agent in memory, with its effects counted."""

    def __init__(
        self,
        *turns: Sequence[Step],
        failing: Mapping[int, Sequence[Sequence[Step]]] | None = None,
        caps: Mapping[str, int] | None = None,
        timeout_s: float = 30,
        allowances_of_tools: tuple[str, ...] = (),
        **around: Any,
    ) -> None:
        self.effects: Counter[str] = Counter()
        self.session_id: str | None = None
        self.script = ScriptedModel(*turns, failing=failing)
        around.setdefault("prices", PRICES)
        made = tools(self.effects, allowances=allowances_of_tools)
        super().__init__(release(timeout_s=timeout_s, **(caps or {})), made, self.script, **around)
