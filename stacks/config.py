"""The stages as data: everything that differs between `dev`, `prod` and `local` stands here and nowhere else.

Constructs take values from a `Stage`; none asks for its name. A field may be given for one deployment with
`cdk deploy -c field=value` (an alarm address doesn't belong into a repository, a trace file's path even less).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from pydantic import TypeAdapter

from agent.errors import ConfigurationInvalid
from lambdas.headers import Cors
from lambdas.settings import BreakerSettings, LimitedSettings

DOLLAR_MICROS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class DeniedTopic:
    """What a Bedrock guardrail keeps question and answer away from."""

    name: str
    definition: str
    """In a sentence or two; what Bedrock's classifier goes by."""
    examples: tuple[str, ...] = ()


STRENGTHS = ("LOW", "MEDIUM", "HIGH")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage is told. Money in micro-dollars, rates in requests a second, times as their names say."""

    name: str
    emulated: bool = False
    """Whether it goes into the cloud on a laptop: no packages in the code, no bootstrap, types it lacks left out."""
    keeps_data: bool
    """Whether tables, files, users, keys and logs survive the stack, and are protected from deletion."""
    log_retention: str
    """A name of `aws_logs.RetentionDays`."""
    firewall: bool
    """Whether WAF stands before the API ($5 a month, $1 a rule)."""
    alarms: bool
    """Whether alarms are made ($0.10 a month each; the dashboard always is)."""
    alarm_email: str = ""
    """Who hears of alarms; empty: nobody until somebody subscribes to the topic."""
    password_sign_in: bool
    """Whether a client may send a password (USER_PASSWORD_AUTH), for tests; otherwise SRP only."""
    trace_exporter: str
    """See `lambdas.settings.Settings.trace_exporter`."""
    trace_share: float
    """Which part of requests X-Ray samples, beyond one a second."""
    api_rate: int
    api_burst: int
    create_rate: int
    """Of `POST /v1/runs` alone: it is the one that costs money."""
    create_burst: int
    requests_per_ip: int
    """In five minutes, reconnects to an event stream not counted."""
    reconnects_per_ip: int
    """In five minutes, of `GET …/events`."""
    allowed_origins: str = ""
    """The origins whose web pages may read the API's answers, comma-separated; empty: none. See `lambdas.headers`."""
    queue_concurrency: int
    """How many queued tool calls run at a time."""
    isolates_tenants: bool = False
    """Whether each tenant's tool calls run in environments that no other tenant's ever run in: Lambda's tenant
    isolation mode. It costs a cold start, and a charge, for each tenant's own environments. A queue can't invoke such
    a function, which is why queued calls reach it through `work_tool_queue`."""
    breaker_failures: int = 5
    """So many failed calls of one model or tool within a window open its circuit breaker."""
    breaker_window_s: int = 30
    breaker_open_s: int = 30
    """How long none is called; then one call is tried."""
    tool_servers: str = ""
    """Servers outside that are on the loopback instead, for an emulated stage: JSON, URL by name."""
    agent: str = "support_desk"
    """The folder of the agent: its contracts and releases."""
    release: str = "support-desk-1"
    guardrail_strength: str = "MEDIUM"
    """Of the Bedrock guardrail's content filters: LOW, MEDIUM or HIGH; empty: no guardrail. Billed by text."""
    denied_topics: tuple[DeniedTopic, ...] = ()
    user_day_limit_micros: int
    tenant_month_limit_micros: int
    platform_month_limit_micros: int
    platform_shards: int
    user_runs_limit: int = 20
    """Runs of one user in flight."""
    tenant_runs_limit: int = 200
    tenant_jobs_limit: int
    """A tenant's jobs in the tool queue at once. At most half of `queue_concurrency`: whoever floods the queue leaves
    the other half to others, whose jobs begin at once."""

    def __post_init__(self) -> None:
        """Refuse what can't be deployed before anything is synthesized."""
        Cors.of(self.allowed_origins)
        if self.guardrail_strength not in ("", *STRENGTHS):
            raise ConfigurationInvalid(f"guardrail_strength: {self.guardrail_strength!r} is not one of {STRENGTHS}")

    def function_name(self, door: str) -> str:
        """Return the name of a door's function. One that isolates tenants is made so, and can't be changed into it."""
        name = self.resource_name(door)
        return f"{name}-by-tenant" if door == "run_tool" and self.isolates_tenants else name

    def limits(self, control_table: str) -> Any:  # noqa: ANN401 - keywords of several kinds, for `LimitedSettings`
        """Return the settings that every function has which keeps to limits."""
        names = [f.name for f in fields(LimitedSettings) if "_limit" in f.name]
        return {"control_table": control_table, **{name: getattr(self, name) for name in names}}

    def breaker_rules(self) -> Any:  # noqa: ANN401 - keywords, for `BreakerSettings`
        """Return the settings that every function has which calls models or tools."""
        return {f.name: getattr(self, f.name) for f in fields(BreakerSettings) if f.name.startswith("breaker_")}

    def resource_name(self, part: str) -> str:
        """Return the physical name of a part, such as a function."""
        return f"keepgate-{self.name}-{part.replace('_', '-')}"

    @property
    def secrets_prefix(self) -> str:
        """What the names of all tools' secrets begin with."""
        return f"keepgate/{self.name}"

    def overridden(self, context: Mapping[str, Any]) -> Self:
        """Return this stage with the fields that `context` has.

        Raises:
            pydantic.ValidationError: a value is not of its field's type; it names the field.
        """
        given = {f.name: context[f.name] for f in fields(self) if context.get(f.name) is not None and f.name != "name"}
        return TypeAdapter(type(self)).validate_python({**asdict(self), **given})


