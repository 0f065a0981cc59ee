"""`make new-tool` in a copy of the tree: what it adds works, is linted, permitted as it says, locked, and released."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from local.processes import ROOT
from stacks.config import STAGES

PARTS = ("agent", "bench", "lambdas", "local", "ops", "stacks", "support_desk", "tests", "pyproject.toml", "app.py")
TOOLS = {
    "lookup_parcel": "read",
    "save_note": "write",
    "remove_account": "destructive",
    "send_parcel": "external",
    "check_order": "read",  # of a kind that there is
}
AFFECTED = ("policy", "policy_matrix", "policy_lint", "tools", "contract_lock", "allowances")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("tree")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, copy / part)
    for name, effect in TOOLS.items():
        run(copy, "local.new_tool", name, effect)
    return copy


def run(tree: Path, module: str, *arguments: str, expect: int = 0) -> str:
    command: Sequence[str] = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_what_it_adds_passes_its_own_tests_and_all_that_look_at_every_tool(tree: Path) -> None:
    names = [*TOOLS, *AFFECTED]
    told = run(tree, "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/unit/test_{name}.py" for name in names))
    assert "passed" in told


def test_what_it_adds_is_formatted_and_linted(tree: Path) -> None:
    run(tree, "ruff", "check", "support_desk", "tests/unit")
    run(tree, "ruff", "format", "--check", "support_desk", "tests/unit")


def test_what_it_adds_is_in_the_lock_and_in_a_release_that_no_stage_runs_yet(tree: Path) -> None:
    assert run(tree, "support_desk.lock_contracts", "--check") == ""
    ours, theirs = (
        {path.stem: path.read_text() for path in (root / "support_desk" / "releases").iterdir()}
        for root in (ROOT, tree)
    )
    assert all(theirs[stage.release] == ours[stage.release] for stage in STAGES.values())
    [new] = theirs.keys() - ours.keys()
    offered = re.search(r"(?m)^tools = \[(.*)\]", theirs[new])
    assert offered is not None
    assert [name for name in TOOLS if f'"{name}"' not in offered[1]] == []


@pytest.mark.parametrize("name", ["lookup_order", "lookup_parcel", "parcel", "Lookup_Parcel", "../x_y", "a_b", ""])
def test_a_name_that_is_taken_or_none_is_refused_and_changes_nothing(tree: Path, name: str) -> None:
    before = {path: path.read_bytes() for path in (tree / "support_desk").rglob("*.*") if path.is_file()}
    assert "error:" in run(tree, "local.new_tool", name, "read", expect=2)
    assert {path: path.read_bytes() for path in before} == before


def test_an_effect_that_there_is_not_is_refused(tree: Path) -> None:
    assert "harmless" in run(tree, "local.new_tool", "mend_lamp", "harmless", expect=2)
    assert not (tree / "support_desk" / "tools" / "mend_lamp.py").exists()


def test_a_file_of_another_shape_is_named_and_nothing_is_written(tree: Path) -> None:
    policy = tree / "tests" / "unit" / "test_policy.py"
    shape = policy.read_text()
    policy.write_text(shape.replace("EXAMPLES: ", "SAMPLES: "))
    before = {path: path.read_bytes() for path in tree.rglob("*.*") if path.is_file() and path.suffix != ".pyc"}
    try:
        told = run(tree, "local.new_tool", "mend_lamp", "read", expect=2)
    finally:
        after = {path: path.read_bytes() for path in tree.rglob("*.*") if path.is_file() and path.suffix != ".pyc"}
        policy.write_text(shape)
    assert "tests/unit/test_policy.py has not the shape" in told
    assert "nothing was written" in told
    assert after == before
