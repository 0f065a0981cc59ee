"""The lock is enforced: at a synth, at a function's start; and what changes with it is told in words."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.contract_lock import FILE, contracts, differences, locked, read, require_locked
from agent.errors import ConfigurationInvalid
from agent.tools import Tool
from support_desk.lock_contracts import FOLDER, PATH
from support_desk.tools import TOOLS


def changed(**fields: Any) -> dict[str, Tool[Any]]:
    """Return the desk's tools, with these fields of a refund's contract."""
    refund = TOOLS["issue_refund"]
    return {**TOOLS, "issue_refund": replace(refund, contract=refund.contract.model_copy(update=fields))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (FILE, "limits.toml"):
        shutil.copy(FOLDER / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("stage", ["dev", "prod", "local"])
def test_the_desks_tools_are_the_locked_ones(stage: str) -> None:
    require_locked(TOOLS, FOLDER, stage)


@pytest.mark.parametrize(
    ("tools", "named"),
    [
        (changed(timeout_s=11), "issue_refund"),
        (changed(data_actions=()), "issue_refund"),
        ({name: tool for name, tool in TOOLS.items() if name != "save_draft"}, "save_draft"),
        ({**TOOLS, "another": TOOLS["save_draft"]}, "another"),
    ],
)
def test_a_tool_that_is_not_as_reviewed_is_refused_by_name(tools: dict[str, Tool[Any]], named: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=f"not as reviewed: {named};"):
        require_locked(tools, FOLDER, "prod")


def test_a_lock_that_was_edited_by_hand_is_refused(folder: Path) -> None:
    path = folder / FILE
    lock = json.loads(path.read_text())
    lock["issue_refund"]["contract"]["data_actions"].append("dynamodb:PutItem")
    path.write_text(json.dumps(lock))
    with pytest.raises(ConfigurationInvalid, match="issue_refund"):
        require_locked(TOOLS, folder, "prod")
    with pytest.raises(ConfigurationInvalid, match="issue_refund"):
        contracts(path)


def test_a_lock_that_is_gone_or_no_json_is_refused(folder: Path) -> None:
    (folder / FILE).write_text("{")
    with pytest.raises(ConfigurationInvalid, match="no JSON"):
        require_locked(TOOLS, folder, "prod")
    (folder / FILE).unlink()
    with pytest.raises(ConfigurationInvalid, match="not as reviewed"):
        require_locked(TOOLS, folder, "prod")


def test_an_allowance_without_a_number_is_refused(folder: Path) -> None:
    path = folder / "limits.toml"
    path.write_text(path.read_text().replace('"amount_cents.tenant_day" = 1_000_000\n', "", 1))
    with pytest.raises(ConfigurationInvalid, match=r"issue_refund\.amount_cents\.tenant_day"):
        require_locked(TOOLS, folder, "prod")


def test_the_contracts_as_data_are_those_of_the_tools() -> None:
    assert contracts(PATH) == {name: tool.contract for name, tool in TOOLS.items()}


def test_what_changes_is_told_and_rights_stand_out() -> None:
    after = locked(changed(data_actions=("dynamodb:GetItem",), trusted=False, timeout_s=20))
    lines = list(differences(read(PATH), after))
    assert lines == [
        "issue_refund: changed",
        "! data_actions: - dynamodb:Query",
        "! data_actions: - dynamodb:PutItem",
        "! trusted: true → false",
        "  timeout_s: 10 → 20",
    ]
    back = list(differences(after, read(PATH)))
    assert "! data_actions: + dynamodb:PutItem" in back


def test_a_new_tool_shows_its_rights_and_one_that_went_says_so() -> None:
    before = read(PATH)
    del before["save_draft"]
    lines = list(differences(before, read(PATH)))
    assert lines[0] == "save_draft: new"
    assert "! effect: write" in lines
    assert '! data_actions: ["dynamodb:GetItem","dynamodb:PutItem"]' in lines
    assert list(differences(read(PATH), before)) == ["save_draft: gone"]


def test_a_changed_argument_is_told() -> None:
    schema = json.loads(json.dumps(TOOLS["issue_refund"].contract.schema_))
    schema["properties"]["amount_cents"]["maximum"] = 5
    schema["properties"]["note"] = {"type": "string"}
    del schema["properties"]["reason"]
    lines = list(differences(read(PATH), locked(changed(schema_=schema))))
    assert '  argument note: + {"type":"string"}' in lines
    assert any(line.startswith("  argument reason: - ") for line in lines)
    assert any(line.startswith("  argument amount_cents: ") and "→" in line for line in lines)


def test_no_difference_says_nothing() -> None:
    assert list(differences(read(PATH), locked(TOOLS))) == []


def test_the_command_checks_without_writing() -> None:
    before = PATH.read_text()
    done = subprocess.run(
        [sys.executable, "-m", "support_desk.lock_contracts", "--check"], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    assert PATH.read_text() == before
