"""What tools tell while they work, in memory."""

from dataclasses import dataclass, field


@dataclass
class MemoryProgressNotes:
    """`ports.ProgressNotes`."""

    notes: dict[tuple[str, str, str, int, int], str] = field(default_factory=dict)

    def write(self, tenant_id: str, run_id: str, call_id: str, *, attempt: int, index: int, text: str) -> None:
        """See `ports.ProgressNotes`."""
        self.notes[tenant_id, run_id, call_id, attempt, index] = text

    def read(self, tenant_id: str, run_id: str, call_id: str, *, attempt: int, from_index: int) -> list[str]:
        """See `ports.ProgressNotes`."""
        start = (tenant_id, run_id, call_id, attempt)
        return [text for key, text in sorted(self.notes.items()) if key[:4] == start and key[4] >= from_index]
