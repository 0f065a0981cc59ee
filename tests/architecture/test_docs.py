"""What the docs point at is there: files, and pages of their own."""

import re
from pathlib import Path

import pytest

from local.processes import ROOT

PAGES = [ROOT / "README.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").rglob("*.md"))]
MADE = (".local/",)
"""Written when the product runs, so not in a clone."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    named = [ROOT / path for path in re.findall(r"`([\w./-]+/[\w./-]*)`", text) if not path.startswith((*MADE, "/"))]
    linked = [page.parent / path for path in re.findall(r"\]\(([^)#:]+)[#)]", text)]
    assert [str(path) for path in (*named, *linked) if not path.exists()] == []


def test_pages_name_files() -> None:
    assert sum(len(re.findall(r"`[\w./-]+\.py`", page.read_text())) for page in PAGES) > 30
