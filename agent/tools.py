"""What a tool is: a typed function and its contract, declared with the decorator `tool`.

A contract is data: its hash stands in each decision and in contracts.lock.json, so a tool that changed between
decision and execution does not run, and the infrastructure can generate the tool's rights from it. Tools reach tenant
data through `ToolContext` alone; they never see AWS credentials of their own.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Generic, Literal, Protocol, TypedDict, TypeVar, Unpack, get_type_hints

from pydantic import BaseModel, ConfigDict, Field

from agent.identity import Principal


class Effect(StrEnum):
    """What a call may do to the world, from harmless to not."""

    READ = "read"
    WRITE = "write"
    DESTRUCTIVE = "destructive"
    EXTERNAL = "external"


class Arguments(BaseModel):
    """The base of every tool's arguments: no unknown fields, no coercion, frozen once validated."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


DataAction = Literal["dynamodb:GetItem", "dynamodb:Query", "dynamodb:PutItem"]
"""What `TenantData` can do, as IAM calls it."""


class Contract(BaseModel):
    """What a tool promises and what it is allowed. Times in seconds, sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    description: str = Field(min_length=20, max_length=1000)
    """For the model: what it does, when to use it, what it returns."""
    effect: Effect
    resource: str = Field(pattern=r"^[A-Z][A-Za-z]{0,31}::[A-Za-z0-9_.{}-]{1,64}$")
    """What a call acts on within the tenant, as the policy sees it: `Type::id`, arguments in braces."""
    mode: Literal["idempotent", "once"]
    """After a lost call: run again under the same key, or never again."""
    queued: bool = False
    """Through the queue, because it may take longer than an answer's patience."""
    timeout_s: int = Field(default=10, ge=1, le=840)
    max_result_bytes: int = Field(default=16_384, ge=256, le=262_144)
    trusted: bool = False
    """Whether results are the platform's own words; all others are marked as data for the model."""
    shown_to_user: bool = False
    """Whether arguments and results may stand in the user's event stream."""
    parallel: bool = True
    """Whether it may run beside other calls of the same turn."""
    data_actions: tuple[DataAction, ...] = ()
    """What it needs on the tenant data table: the data role is generated from these, and no call does more."""
    writes_files: bool = False
    """Whether it puts objects under the tenant's prefix of the bucket."""
    schema_: dict[str, Any] = Field(alias="schema")
    """JSON Schema of the arguments."""

    def sha256(self) -> str:
        """Return the hash that a decision binds."""
        return sha256_of(self.model_dump(mode="json", by_alias=True))


class ToolFailed(Exception):
    """A tool's own, expected failure: `code` and the sentence go to the model, which may correct itself."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TenantData(Protocol):
    """The tenant's items, by kind and id. The tenant is not an argument: it is in the credentials and the key.

    Kinds are `[a-z]{1,32}`, ids `[A-Za-z0-9_.-]{1,128}`; items are JSON objects without floats. Every read is strongly
    consistent. Anything else raises ValueError: it is the tool's mistake, not the caller's.
    """

    def get(self, kind: str, item_id: str) -> dict[str, Any] | None:
        """Return an item, or None.

        Raises:
            StoreUnavailable: no answer within the bounded retries; so for all three.
        """
        ...

    def query(self, kind: str, *, prefix: str = "", after: str = "", limit: int = 50) -> list[dict[str, Any]]:
        """Return at most `limit` (1 to 100) items of a kind, in id order.

        Only those whose id begins with `prefix`, and comes behind `after`.
        """
        ...

    def put(self, kind: str, item_id: str, item: dict[str, Any], *, only_if_new: bool = False) -> bool:
        """Write an item; False where `only_if_new` and it exists."""
        ...


class TenantFiles(Protocol):
    """Objects under the tenant's and the run's prefix of the bucket."""

    def write(self, name: str, content: bytes, *, content_type: str) -> str:
        """Store a file, over one of the same name, and return its key. Names are `[a-z0-9][a-z0-9_.-]{0,99}`.

        Raises:
            StoreUnavailable: not stored within the bounded retries.
            ValueError: not a name.
        """
        ...


@dataclass(frozen=True)
class ToolContext:
    """What a tool is given besides its arguments."""

    principal: Principal
    run_id: str
    call_id: str
    idempotency_key: str
    """`run_id/call_id`: pass it on to whatever acts."""
    data: TenantData
    files: TenantFiles
    progress: Callable[[str], None]
    """Tell how far a queued tool has come: at most 20 notes of 200 characters, one a second; its user may read them."""


A = TypeVar("A", bound=Arguments)


@dataclass(frozen=True)
class Tool(Generic[A]):
    """A contract, the type of its arguments, and the function."""

    contract: Contract
    arguments: type[A]
    run: Callable[[A, ToolContext], BaseModel]

    def resource_of(self, arguments: A) -> str:
        """Return which `Type::id` within the tenant a call acts on, for the policy."""
        return self.contract.resource.format_map(arguments.model_dump())


class Promises(TypedDict, total=False):
    """The fields of a contract that may be left at their default; `Contract` says what each means."""

    queued: bool
    timeout_s: int
    max_result_bytes: int
    trusted: bool
    shown_to_user: bool
    parallel: bool
    data_actions: tuple[DataAction, ...]
    writes_files: bool


def tool(
    *,
    effect: Effect,
    mode: Literal["idempotent", "once"],
    resource: str,
    **promises: Unpack[Promises],
) -> Callable[[Callable[[A, ToolContext], BaseModel]], Tool[A]]:
    """Make a tool of a function: its name is the tool's, its docstring the description that the model reads.

    Its first parameter is annotated with a subclass of `Arguments`, whose JSON Schema the model is offered.
    """

    def declare(function: Callable[[A, ToolContext], BaseModel]) -> Tool[A]:
        first = next(iter(inspect.signature(function).parameters))
        arguments: type[A] = get_type_hints(function)[first]
        contract = Contract(
            name=function.__name__,
            description=inspect.getdoc(function) or "",
            effect=effect,
            mode=mode,
            resource=resource,
            schema=arguments.model_json_schema(),
            **promises,
        )
        return Tool(contract=contract, arguments=arguments, run=function)

    return declare


def by_name(tools: Iterable[Tool[Any]]) -> Mapping[str, Tool[Any]]:
    """Return the tools under their names.

    Raises:
        ValueError: two have the same name.
    """
    named: dict[str, Tool[Any]] = {}
    for each in tools:
        if named.setdefault(each.contract.name, each) is not each:
            raise ValueError(f"two tools are called {each.contract.name}")
    return MappingProxyType(named)


def canonical_json(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN. What is hashed is this."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of(value: object) -> str:
    """Return the hash of a value's one JSON text: of contracts and of a call's frozen arguments."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
