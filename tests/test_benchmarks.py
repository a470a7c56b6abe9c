"""The benchmarks use names that exist. They run by `make bench` alone, so that nothing else would tell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from .support.environment import ROOT

FILES = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_benchmark_imports_what_exists(file: Path) -> None:
    missing = [f"{module}.{name}" for module, name in _imported(file) if not _exists(module, name)]
    assert missing == []


def test_the_tables_that_are_committed_are_of_the_figures_that_are() -> None:
    from benchmarks import tables

    for path, text in tables.texts(tables.committed()).items():
        assert path.read_text() == text, f"{path.name} does not have the figures of results.json: make generated"


def _imported(file: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ("basiq_async", "benchmarks"):
            yield from ((node.module or "", alias.name) for alias in node.names)


def _exists(module: str, name: str) -> bool:
    if module.startswith("benchmarks"):  # some of them need packages that only `make bench` installs
        place = ROOT.joinpath(*module.split("."))
        source = place.with_suffix(".py") if place.with_suffix(".py").exists() else place / "__init__.py"
        if (place / f"{name}.py").exists():
            return True
        tree = ast.parse(source.read_text())
        return any(name in (getattr(node, "name", ""), *_targets(node)) for node in tree.body)
    try:
        return hasattr(import_module(module), name) or bool(import_module(f"{module}.{name}"))
    except ModuleNotFoundError:
        return False


def _targets(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    names = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [part.id for part in names if isinstance(part, ast.Name)]
