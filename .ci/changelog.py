"""Moves what stands in changelog.d into CHANGELOG.md, under the heading [Unreleased]."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHANGELOG = ROOT / "CHANGELOG.md"
HEADING = "## [Unreleased]\n"


def fragments(folder: Path = ROOT / "changelog.d") -> list[Path]:
    """Return the files of changes that are not in CHANGELOG.md yet."""
    return sorted(path for path in folder.glob("*.md") if path.name != "README.md")


def collected(text: str, found: list[Path]) -> str:
    """Return the changelog with these changes."""
    if HEADING not in text:
        text = re.sub(r"^(?=## \[)", f"{HEADING}\n", text, count=1, flags=re.MULTILINE)
    before, heading, rest = text.partition(HEADING)
    noted, mark, older = rest.partition("\n## [")
    lines = [part for part in (noted.strip("\n"), *(path.read_text().strip("\n") for path in found)) if part]
    return before + heading + "".join(f"\n{part}\n" for part in ["\n".join(lines)] if part) + mark + older


if __name__ == "__main__":
    moved = fragments()
    CHANGELOG.write_text(collected(CHANGELOG.read_text(), moved))
    for path in moved:
        path.unlink()
    print(f"CHANGELOG.md: {len(moved)} change(s) more under [Unreleased]")
