"""Each row of docs/guarantees.md has tests that fail if it is not true: ``guarantees.txt`` names them."""

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
def test_each_row_names_tests_that_are_there(heading: str) -> None:
    rows = re.findall(r"^\| (.*?) \|", section(PAGE, heading), re.MULTILINE)[2:]
    named = re.findall(r"^(\S.*)\n((?:    .*\n?)+)", section(NAMED, heading), re.MULTILINE)
    assert rows
    assert [beginning for beginning, _ in named if not any(row.startswith(beginning) for row in rows)] == []
    for row in rows:
        found = [tests for beginning, tests in named if row.startswith(beginning)]
        assert len(found) == 1, f"{row!r}: guarantees.txt has {len(found)} beginnings of it"
        for test in map(str.strip, found[0].splitlines()):
            if not test.startswith("none: "):
                file, _, name = test.partition("::")
                assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{row!r}: {test} is not there"
