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
from typing import Annotated, Any, Generic, Literal, Protocol, Self, TypedDict, TypeVar, Unpack, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from agent.errors import ConfigurationInvalid
from agent.identity import Principal
from agent.limits import CALLS, Allowance
from agent.tool_servers import ServerPin
from agent.wordless import require_wordless


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
READING: frozenset[DataAction] = frozenset({"dynamodb:GetItem", "dynamodb:Query"})

TOOL_NAME = r"^[a-z][a-z0-9_]{0,62}$"


class Facts(BaseModel):
    """The base of what policies are told of a resource: a few small attributes, as Cedar knows them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


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


def canonical_json(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN. What is hashed is this."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of(value: object) -> str:
    """Return the hash of a value's one JSON text: of contracts and of a call's frozen arguments."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
