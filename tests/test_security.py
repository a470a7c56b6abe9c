"""Each guarantee has tests that hold it, in ``security.txt``; the page on security fits one screen."""

from __future__ import annotations

import re

import pytest

from tests.support.environment import ROOT

PAGE = (ROOT / "SECURITY.md").read_text()
GUARANTEES, _, LIMITS = (ROOT / "docs" / "security-guarantees.md").read_text().partition("## Not covered\n")
SAID = [" ".join(each.split()) for each in re.findall(r"^- (.*\n(?:  .*\n)*)", GUARANTEES, re.MULTILINE)]
NAMED = re.findall(r"^(\S.*)\n((?:    .*\n)+)", (ROOT / "tests" / "security.txt").read_text(), re.MULTILINE)
ABSOLUTE = re.compile(r"\b(never|has to|have to|must)\b", re.IGNORECASE)
LONGEST = 50
"""Lines of a page that fits one screen."""


@pytest.mark.parametrize("said", SAID, ids=[said[:60] for said in SAID])
def test_a_guarantee_has_tests_that_are_there(said: str) -> None:
    (tests,) = [tests.split() for beginning, tests in NAMED if said.startswith(beginning)]
    for test in tests:
        file, _, function = test.partition("::")
        text = (ROOT / "tests" / file).read_text()
        assert not function or re.search(rf"^(async )?def {function}\(", text, re.MULTILINE), function
    sentences = [each for each in re.split(r"(?<=[.:]) ", said) if ABSOLUTE.search(each)]
    broken = [test for test in tests if "::" in test]
    assert len(broken) >= len(sentences), "name the test that breaks it and sees the refusal"


def test_each_entry_is_of_a_guarantee() -> None:
    assert [name for name, _ in NAMED if not any(said.startswith(name) for said in SAID)] == []


def test_what_is_no_guarantee_promises_nothing() -> None:
    others = [line for line in GUARANTEES.splitlines() if not line.startswith(("- ", "  "))]
    assert [line for line in [*PAGE.splitlines(), *others, *LIMITS.splitlines()] if ABSOLUTE.search(line)] == []


def test_the_page_fits_one_screen_and_leads_to_the_guarantees() -> None:
    assert len(PAGE.splitlines()) <= LONGEST
    assert "`docs/security-guarantees.md`" in PAGE
    assert len(SAID) > 40
