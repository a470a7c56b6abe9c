"""The rules that CONTRIBUTING names: private names, folders of tests, real time, what an extra or a command needs."""

from __future__ import annotations

import ast
import asyncio
import re
import runpy
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml

import basiq_async
from basiq_async.services.problems import ProblemCode
from basiq_async.services.resources import RESOURCES
from tests.cli.test_help import COMMANDS
from tests.mutants import equivalent, not_found
from tests.support import virtual
from tests.support.real_time import LONGEST, Waits

ROOT = Path(basiq_async.__file__).parent
TESTS = Path(__file__).parent
PRIVATE = re.compile(r"basiq_async\.[a-z]\w*\.(\w+\.)*_(?!_)")
"""What a public folder keeps to itself."""
REASON = re.compile(r"# private: \w+ \w+")
KINDS = {"contract", "docs", "faults", "support", "typing", "world"}
"""Folders of tests that stand for a kind of test, or for helpers, and not for a folder of the package."""
MOST_BORROWED = 64
"""How often a module uses a private attribute of another module's object. Lower it when you take one away."""


def imports() -> Iterator[tuple[str, str]]:
    """Each import of the package as its two modules: who imports, and what is imported."""
    files = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                target = whole if whole in files else module
                if target in files:
                    yield name, target


def test_no_folder_imports_a_private_module_of_another() -> None:
    """Folders that are private themselves are for all of the package."""
    for source, target in imports():
        folder = target.split(".")[1:2]
        inside = target.split(".")[2:]
        if not folder or folder[0].startswith("_") or source.split(".")[1:2] == folder:
            continue
        assert not any(part.startswith("_") for part in inside), f"{source} imports {target}"


def borrowed(path: Path) -> list[str]:
    """Return the private attributes that a module uses and that none of its own classes defines or sets."""
    tree = ast.parse(path.read_text())
    own: set[str] = set()
    for node in (each for kind in ast.walk(tree) if isinstance(kind, ast.ClassDef) for each in ast.walk(kind)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own.add(node.target.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            own.add(node.attr)
    return [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.match("_(?!_)", node.attr) and node.attr not in own
        if ast.unparse(node.value) not in ("self", "cls")
    ]


def test_objects_borrow_no_more_of_each_others_privacy() -> None:
    found = [each for path in sorted(ROOT.rglob("*.py")) for each in borrowed(path)]
    assert len(found) <= MOST_BORROWED, "\n".join(found)


def test_a_borrowed_attribute_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.test_house.ROOT", tmp_path)
    lines = (
        "class A:",
        "    def f(self, a, b):",
        "        self._x = a._x, self._y, a._f, b.c._z, b.__dict__",
        "    _f: int",
    )
    (tmp_path / "one.py").write_text("\n".join(lines))
    assert borrowed(tmp_path / "one.py") == ["one.py:3 b.c._z"]


def kinds_of_things(path: Path) -> Iterator[str]:
    """Yield the names of the classes of a module, and of its aliases of types."""
    body = ast.parse(path.read_text()).body
    for node in (*body, *(each for kind in body if isinstance(kind, ast.ClassDef) for each in ast.walk(kind))):
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign) and "TypeVar" not in ast.unparse(node.value or node.target):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and re.match("_?[A-Z][A-Za-z]*[a-z]", target.id):
                yield target.id


def test_no_two_kinds_of_things_have_one_name() -> None:
    """Who reads a name of a type need not ask whose it is."""
    where: dict[str, set[Path]] = {}
    for path in ROOT.rglob("*.py"):
        for name in kinds_of_things(path):
            where.setdefault(name, set()).add(path.relative_to(ROOT))
    assert len(where) > 300
    assert {name: paths for name, paths in where.items() if len(paths) > 1} == {}


def test_a_test_says_why_it_imports_a_private_module_of_a_public_folder() -> None:
    """In a line of the import: ``# private: why no public name leads there``. Private folders are for all tests."""
    for path in TESTS.rglob("*.py"):
        text = path.read_text()
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            if any(PRIVATE.match(name) for name in names):
                place = f"{path.relative_to(TESTS.parent)}:{node.lineno}"
                said = "\n".join(lines[node.lineno - 1 : node.end_lineno])
                assert REASON.search(said), f"{place} imports {', '.join(names)}: say why"


def test_each_folder_of_tests_is_a_folder_of_the_package() -> None:
    for folder in TESTS.iterdir():
        if folder.is_dir() and (folder / "__init__.py").exists() and folder.name not in KINDS:
            assert any((ROOT / name).is_dir() for name in (folder.name, f"_{folder.name}")), folder.name


def test_time_limits_have_one_home() -> None:
    """One that is made by hand forgets an error's name, or keeps the frames of what it ended."""
    made = re.compile(r"asyncio\.(timeout|timeout_at|wait_for)[(,]")
    found = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if made.search(path.read_text())}
    assert found == {"_work/limits.py"}


