"""How much a hostile model was let do is part of the result: it stands at the end of pytest's output, `-q` or not."""

from collections import Counter

import pytest

PLAYED = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[PLAYED] = Counter()


@pytest.fixture
def played(request: pytest.FixtureRequest) -> Counter[str]:
    """Count what is played here: turns, and calls by tool."""
    return request.config.stash[PLAYED]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    played = config.stash[PLAYED]
    if played:
        terminalreporter.section("hostile model", sep="-")
        terminalreporter.line(", ".join(f"{what} {count}" for what, count in played.most_common()))
