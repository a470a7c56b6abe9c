"""The map of the code names files that are there."""

from __future__ import annotations

import re

from tests.support.environment import ROOT

MAP = ROOT / "docs" / "how-it-works.md"


def test_each_file_that_the_map_names_is_there() -> None:
    files = [path.as_posix() for place in ("basiq_async", "tests") for path in (ROOT / place).rglob("*.py")]
    named = set(re.findall(r"`([\w/]+\.py)`", MAP.read_text()))
    assert len(named) > 20
    for name in named:
        assert any(path.endswith(f"/{name}") for path in files), name
