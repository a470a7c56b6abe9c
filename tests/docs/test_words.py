"""One word for one thing: the words that were left are in no code, page, command, JSON or name of a file."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.support.environment import ROOT

LEFT = {
    "set aside": r"\bsets?[ _-]([a-z]+[ _-]){0,2}aside\b|\bsetaside",
    "left alone": r"\ble(?:ft|aves?|aving)[ _-](?:it[ _-]|them[ _-])?alone\b",
    "out of reach": r"\bout[ _-]of[ _-]reach\b",
    "work off": r"\bwork(?:s|ed|ing)?[ _-](?:it[ _-]|them[ _-])?off\b",
    "hand out": r"\bhand(?:s|ed|ing)?[ _-](?:it[ _-]|them[ _-]|all[ _-]|each[ _-])?out\b|\bhandout",
    "hint": r"(?<![a-z])hints?(?![a-z])",
    "violation": r"violation",
    "anew": r"(?<![a-z])anew(?![a-z])",
    "drill": r"(?<![a-z])drills?(?![a-z])",
    "satellite": r"satellite",
}
ELSEWHERE = {
    "hint": (
        "basiq_async/cli/_command.py",  # type hints
        "basiq_async/pagination.py",  # operator.length_hint
        "basiq_async/testing/fake/_quirks.py",
        "basiq_async/testing/mock/_operation.py",
        "basiq_async/testing/mock/control_api.py",
        "tests/faults/test_reporters.py",  # Sentry's
        "tests/faults/test_statuses.py",  # 103 Early Hints
        "tests/testing/fake/test_responses.py",
    ),
    "violation": ("tests/replay/test_page.py", "tests/testing/mock/page/test_page.py"),  # axe's
}
"""Where a word is that of another thing."""


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not names:
        pytest.skip("this is no clone: no list of its files")
    files = [ROOT / each for each in names.split("\0") if each and each != "tests/docs/test_words.py"]
    shown = [(each.relative_to(ROOT).as_posix(), each) for each in files if each.is_file()]
    return {name: f"{name}\n{file.read_text(encoding='utf-8', errors='ignore')}" for name, file in shown}


@pytest.mark.parametrize("word", LEFT)
def test_a_word_that_was_left_is_nowhere(word: str, texts: dict[str, str]) -> None:
    pattern = re.compile(LEFT[word].replace("[ _-]", r"(?:[ _-]|\s*\n\s*(?:# )?)"), re.IGNORECASE)
    found = {name: match[0] for name, text in texts.items() if (match := pattern.search(text))}
    allowed = {*ELSEWHERE.get(word, ())}
    assert {name: text for name, text in found.items() if name not in allowed} == {}
    assert allowed <= found.keys(), "an exception that is none any more"


def test_the_page_has_at_most_twenty_words_and_is_linked_from_readme_and_index() -> None:
    page = (ROOT / "docs" / "words.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!---|word )", page, re.MULTILINE)
    assert 0 < len(rows) <= 20
    for name, link in (("README.md", "docs/words.md"), ("docs/index.md", "words.md")):
        assert f"({link})" in (ROOT / name).read_text(encoding="utf-8"), name
