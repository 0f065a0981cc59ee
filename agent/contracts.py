"""What a tool promises and what it is allowed, as data: the contract.

Its hash stands in each decision and in contracts.lock.json, so a tool that changed between decision and execution does
not run, and the infrastructure can generate the tool's rights from it.
"""

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.limits import CALLS, Allowance
from agent.tool_servers import ServerPin


class Effect(StrEnum):
    """What a call may do to the world, from harmless to not."""

    READ = "read"
    WRITE = "write"
    DESTRUCTIVE = "destructive"
    EXTERNAL = "external"


DataAction = Literal["dynamodb:GetItem", "dynamodb:Query", "dynamodb:PutItem"]
"""What `TenantData` can do, as IAM calls it."""

READING: frozenset[DataAction] = frozenset({"dynamodb:GetItem", "dynamodb:Query"})

TOOL_NAME = r"^[a-z][a-z0-9_]{0,62}$"

MAX_ALLOWANCES = 12
"""Of one tool: all are counted in one transaction."""

ErrorCode = Annotated[str, Field(pattern=r"^[a-z][a-z_]{0,39}$")]

IfUnknown = Literal["tell_model", "ask_person"]
"""What follows when a call was started, its end was not seen, and it must not run again."""


class SecretNeed(BaseModel):
    """A secret that a tool reads: one for the whole deployment, or each tenant's or each user's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")
    scope: Literal["deployment", "tenant", "user"]


class Contract(BaseModel):
    """What a tool promises and what it is allowed. Times in seconds, sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=TOOL_NAME)
    description: str = Field(min_length=20, max_length=2000)
    """For the model: what it does, when to use it, what it returns."""
    effect: Effect
    resource: str = Field(pattern=r"^[A-Z][A-Za-z]{0,31}::[A-Za-z0-9_.{}-]{1,64}$")
    """What a call acts on within the tenant, as the policy sees it: `Type::id`, arguments in braces."""
    mode: Literal["idempotent", "once"]
    """After a lost call: run again under the same key, or never again."""
    if_unknown: IfUnknown = "tell_model"
    """Where the outcome stays unknown: tell the model so, or ask an approver what became of the call, and tell that."""
    queued: bool = False
    """Through the queue, because it may take longer than an answer's patience."""
    timeout_s: int = Field(default=10, ge=1, le=840)
    max_result_bytes: int = Field(default=16_384, ge=256, le=262_144)
    max_rows: int = Field(default=100, ge=1, le=10_000)
    """Of each list in a result; the rest is left out, and the result says so."""
    next_page: str = Field(default="Ask for fewer at once, or for less.", max_length=200)
    """For the model, where rows were left out: how it gets the others."""
    max_file_bytes: int = Field(default=10_000_000, ge=1, le=100_000_000)
    """Of all files that one call writes."""
    errors: tuple[ErrorCode, ...] = Field(default=(), max_length=16)
    """The codes that its function fails with (`ToolFailed`); any other one reaches the model as `tool_failed`."""
    trusted: bool = False
    """Whether results are the platform's own words; all others are marked as data for the model, and taint its session.

    Only for a result that has no room for anybody else's words: see `agent.wordless`.
    """
    shown_to_user: bool = False
    """Whether arguments and results may stand in the user's event stream."""
    parallel: bool = True
    """Whether it may run beside other calls of the same turn."""
    data_actions: tuple[DataAction, ...] = ()
    """What it needs on the tenant data table: the data role is generated from these, and no call does more."""
    writes_files: bool = False
    """Whether it puts objects under the tenant's prefix of the bucket."""
    facts: dict[str, Any] | None = None
    """JSON Schema of what policies are told of the resource; None: its tenant alone."""
    allowances: tuple[str, ...] = Field(default=(), max_length=MAX_ALLOWANCES)
    """What its calls use up over runs: `calls.user_minute` is a rate, `amount_cents.tenant_day` the sum of an argument.
    The numbers are limits, not part of the contract: see `agent.limits`."""
    secrets: tuple[SecretNeed, ...] = Field(default=(), max_length=4)
    """What it reads with `ToolContext.secret`: the data role is generated from these too."""
    server: ServerPin | None = None
    """The tool of a server outside that this one stands for, as it was reviewed."""
    schema_: dict[str, Any] = Field(alias="schema")
    """JSON Schema of the arguments."""

    @model_validator(mode="after")
    def _require_effect_to_write(self) -> Self:
        if self.effect is Effect.READ and not READING.issuperset(self.data_actions):
            raise ValueError(f"{self.name} writes the tenant's items, so its effect is not read")
        return self

    @model_validator(mode="after")
    def _require_countable(self) -> Self:
        properties = self.schema_.get("properties", {})
        for name in self.allowances:
            what = Allowance.parse(name).what
            declared = properties.get(what, {})
            least = declared.get("minimum", declared.get("exclusiveMinimum", -1))
            if what != CALLS and (declared.get("type") != "integer" or least < 0):
                raise ValueError(f"{name}: {what} is no argument that is always an integer, and never below 0")
        return self

    def uses(self, arguments: Mapping[str, Any]) -> dict[str, int]:
        """Return what a call with these frozen arguments uses up, by allowance."""
        counted = ((name, Allowance.parse(name).what) for name in self.allowances)
        return {name: 1 if what == CALLS else arguments[what] for name, what in counted}

    def sha256(self) -> str:
        """Return the hash that a decision binds."""
        return sha256_of(self.model_dump(mode="json", by_alias=True))

    def reading(self) -> Self:
        """Return the contract with the rights to read alone: what its facts are read with."""
        actions = tuple(action for action in self.data_actions if action in READING)
        return self.model_copy(update={"data_actions": actions, "writes_files": False, "secrets": ()})

    @model_validator(mode="after")
    def _an_outside_tool_is_taken_for_one(self) -> Self:
        if self.server is not None and (self.effect is not Effect.EXTERNAL or self.trusted or len(self.secrets) > 1):
            raise ValueError("a server's tool is external and untrusted, and has one secret at most")
        return self


def canonical_json(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN. What is hashed is this."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of(value: object) -> str:
    """Return the hash of a value's one JSON text: of contracts and of a call's frozen arguments."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
