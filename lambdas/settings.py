"""Each function's environment as a dataclass: the infrastructure writes it, the function reads it, nobody else does.

`to_environment` and `from_environment` are inverses, so a setting that one side forgets fails in the types or in the
infrastructure's tests and not at three in the morning.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from pydantic import TypeAdapter

PREFIX = "KEEPGATE_"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every function is told."""

    stage: str
    service: str
    """The name in logs, metrics and traces: `shim`, `run_agent`, …"""
    trace_exporter: str
    """`xray` (the daemon beside the function), `file:<path>`, an OTLP/HTTP endpoint's URL, or `none`."""

    def to_environment(self) -> dict[str, str]:
        """Return the environment variables that `from_environment` reads back."""
        return {PREFIX + f.name.upper(): str(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings.

        Raises:
            pydantic.ValidationError: a variable is missing or not of its type; it names the setting.
        """
        names = {f.name: PREFIX + f.name.upper() for f in fields(cls)}
        present = {name: environment[variable] for name, variable in names.items() if variable in environment}
        return TypeAdapter(cls).validate_python(present)


@dataclass(frozen=True, kw_only=True)
class LimitedSettings(Settings):
    """What a function is told that keeps to limits: the stage's defaults, and where operators override them."""

    control_table: str
    user_day_limit_micros: int
    tenant_month_limit_micros: int
    platform_month_limit_micros: int
    user_runs_limit: int
    """Runs in flight."""
    tenant_runs_limit: int
    tenant_jobs_limit: int
    """Jobs in the tool queue; further ones wait in the log."""


@dataclass(frozen=True, kw_only=True)
class BreakerSettings(Settings):
    """What the doors that call models and tools know of circuit breakers; see `ports.breakers.BreakerRules`."""

    control_table: str
    breaker_failures: int
    breaker_window_s: int
    breaker_open_s: int


@dataclass(frozen=True, kw_only=True)
class ShimSettings(LimitedSettings):
    """Room 1, the run API."""

    runs_table: str
    ledger_table: str
    """To tell people and operators what is spent; nothing is taken there."""
    agent_function: str
    """Name or ARN of `run_agent`, to wake it."""
    release: str
    """The release that new runs are bound to."""
    client_ids: str
    """The user pool clients whose tokens are taken, comma-separated."""
    allowed_origins: str
    """The origins whose pages may read answers, comma-separated; see `lambdas.headers.Cors`."""


@dataclass(frozen=True, kw_only=True)
class AdministerSettings(LimitedSettings):
    """The platform operator's door."""

    function: str
    """Its own name, which proofs are bound to."""
    account: str
    """Whose principals may operate."""


@dataclass(frozen=True, kw_only=True)
class AddClaimsSettings(Settings):
    """The user pool's pre-token trigger: puts tenant, roles and scope into access tokens."""


@dataclass(frozen=True, kw_only=True)
class StreamEventsSettings(Settings):
    """Room 1, the native event stream. Read only."""

    runs_table: str
    client_ids: str
    allowed_origins: str


@dataclass(frozen=True, kw_only=True)
class RunAgentSettings(LimitedSettings, BreakerSettings):
    """Room 2."""

    runs_table: str
    ledger_table: str
    agent_function: str
    """Itself: a holder whose lease ends wakes the next one."""
    tool_function: str
    isolates_tenants: bool
    """Whether `tool_function` wants to be told whose environment to run in: it must be exactly where it was made so."""
    tool_queue_url: str
    user_pool_id: str
    """Whose people are asked for their roles before an approved call starts."""
    platform_shards: int
    """Over how many items the platform's budget is spread."""
    guardrail_id: str = ""
    """The Bedrock guardrail that model calls pass; empty: none."""
    guardrail_version: str = ""


@dataclass(frozen=True, kw_only=True)
class RunToolSettings(Settings):
    """Room 3: one tool call for one tenant."""

    runs_table: str
    tenant_table: str
    bucket: str
    data_role_arn: str
    """Assumed with the session tag `tenant_id`."""
    progress_table: str
    secrets_prefix: str
    """What the names of all tools' secrets begin with; see `agent.secrets`."""
    control_table: str
    tool_servers: str
    """Servers outside that are on the loopback on this stage: JSON, URL by name; empty where there are none."""


@dataclass(frozen=True, kw_only=True)
class WorkToolQueueSettings(LimitedSettings, BreakerSettings):
    """Room 3: jobs from the queue."""

    runs_table: str
    tool_queue_url: str
    """To send a tenant's next job when one is done."""
    progress_table: str
    max_receives: int
    """The delivery of a job that is its last."""
    tool_function: str
    isolates_tenants: bool
    """Whether `tool_function` wants to be told whose environment to run in: it must be exactly where it was made so."""
    agent_function: str


@dataclass(frozen=True, kw_only=True)
class SweepRunsSettings(LimitedSettings):
    """Around the rooms: due runs, and the records of failed invocations."""

    runs_table: str
    ledger_table: str
    agent_function: str
    tool_queue_url: str
    platform_shards: int
