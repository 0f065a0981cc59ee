"""Write contracts.lock.json and say what changes with it: `make lock-contracts`.

With `--check` nothing is written, and a difference is an error. What the lock is for says `agent.contract_lock`.
"""

import sys
from pathlib import Path

from agent import contract_lock
from agent.errors import ConfigurationInvalid
from support_desk.tools import TOOLS

FOLDER = Path(__file__).parent
PATH = FOLDER / contract_lock.FILE


def main(*, check: bool) -> int:
    """Print what differs between the file and the code, and make the file what the code says."""
    before, after = contract_lock.read(PATH), contract_lock.locked(TOOLS)
    lines = list(contract_lock.differences(before, after))
    sys.stdout.writelines(f"{line}\n" for line in lines)
    if any(line.startswith("!") for line in lines):
        sys.stdout.write("\nLines with ! change what a tool may do: have them reviewed.\n")
    if check:
        return int(before != after)
    PATH.write_text(contract_lock.text_of(after), encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(check="--check" in sys.argv[1:]))
    except ConfigurationInvalid as wrong:
        sys.exit(f"error: {wrong}")
