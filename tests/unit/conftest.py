"""Every log that a unit test leaves behind is looked at: each prefix can be sent, and each session can go on."""

from collections.abc import Iterator

import pytest

from agent.run_state import RunState, step
from agent.testing.run_log import MemoryRunLog
from tests.demands import require_sendable, require_session_goes_on


@pytest.fixture(autouse=True)
def _every_log_is_sound(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    logs: list[MemoryRunLog] = []
    make = MemoryRunLog.__init__

    def make_and_remember(self: MemoryRunLog) -> None:
        make(self)
        logs.append(self)

    monkeypatch.setattr(MemoryRunLog, "__init__", make_and_remember)
    yield
    for used in logs:
        log = MemoryRunLog.__new__(MemoryRunLog)  # what was stored, without the methods that a test has broken
        vars(log).update((name, value) for name, value in vars(used).items() if name.startswith("_"))
        for tenant_id, run_id in list(log._events):
            state: RunState | None = None
            for event in log.events(tenant_id, run_id):
                state = step(state, event)
                require_sendable(state)
            header = log.header(tenant_id, run_id)
            if header is not None and header.session_id is not None:
                require_session_goes_on(log, header)
