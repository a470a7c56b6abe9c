"""Compare texts with files of the repository. ``BASIQ_SNAPSHOTS=write`` writes the files anew."""

from __future__ import annotations

import os
from pathlib import Path


def assert_matches(text: str, file: Path) -> None:
    """Check that a text equals its snapshot. Spaces at the ends of lines are ignored."""
    found = "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"
    if os.environ.get("BASIQ_SNAPSHOTS") == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(found, encoding="utf-8")
    expected = file.read_text(encoding="utf-8") if file.exists() else ""
    assert found == expected, f"{file} is not what is shown now: `make generated` writes it anew"
