"""A small agent for tests about the runtime: one tool of each kind, whose effects are counted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from agent.pricing import Price, Prices
from agent.release import Caps, ModelChoice, Release
from agent.testing.cloud import MemoryCloud
from agent.testing.model import ScriptedModel, Step
from agent.tools import Arguments, Effect, Tool, ToolContext, ToolFailed, by_name, tool

MODEL, FALLBACK = "test.model-1", "test.model-2"
PRICE = Price(input=Decimal(1), output=Decimal(5), cache_read=Decimal("0.1"), cache_write=Decimal("1.25"))
PRICES = Prices({MODEL: PRICE, FALLBACK: PRICE.model_copy(update={"input": Decimal(3), "output": Decimal(15)})})
QUESTION = "Where is my order?"


class Item(Arguments):
    item: str
    count: int = 1


class Done(BaseModel):
    done: str


def tools(effects: Counter[str]) -> Mapping[str, Tool[Any]]:
    """Return the tools; each run of one counts under `tool run/call`."""

    def acted(name: str, context: ToolContext) -> None:
        effects[f"{name} {context.idempotency_key}"] += 1

    @tool(effect=Effect.READ, mode="idempotent", resource="Item::{item}")
    def look(args: Item, context: ToolContext) -> Done:
        """Look an item up; harmless, and others may run beside it."""
        acted("look", context)
        if args.item == "nothing":
            raise ToolFailed("not_found", "There is no such item.")
        return Done(done=f"looked {args.item}")

    @tool(effect=Effect.WRITE, mode="idempotent", resource="Item::{item}", parallel=False, trusted=True)
    def save(args: Item, context: ToolContext) -> Done:
        """Save an item; saving it again changes nothing."""
        acted("save", context)
        return Done(done=f"saved {args.item}")

    @tool(effect=Effect.DESTRUCTIVE, mode="once", resource="Item::{item}", parallel=False, trusted=True)
    def pay(args: Item, context: ToolContext) -> Done:
        """Pay for an item; must never happen twice."""
        acted("pay", context)
        return Done(done=f"paid {args.item}")

    @tool(effect=Effect.READ, mode="idempotent", resource="Item::{item}", queued=True, timeout_s=60)
    def export(args: Item, context: ToolContext) -> Done:
        """Export an item; takes long, so it goes through the queue."""
        acted("export", context)
        return Done(done=f"exported {args.item}")

    @tool(effect=Effect.EXTERNAL, mode="once", resource="Item::{item}", queued=True, timeout_s=60)
    def ship(args: Item, context: ToolContext) -> Done:
        """Ship an item; takes long, and must never happen twice."""
        acted("ship", context)
        return Done(done=f"shipped {args.item}")

    return by_name([look, save, pay, export, ship])


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
        model=ModelChoice(id=MODEL, reason="a model that plays its script", max_tokens=1000, timeout_s=timeout_s),
        prompt_file="none",
        prompt="You help.",
        tools=("look", "save", "pay", "export", "ship"),
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
        **around: Any,
    ) -> None:
        self.effects: Counter[str] = Counter()
        self.session_id: str | None = None
        self.script = ScriptedModel(*turns, failing=failing)
        around.setdefault("prices", PRICES)
        super().__init__(release(timeout_s=timeout_s, **(caps or {})), tools(self.effects), self.script, **around)
