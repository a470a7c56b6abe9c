"""The programs of every page pass ``mypy --strict``, as those of a reader who copies them would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.support.environment import ROOT
from tests.support.pages import PAGES

_BLOCK = re.compile(
    r"<!-- skip: next.*?-->\s*^```.*?^```"
    r"|^```python\n(?P<shown>.*?)^```"
    r"|<!-- invisible-code-block: python\n(?P<hidden>.*?)^-->",
    re.DOTALL | re.MULTILINE,
)
_FILE = re.compile(r"# ([\w./-]+\.py)\n")
_ERROR = re.compile(r"(?P<file>.+?):(?P<line>\d+): error: (?P<text>.*?)(?:  \[(?P<code>[a-z-]+)\])?")
_OF_TESTS = {"no-untyped-def", "no-untyped-call"}
"""What is no error in a test, whose functions are seldom annotated."""
_OPTIONS = [
    *("--strict", "--no-error-summary", "--config-file=", "--follow-imports=silent", "--hide-error-context"),
    *("--disable-error-code=no-redef", "--disable-error-code=import-untyped", "--allow-untyped-decorators"),
]


@attrs.frozen
class Block:
    code: str
    first: int
    """The line of the page at which it begins."""
    hidden: bool

    @property
    def file(self) -> str | None:
        found = None if self.hidden else _FILE.match(self.code)
        return found and found[1]

    @property
    def lines(self) -> range:
        return range(self.first, self.first + self.code.count("\n"))


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        kind = found.lastgroup
        if kind is not None:
            yield Block(found[kind], text.count("\n", 0, found.start(kind)) + 1, kind == "hidden")


def module_of(blocks: list[Block]) -> str:
    """Return the blocks of a page that are no files as one module, with each line where the page has it."""
    lines = [""] * max(block.lines.stop for block in blocks)
    for block in blocks:
        lines[block.first : block.lines.stop] = block.code.replace("from __future__ import annotations", "").split("\n")
    body = "\n".join(lines[2:])
    try:
        compile(body, "page", "exec")
    except SyntaxError:  # an await outside of a function
        body = "async def _page() -> None:\n" + textwrap.indent("\n".join(lines[3:]), "    ")
    return f"from __future__ import annotations\n\n{body}"


def errors_of(files: list[Path], folder: Path) -> list[tuple[Path, int, str, str]]:
    """Return what mypy says of files: the file, the line, the text and the code of each error."""
    if not files:
        return []
    command = [sys.executable, "-m", "mypy", *_OPTIONS, f"--cache-dir={folder / '.cache'}", *map(str, files)]
    shown = sorted(str(each) for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    places = [str(files[0].parent), *shown, str(ROOT / "examples")]
    environment = {**os.environ, "MYPYPATH": os.pathsep.join(dict.fromkeys(places))}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = [_ERROR.fullmatch(line) for line in done.stdout.splitlines()]
    return [(ROOT / each["file"], int(each["line"]), each["text"], each["code"]) for each in found if each]


@pytest.fixture(scope="module")
def wrong() -> list[str]:
    """Check all pages in one run of mypy, and the files that a page shows in a run for each page."""
    folder = ROOT / ".mypy_cache" / "pages"
    folder.mkdir(parents=True, exist_ok=True)
    for each in folder.iterdir():  # but what an earlier run of mypy has found out, which takes most of the time
        if each.name != ".cache":
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    pages: dict[str, tuple[Path, list[Block]]] = {}
    found: list[str] = []
    for page in PAGES:
        blocks = list(blocks_of(page))
        loose = [block for block in blocks if block.file is None]
        if any(not block.hidden for block in loose):
            name = "_".join(page.relative_to(ROOT).with_suffix("").parts).replace("-", "_")
            (folder / f"{name}.py").write_text(module_of(loose))
            pages[name] = page, loose
        files = {block.file: block for block in blocks if block.file is not None}
        for file, block in files.items():
            (folder / page.stem / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / page.stem / file).write_text(block.code)
        for path, line, text, code in errors_of([folder / page.stem / file for file in files], folder):
            block = files[str(path.relative_to(folder / page.stem))]
            if not ("def test_" in block.code and code in _OF_TESTS):
                found.append(f"{page.relative_to(ROOT)}:{block.first + line - 1}: {text} [{code}]")
    for path, line, text, code in errors_of([folder / f"{name}.py" for name in pages], folder):
        page, blocks = pages[path.stem]
        shown = next((block for block in blocks if line in block.lines), None)
        if shown is None or shown.hidden or ("def test_" in shown.code and code in _OF_TESTS):
            continue
        found.append(f"{page.relative_to(ROOT)}:{line}: {text} [{code}]")
    return found


def test_the_programs_of_the_pages_pass_mypy_strict(wrong: list[str]) -> None:
    assert not wrong, "\n".join(wrong)
