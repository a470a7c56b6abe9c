"""Change the code of one folder a little, many times, and see whether the tests of that folder notice.

``make mutants ROOM=receiver`` runs this. A mutant is one small change: a comparison, a boolean, a number, a sign, or a
call that is left out. A seed chooses a sample of all that are possible. For each one, a test of the folder that runs
the changed line must fail. A mutant that passes is a survivor: add a test, or list it in ``equivalent_mutants.txt``,
with the reason why nobody can notice it.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import pytest
from coverage import CoverageData

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
ENOUGH = 0.9
"""The share of mutants that the tests of a folder must notice."""
_COPIED = ("basiq_async", "tests", "examples", "docs", "benchmarks", ".ci")
_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
}
_SPOKEN = ("debug", "info", "warning", "error", "exception")
"""Methods of a logger: what is said is not what is done."""


@dataclass(frozen=True)
class Mutant:
    """One small change of a file."""

    path: str
    """Relative to the root of the repository."""
    line: int
    start: int
    end: int
    """Offsets in bytes of what is replaced."""
    before: str
    after: str
    text: str
    """The line, without its indentation."""

    @property
    def change(self) -> str:
        """Text without a line number, so that a listed one is found again after other changes."""
        return f"{self.path}: {self.before} -> {self.after} in: {self.text}"

    def apply(self, source: bytes) -> bytes:
        """Return the file's content with the change."""
        return source[: self.start] + self.after.encode() + source[self.end :]


class _Finder(ast.NodeVisitor):
    """Collects every mutant of a file."""

    def __init__(self, path: str, source: bytes) -> None:
        self.found: list[Mutant] = []
        self._path = path
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def _add(self, node: ast.expr | ast.stmt, after: str) -> None:
        start = self._starts[node.lineno - 1] + node.col_offset
        end = self._starts[(node.end_lineno or 1) - 1] + (node.end_col_offset or 0)
        before = " ".join(self._source[start:end].decode().split())
        if isinstance(node, ast.expr):
            after = f"({after})"
        text = self._source[self._starts[node.lineno - 1] : self._starts[node.lineno]].decode().strip()
        self.found.append(Mutant(self._path, node.lineno, start, end, before, after, text))

    def visit_Compare(self, node: ast.Compare) -> None:
        swapped = [_SWAPS[type(each)]() for each in node.ops if type(each) in _SWAPS]
        self._add(node, ast.unparse(ast.Compare(node.left, swapped, node.comparators)))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self._add(node, ast.unparse(ast.BoolOp(_SWAPS[type(node.op)](), node.values)))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._add(node, ast.unparse(node.operand))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        texts = any(isinstance(each, (ast.JoinedStr, ast.Constant)) and not _is_number(each)
                    for each in (node.left, node.right))  # fmt: skip
        if type(node.op) in _SWAPS and not texts:
            self._add(node, ast.unparse(ast.BinOp(node.left, _SWAPS[type(node.op)](), node.right)))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add(node, str(not node.value))
        elif _is_number(node):
            self._add(node, repr(node.value + 1 if isinstance(node.value, int) else node.value * 2 or 1.0))

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.slice, ast.Slice) and isinstance(node.ctx, ast.Load):
            self._add(node, ast.unparse(node.value))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if ast.unparse(node.func).endswith("compare_digest"):
            halves = [f"{ast.unparse(each)}[:8]" for each in node.args]
            self._add(node, f"{ast.unparse(node.func)}({', '.join(halves)})")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(call, ast.Call):
            if isinstance(call.func, ast.Attribute) and call.func.attr in _SPOKEN:
                return
            self._add(node, "pass")
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """What an error says is not changed."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Neither is a text. Python 3.11 does not know where its parts are, either."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for each in [*node.args.defaults, *filter(None, node.args.kw_defaults), *node.body]:
            self.visit(each)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def mutants_of(path: Path, root: Path = ROOT) -> list[Mutant]:
    """Return every mutant of a file that can be compiled."""
    source = path.read_bytes()
    finder = _Finder(str(path.relative_to(root)), source)
    finder.visit(ast.parse(source))
    return [each for each in finder.found if _compiles(each.apply(source))]


def _compiles(source: bytes) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def equivalent() -> dict[str, str]:
    """Return the listed mutants that nobody can notice, each with the reason."""
    lines = EQUIVALENT.read_text().splitlines() if EQUIVALENT.exists() else []
    listed = (line.rpartition("  # ") for line in lines if line and not line.startswith("#"))
    return {change.strip(): reason for change, _, reason in listed}


class Folder:
    """A folder of the package, its tests, and which of them runs which line."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tests = f"tests/{name.removeprefix('_')}"
        folder = ROOT / "basiq_async" / name
        if not folder.is_dir() or not (ROOT / self.tests).is_dir():
            raise SystemExit(f"there is no folder {name!r} with tests in {self.tests}")
        self._files = sorted(folder.rglob("*.py"))

    def sample(self, size: int, seed: int) -> list[Mutant]:
        """Return a sample of the mutants of the folder, without those that are listed as equivalent."""
        listed = equivalent()
        every = [each for path in self._files for each in mutants_of(path) if each.change not in listed]
        return random.Random(seed).sample(every, min(size, len(every)))

    def measure(self, copy: Path) -> dict[str, dict[int, list[str]]]:
        """Run the tests of the folder once, and return the tests that run each line of each file."""
        if _exit_code(copy, ["-p", "tests.support.lines", self.tests], 3600):
            raise SystemExit(
                f"the tests of {self.name} fail without any change:\n{(copy / 'output').read_text()[-3000:]}"
            )
        data = CoverageData(str(copy / "lines"))
        data.read()
        return {
            str(Path(each).relative_to(copy)): data.contexts_by_lineno(each)
            for each in data.measured_files()
        }  # fmt: skip


