"""Change the code of one folder a little, many times, and see whether the tests of that folder notice.

``make mutants ROOM=receiver`` runs this. A mutant is one small change: a comparison, a boolean, a number, a sign, or a
call that is left out, in Python and in the SQL of statements. A seed chooses a sample of all that are possible. For
each one, a test of the folder that runs the changed line must fail. A mutant that passes is a survivor: add a test, or
list it in ``equivalent_mutants.txt``, with the reason why no test can notice it.

mutmut 3.8 was tried in its place. It leaves constants, defaults and decorated functions as they are, which are 12 to
22 % of the mutants of a folder. Its wrappers keep arguments in the frames of errors and add to protocols, so tests of
``signing`` and ``work`` fail without a change; and it ends where a test's id cannot be found again as an argument.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.support.mutating import Forks, replace_code, replace_text

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
ENOUGH = 0.9
"""The share of mutants that the tests of a folder must notice."""
_FAST, _SLOW = 10.0, 120.0
"""Seconds of tests that are tried in a fork, the fastest first, and of those that are tried in a copy of the files."""
_LATE, _LONGER = 20.0, 4
"""A run of tests is over after so many seconds and so many times what it takes, measured, without a change."""
_OPTIONS = (
    *("-q", "-x", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)
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
_SQL_SWAPS = {
    "<>": "=",
    "<=": "<",
    ">=": ">",
    "<": "<=",
    ">": ">=",
    "AND": "OR",
    "OR": "AND",
    "IS NULL": "IS NOT NULL",
    "IS NOT NULL": "IS NULL",
    "NOT IN": "IN",
    "NOT": "",
    "+": "-",
    "-": "+",
    "max": "min",
    "min": "max",
    "greatest": "least",
    "least": "greatest",
    "DESC": "ASC",
    "SKIP LOCKED": "",
}
_SQL = re.compile(
    r"<>|[<>]=|(?<![<>=-])[<>](?![<>=])|\bIS (?:NOT )?NULL\b|\bNOT IN\b|\bNOT(?! NULL\b| EXISTS\b)\b"
    r"|\b(?:AND|OR|DESC|SKIP LOCKED)\b"
    r"|(?<= )[+-](?= )|\b(?:max|min|greatest|least)(?=\()|(?<=[ (,])\d+(?![\w.'])"
)
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
    functions: tuple[tuple[str, int], ...]
    """The names and first lines of the functions around it; empty for what runs at the import."""
    sets: str
    """What it sets at the import: a constant's name, or that of a function with a default."""

    @property
    def change(self) -> str:
        """Text without a line number, so that a listed one is found again after other changes."""
        return f"{self.path}: {self.before} -> {self.after} in: {self.text}"

    def apply(self, source: bytes) -> bytes:
        """Return the file's content with the change."""
        return source[: self.start] + self.after.encode() + source[self.end :]


def _after(node: ast.AST) -> str | None:
    """Return what a mutant has in the place of a part of the code; None where none is made of it."""
    match node:
        case ast.Compare():
            swapped = [_SWAPS[type(each)]() for each in node.ops if type(each) in _SWAPS]
            return ast.unparse(ast.Compare(node.left, swapped, node.comparators))
        case ast.BoolOp():
            return ast.unparse(ast.BoolOp(_SWAPS[type(node.op)](), node.values))
        case ast.UnaryOp(op=ast.Not()):
            return ast.unparse(node.operand)
        case ast.BinOp() if type(node.op) in _SWAPS and not any(_is_text(each) for each in (node.left, node.right)):
            return ast.unparse(ast.BinOp(node.left, _SWAPS[type(node.op)](), node.right))
        case ast.Constant(value=bool()):
            return str(not node.value)
        case ast.Constant(value=int() | float() as value):
            return repr(value + 1 if isinstance(value, int) else value * 2 or 1.0)
        case ast.Subscript(slice=ast.Slice(), ctx=ast.Load()):
            return ast.unparse(node.value)
        case ast.Call() if ast.unparse(node.func).endswith("compare_digest"):
            return f"{ast.unparse(node.func)}({', '.join(f'{ast.unparse(each)}[:8]' for each in node.args)})"
        case ast.Expr():
            return "pass"
    return None


