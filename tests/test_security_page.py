"""docs/security.md is true: what it names exists and passed in this very session, and its lists are complete."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import OUTCOMES

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py::test_\w+)`", PAGE)))


def functions(path: str) -> set[str]:
    """Return the names of the tests in a file, without running any of it."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_the_page_names_exists_and_passed_where_it_ran(named: str, request: pytest.FixtureRequest) -> None:
    path, name = named.split("::")
    assert name in functions(path)
    outcomes = request.config.stash[OUTCOMES].get(named, set())
    everything_ran = request.config.args_source is pytest.Config.ArgsSource.TESTPATHS
    assert outcomes == {"passed"} or not (outcomes or everything_ran), (
        "what proves a promise has failed, or did not run"
    )


def test_every_name_of_a_test_on_the_page_is_written_so_that_it_is_checked() -> None:
    assert PAGE.count("tests/") == PAGE.count("`tests/")
    assert len(re.findall(r"`tests/[\w/]+\.py(?!`|::test_\w+`)", PAGE)) == 0


@pytest.mark.parametrize("number", range(1, 10))
def test_each_invariant_is_shown_and_its_guard_broken_on_purpose(number: int) -> None:
    [invariant] = re.findall(rf"^{number}\. \*\*.*?(?=^{number + 1}\. \*\*|^## )", PAGE, re.S | re.M)
    shown, broken = invariant.split("Broken on purpose:")
    assert "::test_" in shown.partition("Shown:")[2]
    assert "::test_" in broken


@pytest.mark.parametrize("risk", [f"{of}{number:02d}" for of in ("LLM", "ASI") for number in range(1, 11)])
def test_each_risk_of_owasps_lists_has_its_control_and_a_test_or_an_honest_gap(risk: str) -> None:
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| {risk} ")]
    _, _, control, proof, _ = row.split("|")
    assert len(control) > 20
    assert "::test_" in proof or "**Gap:**" in row
