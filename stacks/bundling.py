"""What the functions' code is made of."""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("agent", "lambdas", "support_desk")


def source_bundle() -> Path:
    """Return the code of all functions without packages: the local cloud has them already."""
    folder = ROOT / "build" / "source"
    shutil.rmtree(folder, ignore_errors=True)
    for source in SOURCES:
        shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
    return folder