def _parts(node: ast.AST) -> Iterable[ast.AST | None]:
    """Return the parts of the code in which mutants are looked for."""
    match node:
        case ast.Assign() | ast.AnnAssign():
            return [node.value]
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return [*node.args.defaults, *node.args.kw_defaults, *node.body]
    return ast.iter_child_nodes(node)


def _is_left_out(node: ast.AST | None) -> bool:
    """What an error or a log says is not changed, nor is a text: Python 3.11 does not know where its parts are."""
    match node:
        case ast.Expr(value=ast.Await(value=call) | call):
            spoken = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in _SPOKEN
            return spoken or not isinstance(call, ast.Call)
        case ast.If():
            return ast.unparse(node.test) == "TYPE_CHECKING"
    return node is None or isinstance(node, (ast.Raise, ast.JoinedStr))


def _find(path: str, source: bytes) -> Iterator[Mutant]:
    """Yield every mutant of a file of Python."""
    starts = [0, *itertools.accumulate(map(len, source.splitlines(keepends=True)))]
    sets = ""

    def look(node: ast.AST, functions: tuple[tuple[str, int], ...]) -> Iterator[Mutant]:
        nonlocal sets
        inner = functions
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            sets = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            sets = node.name
            inner = *functions, (sets, min([node.lineno, *(each.lineno for each in node.decorator_list)]))
        elif isinstance(node, (ast.expr, ast.stmt)) and (after := _after(node)) is not None:
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[(node.end_lineno or 1) - 1] + (node.end_col_offset or 0)
            after = f"({after})" if isinstance(node, ast.expr) else after
            before = " ".join(source[start:end].decode().split())
            text = source[starts[node.lineno - 1] : starts[node.lineno]].decode().strip()
            yield Mutant(path, node.lineno, start, end, before, after, text, functions, sets)
        for part in _parts(node):
            if part is not None and not _is_left_out(part):
                yield from look(part, inner if isinstance(part, ast.stmt) else functions)

    yield from look(ast.parse(source), ())


def _find_in_sql(path: str, source: bytes) -> Iterator[Mutant]:
    """Yield the changes of a file of SQL."""
    text = source.decode()
    for found in _SQL.finditer(_statements_of(text)):
        start, before = len(text[: found.start()].encode()), found[0]
        after = str(int(before) + 1) if before.isdigit() else _SQL_SWAPS[before]
        number = 1 + text.count("\n", 0, found.start())
        shown = text.splitlines()[number - 1].strip()
        yield Mutant(path, number, start, start + len(before.encode()), before, after, shown, (), "")


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and type(node.value) not in (int, float))


def _statements_of(sql: str) -> str:
    """Return SQL with spaces in the place of its comments, and of the definitions of tables."""
    return re.sub(r"--[^\n]*|\bCREATE [^;]*?(?=\n\n|$)", lambda left_out: " " * len(left_out[0]), sql)


def mutants_of(path: Path) -> list[Mutant]:
    """Return every mutant of a file."""
    find = _find_in_sql if path.suffix == ".sql" else _find
    return list(find(str(path.relative_to(ROOT)), path.read_bytes()))


def _compiles(mutant: Mutant) -> bool:
    if mutant.path.endswith(".sql"):
        return True
    try:
        ast.parse(mutant.apply((ROOT / mutant.path).read_bytes()))
    except SyntaxError:
        return False
    return True


def equivalent() -> dict[str, str]:
    """Return the listed mutants that no test can notice, each with the reason."""
    lines = EQUIVALENT.read_text().splitlines() if EQUIVALENT.exists() else []
    listed = (line.rpartition("  # ") for line in lines if line and not line.startswith("#"))
    return {change.strip(): reason for change, _, reason in listed}


def not_found(listed: Iterable[str]) -> set[str]:
    """Return the changes that are no mutants of a file of today."""
    paths = {ROOT / change.partition(":")[0] for change in listed}
    return set(listed) - {each.change for path in paths if path.exists() for each in mutants_of(path)}


