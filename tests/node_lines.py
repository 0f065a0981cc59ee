"""A Node script that answers each line of JSON with one, kept open for as many questions as its tests have."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class NodeLines:
    """Open it around the tests that need it."""

    def __init__(self, script: Path) -> None:
        self._script = script

    def __enter__(self) -> Self:
        node = Path(sys.executable).with_name("node")
        self._process = subprocess.Popen(
            [node, self._script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            assert self._process.stdin
            self._process.stdin.close()

    def ask(self, question: object) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"{self._script.name} died; its last words are on stderr"
        return json.loads(line)
