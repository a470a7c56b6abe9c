"""The map of the code names files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.environment import ROOT

MAPS = [ROOT / "docs" / "how-it-works.md", ROOT / "docs" / "maintaining.md"]


@pytest.mark.parametrize("page", MAPS, ids=lambda page: page.stem)
def test_each_file_that_the_map_names_is_there(page: Path) -> None:
    files = [path.as_posix() for place in ("basiq_async", "tests") for path in (ROOT / place).rglob("*.*")]
    named = set(re.findall(r"`([\w/]+\.(?:py|sql))`", page.read_text()))
    assert len(named) > 15
    for name in named:
        assert any(path.endswith(f"/{name}") for path in files), name