@pytest.mark.real_time("it is what is found")
async def test_a_sleep_is_found_where_it_is_long_and_real_and_comes_to_its_end() -> None:
    waits = Waits()
    long = LONGEST + 0.01
    with waits.watched():
        await asyncio.sleep(0.001)
        time.sleep(0.001)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(60), 0.001)
        await asyncio.to_thread(virtual.run, _asleep(60))
        assert waits.found == []
        await asyncio.sleep(long)
        time.sleep(long)
    assert [each.partition(" in ")[0] for each in waits.found] == [f"asyncio.sleep({long:g})", f"time.sleep({long:g})"]
    assert all(__file__ in each for each in waits.found)


async def _asleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


@virtual.clocked
async def test_a_virtual_clock_of_a_year_comes_to_each_timer() -> None:
    loop = asyncio.get_running_loop()
    turns, jump = iter(range(50)), loop._jumping.select  # type: ignore[attr-defined]
    loop._jumping.now = 3e7  # type: ignore[attr-defined]  # of so many seconds a float has no nanoseconds
    loop._jumping.select = lambda timeout: (next(turns), jump(timeout))[1]  # type: ignore[attr-defined]
    for _ in range(10):
        await asyncio.sleep(0.1)


PROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
EXTRAS = sorted(PROJECT["optional-dependencies"].keys() - {"dev"})
SOURCES = "".join(path.read_text() for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_known_everywhere(extra: str) -> None:
    row = re.search(rf"^(.*)\n{extra} = \[", (ROOT.parent / "pyproject.toml").read_text(), flags=re.MULTILINE)
    used = runpy.run_path(str(ROOT.parent / ".ci" / "install_test.py"))["USES"]
    places = {
        "a reason in pyproject.toml": row is not None and row[1].startswith("# "),
        "a program in .ci/install_test.py": extra in used or extra == "cli",  # the command itself is run there
        "the README": f"`{extra}`" in (ROOT.parent / "README.md").read_text(),
        "an ImportError that names it": f'"{extra}"' in SOURCES or f"'{extra}'" in SOURCES or extra == "speed",
    }
    missing = [place for place, known in places.items() if not known]
    assert not missing, f"the extra {extra}: missing {'; '.join(missing)}"


@pytest.mark.parametrize(
    ("place", "but"),
    [
        ("basiq_async/services/problems.py", {"unread"}),  # a recovery says what it has not read
        ("tests/services/test_diagnosis.py", set()),
        ("tests/cli/test_problem_lines.py", {"unread"}),
        ("tests/cli/test_lines.py", {"clock", "unread"}),  # no line sets a clock
    ],
)
def test_a_problem_of_doctor_is_known_everywhere(place: str, but: set[str]) -> None:
    text = (ROOT.parent / place).read_text().partition("ProblemCode = Literal")
    known = text[2].partition("]")[2] or text[0]
    lacking = [code for code in get_args(ProblemCode) if not re.search(f'"{code}[" ]', known)]
    assert {*lacking} <= but, "CONTRIBUTING has what belongs to a problem"


def test_each_command_is_run_by_a_test() -> None:
    """The words of a command stand in one file of ``tests/cli``; its help has tests of its own."""
    texts = [path.read_text() for path in (TESTS / "cli").glob("test_*.py") if path.name != "test_help.py"]
    texts += [f"'{each.name}' 'list' 'get'" for each in RESOURCES]  # tests/cli/test_commands.py runs these
    for path in COMMANDS:
        words = [re.compile(rf"""["' ]{word}["' ]|\b{word}\(""") for word in path]
        known = any(all(word.search(text) for word in words) for text in texts)
        assert known, f"no test in tests/cli runs `basiq-async {' '.join(path)}`"


def test_each_test_that_a_target_or_the_ci_names_is_there() -> None:
    named: set[str] = set()
    for file in ("Makefile", ".ci/run"):
        named |= set(re.findall(r"tests/[\w/]+\.py", (TESTS.parent / file).read_text()))
    assert named
    assert [name for name in sorted(named) if not (TESTS.parent / name).is_file()] == []


_COUNTED = re.compile(r"\{[^{}]*:,\} (?:messages|deliveries|events|entries)\b")
_ALWAYS_MANY = ("of {count:,} messages", "{found.look.items:,} messages and events", "{MOST_CAUSED:,} messages")


_THIRD_VALUE = {"delivered", "succeeded"}
"""Properties that are None where Basiq does not tell."""


def truth_tests(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield each expression whose truth decides something; a plain ``assert`` only passes for True."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.If, ast.While, ast.IfExp)):
            yield node.test
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node.operand
        elif isinstance(node, ast.BoolOp):
            yield from node.values
        elif isinstance(node, ast.comprehension):
            yield from node.ifs
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("any", "all", "bool"):
            yield from (each.elt if isinstance(each, ast.GeneratorExp) else each for each in node.args)


def test_nothing_takes_what_basiq_does_not_tell_for_a_no() -> None:
    """``not message.delivered`` is true for None too: ``is True`` and ``is False`` say what is meant."""
    roots = (ROOT, TESTS, TESTS.parent / "examples")
    paths = [
        path for root in roots for path in root.rglob("*.py") if not path.is_relative_to(TESTS / "testing" / "fake")
    ]
    programs = {path: path.read_text() for path in paths}  # the fake and its tests know nothing of the models
    for path in [*TESTS.parent.glob("*.md"), *TESTS.parent.glob("docs/**/*.md")]:
        programs[path] = "\n".join(re.findall(r"^```python$\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE))
    found = [
        f"{path.relative_to(TESTS.parent)}: {ast.unparse(each)}"
        for path, text in programs.items()
        if any(f".{name}" in text for name in _THIRD_VALUE)
        for each in truth_tests(ast.parse(text, type_comments=False))
        if isinstance(each, ast.Attribute) and each.attr in _THIRD_VALUE
    ]
    assert not found, found


def test_no_text_counts_one_of_a_thing_as_several() -> None:
    """``amount`` of ``_redaction/text.py`` has both forms."""
    found = [
        f"{path.relative_to(ROOT)}: {each[0]}"
        for path in sorted(ROOT.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if (each := _COUNTED.search(line)) and not any(part in line for part in _ALWAYS_MANY)
    ]
    assert found == []


def test_the_pythons_of_the_classifiers_are_those_of_the_workflow_and_of_the_page_that_says_where_it_runs() -> None:
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
    known = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    jobs = yaml.safe_load((TESTS.parent / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == known
    assert project["requires-python"] == f">={known[0]}"
    page = (TESTS.parent / "docs" / "questions.md").read_text()
    assert f"on CPython {known[0]} to {known[-1]}." in page


def test_each_mutant_that_is_listed_as_equivalent_is_a_change_of_the_code_of_today() -> None:
    assert not_found(["basiq_async/_work/once.py: 0 -> (1) in: gone"]), "the control"
    assert not_found(equivalent()) == set(), "take it out of equivalent_mutants.txt, or list what became of it"