@dataclass(frozen=True)
class Code:
    """Some files of the package, and the tests that must notice a change of them."""

    name: str
    files: Sequence[Path]
    tests: Sequence[str]

    @classmethod
    def of_folder(cls, name: str) -> Code:
        """Return a folder of the package, and the folder of its tests."""
        folder, tests = ROOT / "basiq_async" / name, f"tests/{name.removeprefix('_')}"
        if not folder.is_dir() or not (ROOT / tests).is_dir():
            raise SystemExit(f"there is no folder {name!r} with tests in {tests}")
        return cls(name, sorted([*folder.rglob("*.py"), *folder.rglob("*.sql")]), [tests])

    def sample(self, size: int, seed: int) -> list[Mutant]:
        """Return a sample of the mutants of the files, without those that are listed as equivalent."""
        listed = equivalent()
        left = [each for path in self.files for each in mutants_of(path) if each.change not in listed]
        random.Random(seed).shuffle(left)
        return list(itertools.islice(filter(_compiles, left), size))


def hard_files(page: Path = ROOT / "docs" / "maintaining.md") -> list[Code]:
    """Return the rows of the page on maintaining: hard files, each with its stress test."""
    found = []
    for line in page.read_text().splitlines():
        cells = [re.findall(r"`([^`]+)`", cell) for cell in line.split("|")]
        if len(cells) > 4 and cells[1] and cells[3] and all(each.startswith("tests/") for each in cells[3]):
            files = [ROOT / "basiq_async" / each for each in cells[1]]
            found.append(Code(", ".join(cells[1]), files, cells[3]))
    return found


@dataclass(frozen=True)
class Tests:
    """What the tests of a folder run, and how long each takes."""

    lines: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]

    def of(self, mutant: Mutant) -> set[str]:
        """Return the tests that run a mutant or its inbox; for one at the import, those of its module and of lines with
        its name.
        """
        contexts = self.lines.get(str(ROOT / mutant.path.replace("_statements.sql", ".py")), {})
        if mutant.path.endswith(".sql"):
            found = list({each for names in contexts.values() for each in names})
        elif mutant.functions:
            # A statement of several lines is known by the first of them.
            lines = range(mutant.line, min(first for _, first in mutant.functions), -1)
            found = next((contexts[line] for line in lines if contexts.get(line)), [])
            if "" in found:  # it is called at the import
                found = list(self.seconds)
        else:
            named = re.compile(rf"\b{re.escape(mutant.sets)}\b") if mutant.sets else None
            source = (ROOT / mutant.path).read_text().splitlines()
            found = [
                each
                for line, names in contexts.items()
                if named is None or named.search("".join(source[line - 1 : line]))
                for each in names
            ]
            own = f"/test_{Path(mutant.path).stem.lstrip('_')}.py::"
            found += [name for name in self.seconds if own in f"/{name}"]
            found = found or list(self.seconds)
        return {each for each in found if each}

    def fastest(self, names: Iterable[str], budget: float) -> list[str]:
        """Return the fastest tests that together take ``budget`` seconds, at least three; a file's in a row."""
        chosen: list[str] = []
        for name in sorted(names, key=lambda name: self.seconds[name]):
            budget -= self.seconds[name]
            if budget < 0 and len(chosen) >= 3:
                break
            chosen.append(name)
        files = [name.partition("::")[0] for name in chosen]
        return sorted(chosen, key=lambda name: files.index(name.partition("::")[0]))

    def limit(self, names: Sequence[str]) -> float:
        """Return the seconds after which these tests do not end any more."""
        return _LATE + _LONGER * sum(self.seconds[name] for name in names)


def is_noticed(mutant: Mutant, forks: Forks, tests: Tests, copy: Path) -> bool:
    """Try a mutant: the fast tests in a fork, then all in a copy of the files, because they may start processes."""
    names, path = tests.of(mutant), ROOT / mutant.path
    source = mutant.apply(path.read_bytes())
    if names and (mutant.functions or path.suffix == ".sql"):
        fast = tests.fastest(names, _FAST)
        change = replace_text if path.suffix == ".sql" else partial(replace_code, functions=mutant.functions)
        if forks.notice(fast, lambda: change(path, source), tests.limit(fast)):
            return True
    slow = tests.fastest(names, _SLOW)
    if names and _is_noticed_in(copy, mutant, slow, tests.limit(slow)):
        return True
    print(f"{'survived' if names else 'no test runs it'}, line {mutant.line}: {mutant.change}", flush=True)
    return False


