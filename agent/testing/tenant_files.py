"""A bucket in memory: the twin of `agent.aws.tenant_files`, held to the same contract suite."""

from agent.errors import ConfigurationInvalid
from agent.tenant_items import file_key


class MemoryTenantFiles:
    """`tools.TenantFiles` of one run, in a dict of keys to contents."""

    def __init__(self, objects: dict[str, bytes], tenant_id: str, run_id: str, *, may_write: bool = True) -> None:
        self._objects = objects
        self._tenant_id = tenant_id
        self._run_id = run_id
        self._may_write = may_write

    def write(self, name: str, content: bytes, *, content_type: str) -> str:  # noqa: ARG002 - nobody reads it here
        """See `tools.TenantFiles`."""
        key = file_key(self._tenant_id, self._run_id, name)
        if not self._may_write:
            raise ConfigurationInvalid("the contract does not say that the tool writes files")
        self._objects[key] = content
        return key
