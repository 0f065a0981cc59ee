"""One normalised snapshot a stack of prod, so that a review sees what a change to the stacks means in CloudFormation.

Renew them with `RENEW_SNAPSHOTS=1 .venv/bin/pytest tests/infrastructure/test_snapshots.py`, and read the diff.
"""

import json
import os
import re
from pathlib import Path

import pytest

from tests.infrastructure.templates import Deployment

FOLDER = Path(__file__).parent / "snapshots"


def normalised(document: dict[str, object]) -> str:
    """Return a template as text, without what changes with each change of code."""
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    text = re.sub(r"\b[0-9a-f]{64}\b", "ASSET", text)
    return re.sub(r"(Deployment[0-9A-F]{8})[0-9a-f]{32}", r"\1HASH", text)


@pytest.mark.parametrize("part", ["State", "Agent", "Edge", "Observability"])
def test_a_stack_is_as_its_snapshot_says(prod: Deployment, part: str) -> None:
    path = FOLDER / f"{part.lower()}.json"
    synthesized = normalised(prod[part].document)
    if os.environ.get("RENEW_SNAPSHOTS"):
        path.write_text(synthesized, encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(synthesized)
