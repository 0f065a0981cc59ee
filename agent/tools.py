"""What a tool is: a typed function and its contract, declared with the decorator `tool`.

Tools reach tenant data through `ToolContext` alone; they never see AWS credentials of their own.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, Literal, Protocol, TypedDict, TypeVar, Unpack, get_type_hints

from pydantic import BaseModel, ConfigDict, JsonValue

from agent.contracts import Contract, DataAction, Effect, IfUnknown, SecretNeed
from agent.errors import ConfigurationInvalid
from agent.identity import Principal
from agent.wordless import require_wordless


class Arguments(BaseModel):
    """The base of every tool's arguments: no unknown fields, no coercion, frozen once validated."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Facts(BaseModel):
    """The base of what policies are told of a resource: a few small attributes, as Cedar knows them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ToolFailed(Exception):
    """A tool's own, expected failure: `code` and the sentence go to the model, which may correct itself.

    The contract names the codes; the sentence says what is wrong with which argument, and what to do instead.
    """

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


class ToolServer(Protocol):
    """The server that a contract names, for one call."""

    def call(self, arguments: Mapping[str, JsonValue]) -> BaseModel:
        """Have the server's tool run with these arguments, if it still is the one that was reviewed.

        Raises:
            ToolFailed: it did not run, or failed by its own account, or its answer is of no use.
            ToolLost: it may have run, and nobody knows.
        """
        ...


class ReadSecret(Protocol):
    """Reads a secret of the call's contract. The model never sees one: results that repeat it are masked."""

    def __call__(self, name: str, *, fresh: bool = False) -> str:
        """Return the secret's text, at most two minutes old; with `fresh` as it is now, for whom the old one failed.

        Raises:
            ToolFailed: `secret_unavailable`: there is none for this tenant or user, or it is of no use.
            StoreUnavailable: no answer within the bounded retries.
            ConfigurationInvalid: the contract does not list it.
        """
        ...


def no_secret(name: str, *, fresh: bool = False) -> str:  # noqa: ARG001 - the protocol's
    """Refuse every secret: what a tool has whose contract lists none."""
    raise ConfigurationInvalid(f"the contract does not list the secret {name}")


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
    tainted: bool = False
    """Whether text from outside may have led to this call: keep it with what people are going to read."""
    secret: ReadSecret = no_secret
    server: ToolServer | None = None


WAYS: tuple[Literal["validation", "serialization"], ...] = ("validation", "serialization")
"""How a result is described: as it is built, and as it is written down, which may add computed fields."""

A = TypeVar("A", bound=Arguments)
F = TypeVar("F", bound=Facts)


@dataclass(frozen=True)
class ReadFacts:
    """How the platform finds out what a resource is, and as what it tells the policies."""

    kind: type[Facts]
    read: Callable[[TenantData, str], Facts | None]
    """Given the tenant's items and the resource's id; None where there is no such resource."""


def facts(kind: type[F]) -> Callable[[Callable[[TenantData, str], F | None]], ReadFacts]:
    """Make what `tool(facts=…)` takes of a function that reads a resource."""

    def declare(function: Callable[[TenantData, str], F | None]) -> ReadFacts:
        return ReadFacts(kind, function)

    return declare


@dataclass(frozen=True)
class Tool(Generic[A]):
    """A contract, the type of its arguments, and the function."""

    contract: Contract
    arguments: type[A]
    run: Callable[[A, ToolContext], BaseModel]
    result: type[BaseModel] | None = None
    """What it returns; a trusted one is held to it."""
    facts: ReadFacts | None = None
    """Where policies need to know more of the resource than whose it is."""

    def __post_init__(self) -> None:
        """Check that a trusted tool can return nothing but the platform's own words.

        Raises:
            ValueError: it could; the message says where.
        """
        if self.contract.trusted:
            if self.result is None:
                raise ValueError(f"{self.contract.name} is trusted and does not say what it returns")
            try:
                for mode in WAYS:
                    require_wordless(self.result.model_json_schema(mode=mode))
            except ValueError as wrong:
                raise ValueError(f"{self.contract.name} is trusted, and its {wrong}") from wrong

    def resource_of(self, arguments: A) -> str:
        """Return which `Type::id` within the tenant a call acts on, for the policy."""
        return self.contract.resource.format_map(arguments.model_dump())


class Promises(TypedDict, total=False):
    """The fields of a contract that may be left at their default; `Contract` says what each means."""

    if_unknown: IfUnknown
    queued: bool
    timeout_s: int
    max_result_bytes: int
    trusted: bool
    shown_to_user: bool
    parallel: bool
    data_actions: tuple[DataAction, ...]
    writes_files: bool
    max_rows: int
    next_page: str
    max_file_bytes: int
    errors: tuple[str, ...]
    allowances: tuple[str, ...]
    secrets: tuple[SecretNeed, ...]


def tool(
    *,
    effect: Effect,
    mode: Literal["idempotent", "once"],
    resource: str,
    facts: ReadFacts | None = None,
    **promises: Unpack[Promises],
) -> Callable[[Callable[[A, ToolContext], BaseModel]], Tool[A]]:
    """Make a tool of a function: its name is the tool's, its docstring the description that the model reads.

    Its first parameter is annotated with a subclass of `Arguments`, whose JSON Schema the model is offered.
    """

    def declare(function: Callable[[A, ToolContext], BaseModel]) -> Tool[A]:
        first = next(iter(inspect.signature(function).parameters))
        hints = get_type_hints(function)
        arguments: type[A] = hints[first]
        contract = Contract(
            name=function.__name__,
            description=inspect.getdoc(function) or "",
            effect=effect,
            mode=mode,
            resource=resource,
            schema=arguments.model_json_schema(),
            facts=facts.kind.model_json_schema() if facts else None,
            **promises,
        )
        return Tool(contract=contract, arguments=arguments, run=function, result=hints["return"], facts=facts)

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
