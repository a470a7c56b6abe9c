"""Every Python block can be pasted as it stands, or its page says where."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.environment import ROOT
from tests.support.pages import PAGES

WORD = "A block with a bare `await` runs in IPython and in a notebook"
TOP_LEVEL = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def blocks(text: str) -> list[str]:
    return re.findall(r"^ *```python\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)


def awaits(block: str) -> bool:
    """Whether a block cannot be compiled without a top-level ``await``."""
    indent = len(block) - len(block.lstrip(" "))
    lines = "\n".join(line[indent:] for line in block.splitlines())
    try:
        compile(lines, "block", "exec")
    except SyntaxError:
        compile(lines, "block", "exec", flags=TOP_LEVEL)
        return True
    return False


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_whose_blocks_await_at_the_top_level_says_where_they_run(path: Path) -> None:
    text = path.read_text()
    found = [block for block in blocks(text) if awaits(block)]
    if not found:
        assert WORD not in " ".join(text.split()), "no block of this page needs the sentence"
        return
    above = " ".join(text[: text.index(found[0])].split())
    assert WORD in above, f"{path.name}: {len(found)} blocks await at the top level, and nothing above them says so"


def test_the_readme_needs_no_such_word() -> None:
    assert not any(awaits(block) for block in blocks((ROOT / "README.md").read_text()))
