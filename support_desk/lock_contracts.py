"""Write contracts.lock.json, the reviewed copy of every tool's contract: `make lock-contracts`.

The infrastructure generates rights and timeouts from the file as data, without importing a tool. A test demands that
file and code are equal, so a change to a contract shows in the review as a change of this file.
"""

import json
from pathlib import Path

from support_desk.tools import TOOLS

PATH = Path(__file__).parent / "contracts.lock.json"


def locked() -> str:
    """Return what the file has to say: by tool, the contract and the hash that decisions bind."""
    contracts = {
        name: {"sha256": tool.contract.sha256(), "contract": tool.contract.model_dump(mode="json", by_alias=True)}
        for name, tool in sorted(TOOLS.items())
    }
    return json.dumps(contracts, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(locked(), encoding="utf-8")
