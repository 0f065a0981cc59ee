"""Child processes in sessions of their own, so that Ctrl-C reaches only us and we end exactly what we started.

Nothing of ours runs when we are killed. So a child that serves until it is stopped watches for that itself: we hold the
other end of its standard input, which the kernel closes with us.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
GRACE_S = 5.0


class ChildFailed(Exception):
    """A child ended when or how it should not have; the message ends with the last lines of its log."""


class Child:
    """A process and all it starts, from `with` to its end. Its output goes to a log file."""

    def __init__(self, name: str, command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def require_running(self) -> None:
        """Check that it runs.

        Raises:
            ChildFailed: it has ended.
        """
        if self._process.poll() is not None:
            raise self._failure(f"{self.name} ended with code {self._process.returncode}")

    def require_done(self, timeout_s: float) -> None:
        """Wait for its good end.

        Raises:
            ChildFailed: it failed, or took too long.
        """
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as slow:
            raise self._failure(f"{self.name} took longer than {timeout_s:.0f} s") from slow
        if code:
            raise self._failure(f"{self.name} ended with code {code}")

    def stop(self) -> None:
        """End the process and everything in its session."""
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        # The leader may be gone while something it started is not.
        self._signal(signal.SIGKILL)
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return

    def _failure(self, what: str) -> ChildFailed:
        lines = self._log.read_text(errors="replace").splitlines()
        said = "\n".join(line for line in lines[-25:] if line.strip())
        return ChildFailed(f"{what}; its log is {self._log} and ends with:\n{said}")


def end_with_parent() -> None:
    """Let this process, a `Child`, and all it starts end when whoever started it is gone."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os.killpg(0, signal.SIGTERM)
        time.sleep(GRACE_S)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def workers(state: Path, service: str) -> list[int]:
    """Return the processes that run a function of a local cloud now. Each works in a folder below the cloud's own."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            inside = (process / "cwd").resolve().is_relative_to(state.resolve())
        except OSError:  # it has ended, or is not ours
            continue
        if inside and f"KEEPGATE_SERVICE={service}".encode() in environment:
            found.append(int(process.name))
    return found


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """Return what children get of our environment: paths and language, no AWS setting of the person who starts us."""
    kept = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR", "SSL_CERT_FILE")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    here = str(Path(sys.executable).parent)
    return environment | {"PATH": f"{here}{os.pathsep}{environment.get('PATH', os.defpath)}"}
