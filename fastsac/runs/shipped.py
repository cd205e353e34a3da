"""Files that come with fastsac and are no code."""

import os
from pathlib import Path


def shipped(name: str) -> Path:
    """Returns a folder of results/, which an installed package has as its own."""
    package = Path(__file__).resolve().parents[1]
    installed = package / name
    return installed if os.path.isdir(installed) else package.parent / "results" / name
