"""Pipes event streams through AG-UI's own client: one node process judges as many as a test has."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Verdict:
    violations: list[str]
    messages: list[dict[str, Any]]
    """What the client would show once the stream is over."""


class Verifier:
    """Open it around the tests that need it."""

    def __enter__(self) -> Self:
        node = Path(sys.executable).with_name("node")
        self._process = subprocess.Popen(
            [node, HERE / "verify.mjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            assert self._process.stdin
            self._process.stdin.close()

    def judge(self, events: Sequence[dict[str, Any]], *, is_whole: bool = True) -> Verdict:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"events": list(events), "is_whole": is_whole}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the verifier died; its last words are on stderr"
        return Verdict(**json.loads(line))
