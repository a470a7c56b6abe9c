"""Each guarantee names the tests that hold it, and they are there; the page on security fits one screen."""

from __future__ import annotations

import re

import pytest

from tests.support.environment import ROOT

PAGE = (ROOT / "SECURITY.md").read_text()
TABLES = (ROOT / "docs" / "security-guarantees.md").read_text()
ROWS = [line.strip("| ").rsplit(" | ", 1) for line in TABLES.splitlines() if line.startswith("| ")]
GUARANTEES = [(said, tests) for said, tests in ROWS if tests not in ("tests", "---")]
ABSOLUTE = re.compile(r"\b(never|has to|have to|must)\b", re.IGNORECASE)
LONGEST = 50
"""Lines of a page that fits one screen."""


@pytest.mark.parametrize(("said", "tests"), GUARANTEES, ids=[said[:60] for said, _ in GUARANTEES])
def test_a_guarantee_names_tests_that_are_there(said: str, tests: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", tests)
    assert len(named) == tests.count("`") // 2 > 0
    for file, function in named:
        text = (ROOT / file).read_text()
        assert not function or re.search(rf"^(async )?def {function}\(", text, re.MULTILINE), function
    sentences = [each for each in re.split(r"(?<=[.:]) ", said) if ABSOLUTE.search(each)]
    broken = [function for _, function in named if function]
    assert len(broken) >= len(sentences), "name the test that breaks it and sees the refusal"


def test_what_is_outside_of_the_tables_promises_nothing() -> None:
    others = [line for line in TABLES.split("## Where", 1)[1].splitlines() if not line.startswith("|")]
    assert [line for line in [*PAGE.splitlines(), *others] if ABSOLUTE.search(line)] == []


def test_the_page_fits_one_screen_and_leads_to_the_guarantees() -> None:
    assert len(PAGE.splitlines()) <= LONGEST
    assert "`docs/security-guarantees.md`" in PAGE
    assert len(GUARANTEES) > 40
