"""A release: the exact model, prompt, tools and caps that a run is bound to from admission to its end.

A file support_desk/releases/<name>.toml, read once per process. A run names its release; a run whose release is gone
ends with `release_unavailable`, it never slips to another one.
"""

import hashlib
import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.errors import ConfigurationInvalid


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
    max_session_bytes: int = Field(default=16_384, ge=0, le=65_536)
    limit_micros: int = Field(gt=0)
    """Money for one run, in micro-dollars."""
    slice_micros: int = Field(gt=0)
    """How much a run draws from the ledger at a time."""


class Release(Part):
    """One release file, with its prompt read in."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")
    model: ModelChoice
    fallback: ModelChoice | None = None
    """Takes over within a turn while the user has seen nothing of it: see `agent.model_choice`."""
    prompt_file: str
    prompt: str = ""
    tools: tuple[str, ...]
    session_conflict: Literal["wait", "refuse"] = "wait"
    """What becomes of a run whose session has an earlier one that is not over."""
    caps: Caps
    sha256: str = ""

    @classmethod
    def read(cls, folder: Path, name: str) -> Self:
        """Return the release `name` of an agent's folder.

        Raises:
            ConfigurationInvalid: there is no such file, or a field of it is wrong.
        """
        path = folder / "releases" / f"{name}.toml"
        try:
            raw = path.read_text(encoding="utf-8")
            release = cls.model_validate({**tomllib.loads(raw), "name": name})
            prompt = (folder / "prompts" / release.prompt_file).read_text(encoding="utf-8")
        except (OSError, tomllib.TOMLDecodeError, ValidationError) as wrong:
            raise ConfigurationInvalid(f"release {name}: {wrong}") from wrong
        digest = hashlib.sha256(f"{raw}\0{prompt}".encode()).hexdigest()
        return release.model_copy(update={"prompt": prompt, "sha256": digest})
