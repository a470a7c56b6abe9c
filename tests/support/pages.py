"""Run the code blocks of a documentation page, or of a module's docstrings, as a reader would.

- ``python``: run in one namespace for the page, as ``python -m asyncio`` would: ``await`` works at the top level. A
  block whose first line is a file's name, such as ``# service.py``, is written to that file. Functions named
  ``test_…`` are run with the package's fixtures.
- ``output``: what the block before it printed; ``...`` stands for anything.
- ``console``: each line after ``$ `` is typed into one shell, and what follows is what it printed, if anything does.
  A command that ends with ``> FILE 2>&1 &`` is waited for until it wrote something, and is ended with the page.
- ``yaml``, ``json`` and ``toml`` are parsed.

If the package is installed, ``pip install`` is not run.
In a module, the blocks are the ``.. code-block:: python`` of its docstrings, which can use the module's names.
``<!-- skip: next -->`` skips the next block; ``<!-- invisible-code-block: python -->`` is a block that readers do not
see.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import inspect
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from unittest import SkipTest

import attrs
import yaml
from sybil import Document, Example
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import CodeBlockParser, SkipParser
from sybil.parsers.rest import CodeBlockParser as DocstringParser

from tests.support.environment import ROOT
from tests.support.real_time import PATIENCE
from tests.support.warm import CLIENT

PAGES = sorted(path for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if "_build" not in path.parts)
_FILE = re.compile(r"# ([\w./-]+\.(?:py|ini|toml|yaml|yml))\n")
_END = "__end_of_command__"
_PAGE_LIMIT = 2 * PATIENCE


class Shell:
    """One bash process for a page, so that variables, the folder and jobs persist from block to block."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-m"],
            cwd=folder,
            env={**environment, "PYTHONUNBUFFERED": "1"},  # a log in a file shows at once that its program has started
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> str:
        """Return the output of a command. Fails if the command fails, or takes longer than ``PATIENCE``."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{{ {command}\n}} </dev/null; printf '\\n{_END} %s\\n' $?\n")
        stdin.flush()
        watch = threading.Timer(PATIENCE, self._process.kill)
        watch.start()
        lines = []
        for line in stdout:
            if line.startswith(_END):
                break
            lines.append(line)
        else:
            raise AssertionError(f"{command}: not over after {PATIENCE:g} s, or ended the shell\n{''.join(lines)}")
        watch.cancel()
        printed = "".join(lines)
        assert line.split()[1] in ("0", "143"), f"{command}\n{printed}\nexit code {line.split()[1]}"
        if log := re.search(r"> (\S+) 2>&1 &$", command):
            self._wait_for(self._folder / log[1])
        return printed

    def _wait_for(self, file: Path) -> None:
        limit = time.monotonic() + PATIENCE
        while not (file.exists() and file.stat().st_size):
            assert time.monotonic() < limit, f"nothing was written to {file.name}"
            time.sleep(0.02)

    def close(self) -> None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate("kill $(jobs -p) 2>/dev/null; wait; exit\n", timeout=PATIENCE)
        self._process.kill()
        self._process.wait()


@attrs.define
class Page:
    """A run of one page. Its files are written to ``folder``, and its commands run with ``environment``."""

    folder: Path
    environment: Mapping[str, str]
    installed: bool = True
    """Whether the package is there already; else pages that show how to install it do that."""
    ports: Mapping[str, str] = attrs.field(factory=dict)
    """Ports that the page names, and those to use in their place."""
    again: bool = False
    """Whether its programs are started another time, with what they left: then they print what they print."""
    printed: str = ""
    _runner: asyncio.Runner = attrs.field(factory=asyncio.Runner)
    _shell: Shell | None = None

    def run(self, path: Path, around: AbstractAsyncContextManager[Mapping[str, Any]] | None = None) -> int:
        """Run every block, and return their number. Raises the error of the first block that fails, with its place.

        around: provides names for the blocks, in the loop that runs them.
        """
        document = self._docstrings(path) if path.suffix == ".py" else self._page(path)
        document.namespace |= {"__name__": "__main__", "INSTALLED": self.installed, "printed": lambda: self.printed}
        try:
            if around is None:
                return sum(self._evaluate(example) for example in document)
            document.namespace |= self._runner.run(around.__aenter__())
            try:
                return sum(self._evaluate(example) for example in document)
            finally:
                self._runner.run(around.__aexit__(None, None, None))
        finally:
            self.close()

    def run_alone(self, path: Path) -> int:
        """Run every block in a separate process, because a page may configure loggers, tracers and the like."""
        command = [*CLIENT, "-W", "tests.support.pages:main", str(path), str(self.folder)]
        command += ["--installed"] if self.installed else []
        command += ["--again"] if self.again else []
        for pair in self.ports.items():
            command += ["--port", *pair]
        done = subprocess.run(
            command, cwd=ROOT, env={**self.environment}, capture_output=True, text=True, timeout=_PAGE_LIMIT
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return int(done.stdout.split()[-1])

    def _docstrings(self, path: Path) -> Document:
        return PythonDocStringDocument.parse(str(path), DocstringParser("python", self._python))

    def _page(self, path: Path) -> Document:
        text = path.read_text()
        for shown, used in self.ports.items():
            text = text.replace(shown, used)
        document = Document(text, str(path))
        for parser in [SkipParser(), *(CodeBlockParser(*pair) for pair in self._evaluators().items())]:
            for region in parser(document):
                document.add(region)
        return document

    def close(self) -> None:
        self._runner.close()
        if self._shell is not None:
            self._shell.close()

    def _evaluators(self) -> dict[str, Any]:
        return {
            "python": self._python,
            "ini": self._file,
            "output": self._output,
            "console": self._console,
            "yaml": lambda example: None if list(yaml.safe_load_all(example.parsed)) else "empty",
            "json": lambda example: json.loads(example.parsed) and None,
            "toml": lambda example: None if tomllib.loads(example.parsed) else "empty",
        }

    def _evaluate(self, example: Example) -> int:
        try:
            example.evaluate()
        except SkipTest:  # this block alone
            return 0
        except Exception as exc:
            exc.add_note(f"{example.path}, line {example.line}")
            raise
        return 1

    def _file(self, example: Example) -> bool:
        found = _FILE.match(example.parsed)
        if found is None:
            return False
        target = self.folder / found[1]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(example.parsed)
        return False

    def _python(self, example: Example) -> None:
        if _FILE.match(example.parsed):
            self._file(example)
        else:
            self._execute(example.parsed, example.path, example.line + 1, example.namespace)

    def _execute(self, source: str, path: str, line: int, namespace: dict[str, Any]) -> None:
        before = set(namespace)
        code = compile("\n" * (line - 1) + source, path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            if code.co_flags & inspect.CO_COROUTINE:
                self._runner.run(eval(code, namespace))
            else:
                exec(code, namespace)
            for name in sorted(set(namespace) - before):
                if name.startswith("test_"):
                    self._runner.run(_test(namespace[name], namespace))
        self.printed = out.getvalue()

    def _output(self, example: Example) -> None:
        if not self.again:
            expect(example.parsed, self.printed)

    def _console(self, example: Example) -> None:
        if self._shell is None:
            self._shell = Shell(self.folder, self.environment)
        for command, expected in commands(example.parsed):
            if self.installed and command.startswith("pip install"):
                continue
            self.printed = self._shell.run(command)
            if expected and not self.again:
                expect(expected, self.printed)


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a ``console`` block, with its expected output."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.splitlines(keepends=True)
        end = 1
        while lines[end - 1].rstrip().endswith("\\") and end < len(lines):
            end += 1
        yield "".join(lines[:end]).strip(), "".join(lines[end:]).strip()


def expect(wanted: str, printed: str) -> None:
    """Check an output against the expected one, in which ``...`` matches anything, on one line or several."""
    pattern = ".*?".join(re.escape(" ".join(part.split())) for part in wanted.split("..."))
    text = " ".join(printed.split())
    assert re.fullmatch(pattern.strip(), text, re.DOTALL), f"shown:\n{wanted}\nprinted:\n{printed}"


async def _test(function: Any, namespace: Mapping[str, Any]) -> None:
    from basiq_async import BasiqClient, InMemoryTransport
    from basiq_async.testing import FakeBasiq

    fake = FakeBasiq()
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as client:
        fixtures = {"fake_basiq": fake, "basiq_strict": fake, "basiq_client": client}
        wanted = {name: fixtures.get(name, namespace.get(name)) for name in inspect.signature(function).parameters}
        result = function(**wanted)
        if inspect.isawaitable(result):
            await result


def has_blocks(page: Path) -> bool:
    """Return whether a page has blocks to run; the reference, for example, has none."""
    return any(Page(page.parent, {})._page(page))


def has_docstring_blocks(module: Path) -> bool:
    return any(PythonDocStringDocument.parse(str(module), DocstringParser("python")))


def main() -> None:
    """Run a page in a folder, as the arguments of this process say."""
    parser = argparse.ArgumentParser(description="Runs a page in a folder.")
    parser.add_argument("page", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--installed", action="store_true", help="the package is there already")
    parser.add_argument("--again", action="store_true", help="its programs were started in this folder before")
    parser.add_argument("--port", nargs=2, action="append", default=[], help="a port of the page, and the one to use")
    asked = parser.parse_args()
    path, folder = asked.page.resolve(), asked.folder.resolve()
    environment = {**os.environ, "HOME": str(folder), "NO_COLOR": "1", "COLUMNS": "100"}
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    ran = Page(folder, environment, asked.installed, dict(asked.port), again=asked.again).run(path)
    print(f"{path.name}: blocks that do as the page says: {ran}")


if __name__ == "__main__":
    main()
