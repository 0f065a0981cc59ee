"""What a wake brings to the agent's door: which run. Everything else about it stands in its log."""

from pydantic import BaseModel, ConfigDict

from agent.identity import RunId, TenantId


class WakeEvent(BaseModel):
    """The payload of an asynchronous invoke of `run_agent`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant_id: TenantId
    run_id: RunId
    traceparent: str | None = None