def _is_noticed_in(copy: Path, mutant: Mutant, names: Sequence[str], limit: float) -> bool:
    file = copy / mutant.path
    original = file.read_bytes()
    _write(file, mutant.apply(original))
    files = sorted({name.partition("::")[0] for name in names})
    only = copy / "only"
    only.write_text("\n".join(names))  # thousands of names are too long for a variable
    environment = {**os.environ, "PYTHONPATH": str(copy), "BASIQ_MUTANTS_ONLY": str(only)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "pytest", *_OPTIONS, "-p", "tests.support.mutating", *files]
    try:
        with (
            open(copy / "output", "w") as output,
            subprocess.Popen(
                command, cwd=copy, env=environment, stdout=output, stderr=output, start_new_session=True
            ) as process,
        ):
            try:
                return process.wait(limit) != 0
            except subprocess.TimeoutExpired:
                return True
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    finally:
        _write(file, original)


_times = itertools.count(1)


def _write(file: Path, content: bytes) -> None:
    """Write a source with a time of its own: what was compiled of another content does not seem to be its."""
    file.write_bytes(content)
    os.utime(file, (now := next(_times), now))


def _copy_to(folder: Path) -> Path:
    for name in _COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for file in ROOT.glob("*.*"):
        if file.is_file():
            shutil.copy(file, folder)
    return folder


def run(code: Code, size: int, seed: int, workers: int, options: Sequence[str]) -> int:
    """Try a sample. Print the survivors, and return the exit code. ``options`` are those of pytest."""
    sample = code.sample(size, seed)
    with tempfile.TemporaryDirectory(prefix="basiq-mutants-") as name:
        results = Path(name) / "results"
        results.touch()

        def work(forks: Forks) -> None:
            tests = Tests(*forks.measure())
            took = sum(tests.seconds.values())
            print(f"\n{code.name}: {len(sample)} mutants (seed {seed}); the tests alone took {took:.0f} s", flush=True)
            pids = []
            for number in range(workers):
                copy = _copy_to(Path(name) / str(number))
                if (pid := os.fork()) == 0:
                    with results.open("a", buffering=1) as file:
                        for mutant in sample[number::workers]:
                            print(int(is_noticed(mutant, forks, tests, copy)), file=file)
                    os._exit(0)
                pids.append(pid)
            for pid in pids:
                os.waitpid(pid, 0)

        status = pytest.main([*_OPTIONS, "--capture=sys", *code.tests, *options], plugins=[Forks(Path(name), work)])
        noticed = [line == "1" for line in results.read_text().splitlines()]
    if len(noticed) < len(sample):
        return int(status) or 1
    share = sum(noticed) / max(1, len(sample))
    print(f"{code.name}: {sum(noticed)} of {len(sample)} were noticed ({share:.0%}; at least {ENOUGH:.0%} must be)")
    return 0 if share >= ENOUGH else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "room", nargs="?", help="a folder of basiq_async, such as receiver; with --stress-tests, a file"
    )
    parser.add_argument(
        "--stress-tests", action="store_true", help="each row of docs/maintaining.md, with its own stress test"
    )
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given, options = parser.parse_known_args()  # such as --ignore, for tests that only start processes
    if not (given.stress_tests or given.room):
        parser.error("a folder, or --stress-tests")
    if not given.stress_tests:
        return run(Code.of_folder(given.room), given.sample, given.seed, given.workers, options)
    codes = 0
    for row in hard_files():
        if given.room and given.room not in row.name:
            continue
        if (pid := os.fork()) == 0:  # pytest runs once in a process
            os._exit(run(row, given.sample, given.seed, given.workers, options))
        codes |= os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return codes


if __name__ == "__main__":
    sys.exit(main())
