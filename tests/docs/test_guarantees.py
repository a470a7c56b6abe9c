"""Each row of docs/guarantees.md has a test that fails if it is not true: ``guarantees.txt`` names it.

The table of a fleet has tests of its own, row by row: ``tests/distributed/test_guarantees.py``.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.environment import ROOT

PAGE = (ROOT / "docs" / "guarantees.md").read_text()
NAMED = Path(__file__).with_name("guarantees.txt").read_text()
HEADINGS = ("Live deliveries", "Deferred handlers", "Replays", "Recoveries")


def section(text: str, heading: str) -> str:
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("heading", HEADINGS)
def test_each_row_names_a_test_that_is_there(heading: str) -> None:
    rows = re.findall(r"^\| (.*?) \|", section(PAGE, heading), re.MULTILINE)[2:]
    named = re.findall(r"^(\S.*)\n    (.*)$", section(NAMED, heading), re.MULTILINE)
    assert rows
    assert [beginning for beginning, _ in named if not any(row.startswith(beginning) for row in rows)] == []
    for row in rows:
        found = [test for beginning, test in named if row.startswith(beginning)]
        assert len(found) == 1, f"{row!r}: guarantees.txt names {len(found)} tests"
        if not found[0].startswith("none: "):
            file, _, name = found[0].partition("::")
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{row!r}: {found[0]} is not there"
