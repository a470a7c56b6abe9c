"""Each guarantee of SECURITY.md names the tests that hold it, and they are there."""

from __future__ import annotations

import re

import pytest

from tests.support.environment import ROOT

TEXT = (ROOT / "SECURITY.md").read_text().split("## The guarantees")[1].split("### Known limits")[0]
GUARANTEES = [" ".join(each.split()) for each in re.split(r"^- ", TEXT, flags=re.MULTILINE)[1:]]


@pytest.mark.parametrize("guarantee", [each for each in GUARANTEES if not each.startswith("Not covered")])
def test_a_guarantee_names_tests_that_are_there(guarantee: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", guarantee.partition("Tests: ")[2])
    assert named, "this row names no test"
    assert [each for each in named if not (ROOT / each).is_file()] == []
