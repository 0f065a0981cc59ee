"""What an agent's folder says wrong is found before it is deployed, and named."""

import shutil
from pathlib import Path

import pytest

from agent.configuration import require_deployable
from agent.errors import ConfigurationInvalid
from agent.pinned_tools import read
from stacks.config import STAGES
from support_desk.lock_contracts import FOLDER
from support_desk.tools import TOOLS

LOCAL = STAGES["local"]
RELEASE = f"releases/{LOCAL.release}.toml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(FOLDER, tmp_path / FOLDER.name, ignore=shutil.ignore_patterns("__pycache__"))


def require(folder: Path, stage: str = "local") -> None:
    require_deployable(folder, TOOLS, release=STAGES[stage].release, stage=stage, stages=STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_of_the_desk_can_be_deployed(stage: str) -> None:
    require(FOLDER, stage)


@pytest.mark.parametrize(
    ("file", "before", "after", "named"),
    [
        (RELEASE, "max_turns", "max_turn", r"caps\.max_turns: Field required; caps\.max_turn: Extra inputs"),
        (RELEASE, "max_turns = 8", "max_turns = -1", r"caps\.max_turns: "),
        (RELEASE, 'check = "pii"', 'check = "pie"', r"guards\.5: .*'pie'.* 'pii'"),
        (RELEASE, 'kinds = ["card"', 'kinds = ["cards"', r"guards\.5\.pii\.kinds\.0: "),
        (RELEASE, 'unless_done = "issue_refund"', 'unless_done = "refund"', r"guards\.10: .*'refund'"),
        (RELEASE, "support-desk-1.md", "gone.md", r"prompts/gone\.md can't be read"),
        (RELEASE, '"search_policy"', '"search_polcy"', "there is no tool search_polcy"),
        (RELEASE, 'name = "track_parcel"', 'name = "track"', "`make lock-mcp` for parcels__track"),
        (RELEASE, 'sha256 = "6', 'sha256 = "7', "parcels__track_parcel is pinned otherwise"),
        (RELEASE, "[caps]", "[caps", "line"),
        (RELEASE, "[caps]", "[caps]\nmax_turns = 8", "line"),
        (RELEASE, "claude-haiku-4-5", "claude-haiku-4-6", "no price for model .*claude-haiku-4-6"),
        ("limits.toml", "[issue_refund]", "[issue_refnd]", r"issue_refnd\.amount_cents\.user_day"),
        ("limits.toml", "[search_policy]", "[stages.prd.search_policy]", r"stages\.prd: .* dev, prod, local"),
        ("limits.toml", "# What calls", "save_draft = 5\n# What calls", "save_draft is no table"),
        ("policies/support_desk.cedar", "permit (", "permt (", "policies: .*permt"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, file: str, before: str, after: str, named: str) -> None:
    path = folder / file
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(ConfigurationInvalid, match=named) as refused:
        require(folder)
    assert str(folder) not in str(refused.value)
    assert "pydantic" not in str(refused.value)


def test_what_is_no_text_is_named(folder: Path) -> None:
    (folder / RELEASE).write_bytes(b"\xff")
    with pytest.raises(ConfigurationInvalid, match=LOCAL.release):
        require(folder)


def test_a_lock_of_servers_tools_that_is_missing_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"mcp\.lock\.json can't be read; `make lock-mcp` writes it"):
        read(tmp_path / "mcp.lock.json")