DEV = Stage(
    name="dev",
    keeps_data=False,
    log_retention="ONE_WEEK",
    firewall=False,
    alarms=False,
    password_sign_in=True,
    trace_exporter="xray",
    trace_share=1.0,
    api_rate=20,
    api_burst=40,
    create_rate=5,
    create_burst=10,
    requests_per_ip=1_000,
    reconnects_per_ip=3_000,
    queue_concurrency=4,
    user_day_limit_micros=1 * DOLLAR_MICROS,
    tenant_month_limit_micros=20 * DOLLAR_MICROS,
    platform_month_limit_micros=50 * DOLLAR_MICROS,
    platform_shards=2,
    tenant_jobs_limit=2,
)

PROD = Stage(
    name="prod",
    keeps_data=True,
    isolates_tenants=True,
    log_retention="THREE_MONTHS",
    firewall=True,
    alarms=True,
    password_sign_in=False,
    trace_exporter="xray",
    trace_share=0.2,
    api_rate=500,
    api_burst=1_000,
    create_rate=100,
    create_burst=200,
    requests_per_ip=2_000,
    reconnects_per_ip=6_000,
    queue_concurrency=20,
    user_day_limit_micros=5 * DOLLAR_MICROS,
    tenant_month_limit_micros=500 * DOLLAR_MICROS,
    platform_month_limit_micros=5_000 * DOLLAR_MICROS,
    platform_shards=16,
    tenant_jobs_limit=10,
)

LOCAL = Stage(
    name="local",
    emulated=True,
    release="support-desk-local-1",
    keeps_data=False,
    log_retention="ONE_DAY",
    guardrail_strength="",  # the emulator can't make one from a template
    firewall=False,  # the emulator can make a WebACL but not put it before an API
    alarms=True,
    password_sign_in=True,
    trace_exporter="none",
    trace_share=1.0,
    api_rate=500,
    api_burst=1_000,
    create_rate=500,
    create_burst=1_000,
    requests_per_ip=100_000,
    reconnects_per_ip=100_000,
    allowed_origins="http://localhost:3000",  # where a team's own page is tried out
    queue_concurrency=4,
    breaker_failures=100,  # one scripted model for all: what one test breaks should not stop the next
    user_day_limit_micros=5 * DOLLAR_MICROS,
    tenant_month_limit_micros=50 * DOLLAR_MICROS,
    platform_month_limit_micros=500 * DOLLAR_MICROS,
    platform_shards=4,
    user_runs_limit=200,
    tenant_runs_limit=500,
    tenant_jobs_limit=2,
)

STAGES: Mapping[str, Stage] = {stage.name: stage for stage in (DEV, PROD, LOCAL)}
