"""Where a reader stands in a run's event stream: `seq.index.offset`.

After the event with this index among those that log entry `seq` gives rise to, and for text after so many characters
of the answer. `project_agui` gives the numbers their meaning; here is only how they are ordered and written.
"""

import re
from dataclasses import dataclass
from typing import Self

from agent.errors import InputInvalid

SHAPE = r"[0-9]{1,9}(\.[0-9]{1,9}){2}"


@dataclass(frozen=True, order=True)
class Cursor:
    """A reader's position: everything up to here has been delivered."""

    seq: int
    index: int
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.seq}.{self.index}.{self.offset}"

    @classmethod
    def parse(cls, text: str, *, field: str) -> Self:
        """Return the position that `str` wrote.

        Raises:
            InputInvalid: it is none; `field` says where it came from.
        """
        if not re.fullmatch(SHAPE, text, re.ASCII):
            raise InputInvalid("a position is the id of an event of this run", field=field)
        seq, index, offset = map(int, text.split("."))
        return cls(seq, index, offset)


BEGINNING = Cursor(0, 0)
