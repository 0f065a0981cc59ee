"""A release: the exact model, prompt, tools and caps that a run is bound to from admission to its end.

A file support_desk/releases/<name>.toml, read once per process. A run names its release; a run whose release is gone
ends with `release_unavailable`, it never slips to another one.
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from agent.contracts import Contract, SecretNeed
from agent.errors import ConfigurationInvalid
from agent.guards import AnyGuard
from agent.word_checks import Phrases


class Part(BaseModel):
    """A table of the file: no unknown keys, frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelChoice(Part):
    """Which model, exactly, and why this one."""

    id: str = Field(min_length=3)
    """As `modelId` goes to Bedrock, version included."""
    reason: str = Field(min_length=20)
    max_tokens: int = Field(ge=64, le=32_000)
    temperature: float | None = Field(default=None, ge=0, le=1)
    timeout_s: float = Field(gt=0, le=240)
    """The hard end of one attempt."""
    max_attempts: int = Field(default=3, ge=1, le=5)


class Caps(Part):
    """What ends a run whatever the model wants."""

    max_turns: int = Field(ge=1, le=100)
    max_tool_calls: int = Field(ge=0, le=500)
    max_calls_per_turn: int = Field(default=8, ge=1, le=32)
    max_duration_s: int = Field(ge=10, le=604_800)
    """From admission to the end, parked time included."""
    max_wait_s: int = Field(ge=10, le=86_400)
    """How long a parked run may wait for a queued tool."""
    max_approval_wait_s: int = Field(default=3600, ge=10, le=604_800)
    """How long people have to decide about a call; a minute before the run's end at the latest."""
    max_denied_turns: int = Field(default=4, ge=1, le=20)
    """How often calls of one tool may be denied, turns with one counted, before the run ends."""
    max_session_bytes: int = Field(default=16_384, ge=0, le=65_536)
    limit_micros: int = Field(gt=0)
    """Money for one run, in micro-dollars."""
    slice_micros: int = Field(gt=0)
    """How much a run draws from the ledger at a time."""


class DeclaredTool(Part):
    """A tool of a server outside, pinned by the hash of what people reviewed."""

    name: str = Field(min_length=1, max_length=64)
    """Its name at the server."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """`agent.pinned_tools.pinned_sha256`; `make lock-mcp` prints it."""
    reviewed: str = Field(default="", pattern=r"^(\d{4}-\d{2}-\d{2})?$")
    """The day of the review. A new one lets a tool run again that was stopped and is as it was before."""
    description: str | None = None
    """For the model, in place of the server's own."""
    resource: str | None = None
    """What a call acts on, as in `Contract.resource`; without it, the server as a whole."""
    key_argument: str | None = None
    """The argument by which the server knows a repeated call; without one a lost call is never repeated."""
    allowances: tuple[str, ...] = ()
    """What its calls use up over runs, as in `Contract.allowances`."""


class DeclaredServer(Part):
    """A server that speaks MCP over streamable HTTP, and the only tools of it that are used."""

    name: str = Field(pattern=r"^[a-z][a-z0-9]{0,19}$")
    url: str
    timeout_s: int = Field(default=20, ge=10, le=120)
    """Looking at what the server offers is part of it and, in a new process, loading the client."""
    secret: SecretNeed | None = None
    """Goes out as a bearer token."""
    tools: tuple[DeclaredTool, ...] = Field(min_length=1, max_length=32)

    @field_validator("url")
    @classmethod
    def _an_address_outside(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc or parts.fragment:
            raise ValueError("must be https://host/path, without a user and a fragment")
        return url

    @staticmethod
    def tool_name(server: str, tool: str) -> str:
        """Return what a tool is called here: `<server>__<tool>`, in lower case and without other signs."""
        return f"{server}__{re.sub(r'[^a-z0-9_]', '_', tool.lower())}"


class Release(Part):
    """One release file, with its prompt read in."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")
    agent: str = ""
    """Whose release it is: the name of the folder it lies in."""
    model: ModelChoice
    fallback: ModelChoice | None = None
    """Takes over within a turn while the user has seen nothing of it: see `agent.model_choice`."""
    prompt_file: str
    prompt: str = ""
    tools: tuple[str, ...]
    """Once read, those of servers are among them; the file declares these below `mcp` alone."""
    mcp: tuple[DeclaredServer, ...] = ()
    session_conflict: Literal["wait", "refuse"] = "wait"
    """What becomes of a run whose session has an earlier one that is not over."""
    hold: Literal["window", "block"] = "window"
    """How an answer is held back until the guards that block have seen it: see `agent.hold_back`."""
    guards: tuple[AnyGuard, ...] = Field(default=(), max_length=32)
    caps: Caps
    sha256: str = ""

    @model_validator(mode="after")
    def _tells_guards_apart(self) -> Self:
        names = [guard.called for guard in self.guards]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"guards: these names stand twice, so give `name`: {sorted(twice)}")
        for number, guard in enumerate(self.guards):
            named = {*guard.tools, *([guard.unless_done] if isinstance(guard, Phrases) and guard.unless_done else [])}
            if missing := named - {*self.tools, *self.pins}:
                raise ValueError(f"guards.{number}: not among the release's tools: {sorted(missing)}")
        return self

    @model_validator(mode="after")
    def _each_tool_once(self) -> Self:
        if len({*self.tools, *self.pins}) < len(self.tools) + sum(len(server.tools) for server in self.mcp):
            raise ValueError("a tool is declared twice")
        return self

    @property
    def pins(self) -> Mapping[str, str]:
        """The hash of each tool of a server, by the tool's name here."""
        return {server.tool_name(server.name, tool.name): tool.sha256 for server in self.mcp for tool in server.tools}

    def offers(self, contract: Contract) -> bool:
        """Tell whether a tool is enabled, and is the one that was reviewed where it is a server's."""
        pin = contract.server.sha256 if contract.server else None
        return contract.name in self.tools and self.pins.get(contract.name) == pin

    @classmethod
    def read(cls, folder: Path, name: str) -> Self:
        """Return the release `name` of an agent's folder.

        Raises:
            ConfigurationInvalid: there is no such file, or a field of it is wrong.
        """
        path = folder / "releases" / f"{name}.toml"
        try:
            raw = path.read_text(encoding="utf-8")
            release = cls.model_validate({**tomllib.loads(raw), "name": name, "agent": folder.name})
            prompt = (folder / "prompts" / release.prompt_file).read_text(encoding="utf-8")
        except ValidationError as wrong:
            raise ConfigurationInvalid(f"release {name}: {in_words(wrong)}") from wrong
        except OSError as missing:
            raise ConfigurationInvalid(
                f"release {name}: {Path(missing.filename).relative_to(folder)} can't be read"
            ) from missing
        except ValueError as wrong:  # no TOML, or not UTF-8
            raise ConfigurationInvalid(f"release {name}: {wrong}") from wrong
        digest = hashlib.sha256(f"{raw}\0{prompt}".encode()).hexdigest()
        tools = (*release.tools, *release.pins)
        return release.model_copy(update={"tools": tools, "prompt": prompt, "sha256": digest})


def in_words(wrong: ValidationError) -> str:
    """Return on one line which fields are wrong, and how."""
    errors = wrong.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(": ".join(filter(None, (".".join(map(str, error["loc"])), error["msg"]))) for error in errors)