_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["hypothesis", "aiohttp.web", "sqlalchemy.ext.asyncio", "redis.asyncio", "cattrs"])


def _run_in_copy(copy: Path, arguments: Sequence[str]) -> None:
    """Run tests of a copy in this process, which was forked with imports that are not the copy's."""
    os.setsid()
    os.chdir(copy)
    with open("output", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    os.environ.clear()
    os.environ.update(kept, PYTHONPATH=str(copy), BASIQ_MUTANTS_DATA=str(copy / "lines"))
    sys.dont_write_bytecode = False
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "basiq_async")]:
        del sys.modules[name]
    sys.path.insert(0, str(copy))
    options = (
        "-q",
        "-x",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
    )
    os._exit(pytest.main([*options, *arguments]))


def _exit_code(copy: Path, arguments: Sequence[str], limit: float) -> int | None:
    """Return the exit code of pytest; None if it takes too long."""
    process = _FORKED.Process(target=_run_in_copy, args=(copy, arguments))
    process.start()
    process.join(limit)
    code = process.exitcode
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    return code


def _copy_to(folder: Path) -> Path:
    for name in _COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for file in ROOT.glob("*.*"):
        if file.is_file():
            shutil.copy(file, folder)
    return folder


_ALL = 200
"""With more tests than that for a line, all tests of the folder run: their names would be a long command."""


def notices(folder: Folder, copy: Path, mutant: Mutant, tests: list[str], limit: float) -> bool:
    """Return whether a test fails, or does not end, with the change."""
    if not tests:
        return False
    file = copy / mutant.path
    original = file.read_bytes()
    _write(file, mutant.apply(original))
    try:
        chosen = tests if len(tests) <= _ALL else [folder.tests]
        code = _exit_code(copy, chosen, limit)
        # Above 2: nothing ran, because nothing can be imported, or because a name of a test is not a word of a command.
        return code in (None, 1, 2) or (code != 0 and _exit_code(copy, [folder.tests], limit) != 0)
    finally:
        _write(file, original)


_times = itertools.count(1)


def _write(file: Path, content: bytes) -> None:
    """Write a source with a time of its own: what was compiled of another content does not seem to be its."""
    file.write_bytes(content)
    os.utime(file, (now := next(_times), now))


def lines_of(mutant: Mutant) -> Iterator[int]:
    """Yield the line of a mutant, and the lines of its file above it: a statement of several lines begins there."""
    yield from range(mutant.line, max(0, mutant.line - 10), -1)


def run(folder: Folder, size: int, seed: int, workers: int) -> int:
    """Try a sample. Print the survivors, and return the exit code."""
    with tempfile.TemporaryDirectory(prefix="basiq-mutants-") as name:
        copies = [_copy_to(Path(name) / str(number)) for number in range(workers)]
        began = time.monotonic()
        known = folder.measure(copies[0])
        took = time.monotonic() - began
        sample = folder.sample(size, seed)
        print(f"{folder.name}: {len(sample)} mutants (seed {seed}); the tests alone took {took:.0f} s", flush=True)
        free: SimpleQueue[Path] = SimpleQueue()
        for each in copies:
            free.put(each)

        def attempt(mutant: Mutant) -> bool:
            contexts = known.get(mutant.path, {})
            found = next((contexts[line] for line in lines_of(mutant) if contexts.get(line)), [])
            # What runs at import has no test of its own.
            tests = sorted({each for each in found if each}) or ([folder.tests] if found else [])
            copy = free.get()
            try:
                noticed = notices(folder, copy, mutant, tests, limit=30 + 2 * took)
            finally:
                free.put(copy)
            if not noticed:
                why = "survived" if tests else "no test runs it"
                print(f"{why}, line {mutant.line}: {mutant.change}", flush=True)
            return noticed

        with ThreadPoolExecutor(workers) as pool:
            counted = Counter(pool.map(attempt, sample))
    share = counted[True] / max(1, len(sample))
    print(f"{folder.name}: {counted[True]} of {len(sample)} were noticed ({share:.0%}; at least {ENOUGH:.0%} must be)")
    return 0 if share >= ENOUGH else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("room", help="a folder of basiq_async, such as receiver")
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    sys.exit(run(Folder(given.room), given.sample, given.seed, given.workers))
