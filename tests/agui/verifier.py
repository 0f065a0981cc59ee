"""Pipes event streams through AG-UI's own client: one node process judges as many as a test has."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.node_lines import NodeLines

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Verdict:
    violations: list[str]
    messages: list[dict[str, Any]]
    """What the client would show once the stream is over."""


class Verifier(NodeLines):
    """Open it around the tests that need it."""

    def __init__(self) -> None:
        super().__init__(HERE / "verify.mjs")

    def judge(self, events: Sequence[dict[str, Any]], *, is_whole: bool = True) -> Verdict:
        return Verdict(**self.ask({"events": list(events), "is_whole": is_whole}))
