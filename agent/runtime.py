"""Everything a run is worked on with: the ports, the tools, the releases, the prices, the hooks. Wired in the doors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.dispatch import Dispatcher
from agent.hooks import Hooks
from agent.ports.breakers import Breakers
from agent.ports.clock import Clock
from agent.ports.controls import ControlBook
from agent.ports.directory import Directory
from agent.ports.limits import Allowances, LimitBook
from agent.ports.model import Model
from agent.ports.money import Ledger
from agent.ports.policy import Policy
from agent.ports.run_log import RunLog
from agent.ports.tool_room import ResourceFacts, ToolRunner
from agent.ports.wake import Wake
from agent.pricing import Prices
from agent.release import Release
from agent.tools import Tool


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What `loop.hold` needs besides the run."""

    log: RunLog
    ledger: Ledger
    allowances: Allowances
    limits: LimitBook
    model: Model
    tool_runner: ToolRunner
    facts: ResourceFacts
    dispatcher: Dispatcher
    wake: Wake
    breakers: Breakers
    controls: ControlBook
    policy: Policy
    directory: Directory
    clock: Clock
    random: Callable[[], float]
    """Numbers in [0, 1), for jitter alone."""
    releases: Callable[[str], Release]
    """Raises `ConfigurationInvalid` for a release there is not."""
    tools: Mapping[str, Tool[Any]]
    """Contracts and argument types. The functions in them are not called here: the tool room does."""
    prices: Prices
    hooks: Hooks = field(default_factory=Hooks)
    listen_every_s: float = 0.5
    """How long a call in progress goes on at most before the run's header is read again."""
    drain_s: float = 3.0
    """How long an interrupted model stream is read on, after the end is recorded, for the usage it closes with."""
