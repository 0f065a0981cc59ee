"""What a model call costs, in integer micro-dollars, from the dated list in agent/prices.toml.

A price in dollars per million tokens is the same number in micro-dollars per token. Costs are rounded up. A model
without a price is refused: what can't be counted must not run.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.errors import ConfigurationInvalid
from agent.events import Usage

PRICES_FILE = Path(__file__).with_name("prices.toml")


class Price(BaseModel):
    """One model's price per token, in micro-dollars."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Decimal = Field(gt=0)
    output: Decimal = Field(gt=0)
    cache_read: Decimal = Field(gt=0)
    cache_write: Decimal = Field(gt=0)

    def cost_micros(self, usage: Usage) -> int:
        """Return what a call with this usage cost."""
        return math.ceil(
            self.input * usage.input_tokens
            + self.output * usage.output_tokens
            + self.cache_read * usage.cache_read_tokens
            + self.cache_write * usage.cache_write_tokens
        )

    def bound_micros(self, input_tokens: int, max_tokens: int) -> int:
        """Return what a call may cost at most: its input at the dearest input price, its whole output."""
        return math.ceil(max(self.input, self.cache_write, self.cache_read) * input_tokens + self.output * max_tokens)


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(min_length=10)
    date: date
    models: dict[str, Price]


@dataclass(frozen=True)
class Prices:
    """The price list."""

    models: Mapping[str, Price]

    @classmethod
    def read(cls, path: Path = PRICES_FILE) -> "Prices":
        """Return the price list in a file.

        Raises:
            ConfigurationInvalid: the file is missing, or a field of it is wrong.
        """
        try:
            return cls(_File.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).models)
        except (OSError, tomllib.TOMLDecodeError, ValidationError) as wrong:
            raise ConfigurationInvalid(f"price list {path.name}: {wrong}") from wrong

    def of(self, model_id: str) -> Price:
        """Return a model's price.

        Raises:
            ConfigurationInvalid: the list has none.
        """
        price = self.models.get(model_id)
        if price is None:
            raise ConfigurationInvalid(f"{PRICES_FILE.name} has no price for model {model_id}; add it with its source")
        return price
