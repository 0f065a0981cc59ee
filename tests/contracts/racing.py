"""Threads that begin together."""

import threading
from collections.abc import Callable
from typing import Any


def race(attempts: list[Callable[[], Any]]) -> list[Any]:
    """Run all at once and return their answers."""
    start = threading.Barrier(len(attempts))
    answers: list[Any] = []

    def run(attempt: Callable[[], Any]) -> None:
        start.wait()
        try:
            answers.append(attempt())
        except Exception as failure:  # noqa: BLE001 - a thread's failure is an answer the test does not expect
            answers.append(failure)

    threads = [threading.Thread(target=run, args=(attempt,)) for attempt in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
