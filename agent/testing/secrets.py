"""Tools' secrets in memory: the twin of `agent.aws.secrets`, held to the same contract suite."""

from agent.contracts import Contract
from agent.identity import Principal
from agent.secrets import KEPT_S, MAX_CHARACTERS, MIN_CHARACTERS, need_of, path
from agent.testing.clock import FakeClock
from agent.tools import ReadSecret, ToolFailed

PREFIX = "keepgate/test"


class MemorySecrets:
    """All tenants' secrets under their paths; what has been read is kept for as long as on AWS."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.values: dict[str, str] = {}
        self.reads: list[str] = []
        """Each path that was looked up, not only remembered."""
        self._clock = clock or FakeClock()
        self._kept: dict[str, tuple[float, str]] = {}

    def reader(self, principal: Principal, contract: Contract) -> ReadSecret:
        """Return what reads the secrets of one call."""

        def read(name: str, *, fresh: bool = False) -> str:
            at = path(PREFIX, need_of(contract, name), principal)
            now = self._clock.monotonic()
            read_at, value = self._kept.get(at, (0.0, ""))
            if fresh or not value or now - read_at >= KEPT_S:
                self.reads.append(at)
                value = self.values.get(at, "")
                if not MIN_CHARACTERS <= len(value) <= MAX_CHARACTERS:
                    raise ToolFailed("secret_unavailable", "A key that this tool needs is not set up.")
                read_at = now
            self._kept[at] = read_at, value
            return value

        return read
