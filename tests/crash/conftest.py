"""How many crash points were tried is part of the result: it stands at the end of pytest's output, `-q` or not."""

from collections import Counter
from collections.abc import Callable

import pytest

TRIED = pytest.StashKey[Counter[str]]()


@pytest.fixture
def crash_points(pytestconfig: pytest.Config) -> Callable[[str, int], None]:
    """Tell how many points of a scenario were tried."""

    def tell(scenario: str, points: int) -> None:
        pytestconfig.stash.setdefault(TRIED, Counter())[scenario] += points

    return tell


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    tried = config.stash.get(TRIED, None)
    if tried:
        terminalreporter.section("crash points", sep="-")
        terminalreporter.line(", ".join(f"{scenario} {points}" for scenario, points in tried.items()))
        terminalreporter.line(f"{tried.total()} crash points tried")
