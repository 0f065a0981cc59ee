"""What the release's guards cost an answer: the window it streams through, and the judgement of the whole."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from agent.folding import fold
from agent.guard import About
from agent.hold_back import HoldBack
from agent.release import Release
from stacks.config import STAGES

AGENT = Path(__file__).resolve().parent.parent / "support_desk"
SENTENCE = "Order 1001 of Marta Keller left with DHL on 14 March 2026 under JD0146001001, 2 articles, 111.40 EUR. "
ANSWER = SENTENCE * 20
PIECE = 6
"""Characters: about what a token is."""


@dataclass(frozen=True)
class GuardCost:
    """Medians over the rounds, in milliseconds of CPU, of an answer of so many characters."""

    characters: int
    window_ms: float
    whole_ms: float
    held_back: int
    """Characters that have not left when the model stops: what a reader sees late."""


def measure(rounds: int) -> GuardCost:
    """Return what the guards of the local stage's release cost one answer."""
    release = Release.read(AGENT, STAGES["local"].release)
    guards = [guard for guard in release.guards if guard.at == "answer"]
    windows, wholes = [], []
    left = 0
    for _ in range(rounds + 1):
        began = time.process_time()
        held = HoldBack([guard for guard in guards if guard.response != "flag"], About("acme"))
        pieces = [ANSWER[place : place + PIECE] for place in range(0, len(ANSWER), PIECE)]
        left = sum(len(text) for piece in pieces for _, text in held.add(0, piece))
        windows.append((time.process_time() - began) * 1000)
        began = time.process_time()
        whole = fold(ANSWER)
        found = [finding for guard in guards for finding in guard.find(whole, About("acme"))]
        wholes.append((time.process_time() - began) * 1000)
        if found or held.has_fired:
            raise RuntimeError(f"not the harmless answer that was to be measured: {found}")
    return GuardCost(len(ANSWER), statistics.median(windows[1:]), statistics.median(wholes[1:]), len(ANSWER) - left)
