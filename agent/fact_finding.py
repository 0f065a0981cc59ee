"""Room 3's other answer: what a resource is, for the policy that is about to decide whether a tool may act on it.

Only ids come in, and nothing goes out but the few typed fields that the tool's contract declares. It is read with the
tenant's session, narrowed to what the contract's actions may read. Room 2 decides; what it decides on stands in the
decision. A resource that is not there is an answer (None); one that can't be read is an error, never a guess.
"""

import logging

from pydantic import BaseModel, ConfigDict, Field

from agent.contracts import TOOL_NAME
from agent.decided_call import ToolRoom
from agent.errors import FactsUnavailable, StoreUnavailable, describe
from agent.identity import RunId, TenantId
from agent.tools import Facts

logger = logging.getLogger(__name__)


class FactsQuery(BaseModel):
    """What travels to room 3: which resource of which tenant, for a call of which tool in which run."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    tenant_id: TenantId
    run_id: RunId
    tool: str = Field(pattern=TOOL_NAME)
    resource: str = Field(max_length=200)
    """`Type::id`."""
    traceparent: str | None = None


def find_facts(room: ToolRoom, query: FactsQuery) -> Facts | None:
    """Return what policy is told of a resource of the run's tenant; None where there is no such resource.

    Raises:
        FactsUnavailable: it can't be read, or nobody may ask: no such run under way, or the tool declares no facts.
    """
    try:
        return _found(room, query)
    except StoreUnavailable as trouble:
        raise FactsUnavailable("the data can't be reached at the moment") from trouble
    except FactsUnavailable:
        raise
    except Exception as error:
        # Not `exception`: its traceback ends in the message, which may quote the tenant's data.
        logger.error("facts could not be read", extra={"tool": query.tool, **describe(error)})  # noqa: TRY400
        raise FactsUnavailable("the facts could not be read") from error


def _found(room: ToolRoom, query: FactsQuery) -> Facts | None:
    tool = room.tools.get(query.tool)
    if tool is None or tool.facts is None:
        raise FactsUnavailable("the tool declares no facts")
    kind, _, resource_id = query.resource.partition("::")
    if kind != tool.contract.resource.partition("::")[0]:
        raise FactsUnavailable("the tool acts on resources of another kind")
    header = room.log.header(query.tenant_id, query.run_id)
    if header is None or header.is_over:
        raise FactsUnavailable("there is no such run under way")
    return tool.facts.read(room.access.data(query.tenant_id, tool.contract.reading()), resource_id)
