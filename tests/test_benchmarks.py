"""The benchmarks use names that exist. They run by `make bench` alone, so that nothing else would tell."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest

import benchmarks
from benchmarks import tables
from benchmarks._harness import Figure

from .support.environment import ROOT

FILES = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_benchmark_imports_what_exists(file: Path) -> None:
    missing = [f"{module}.{name}" for module, name in _imported(file) if not _exists(module, name)]
    assert missing == []


def test_the_tables_that_are_committed_are_of_the_figures_that_are() -> None:
    for path, text in tables.texts(tables.committed()).items():
        assert path.read_text() == text, f"{path.name} does not have the figures of results.json: make generated"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run of the benchmarks, in place of which one program measures, one fails and one needs a server."""
    # As make bench has them; the tests have none of the peers.
    names = ("deferred", "export", "growth", "memory", "prefetch", "receiver_load", "replay_sql")
    for name in (*names, "service", "signature", "stream"):
        monkeypatch.setitem(sys.modules, f"benchmarks.{name}", module := ModuleType(name))
        monkeypatch.setattr(benchmarks, name, module, raising=False)
    monkeypatch.delitem(sys.modules, "benchmarks.run", raising=False)
    run = import_module("benchmarks.run")
    monkeypatch.delitem(sys.modules, "benchmarks.run")
    figures = tables.committed().figures
    again = [one for one in figures if one.program == "stream"]

    async def stream() -> list[Figure]:
        return [attrs.evolve(one, value=9.0, program="") for one in again]

    async def broken() -> list[Figure]:
        raise AssertionError("the peer does not start")

    programs = dict.fromkeys(dict.fromkeys(one.program for one in figures), stream) | {"signature": broken}
    monkeypatch.setattr(run, "programs", lambda quick: programs)
    monkeypatch.setattr(run, "_NEEDS", {name: "postgresql" for name in programs if name not in ("stream", "signature")})
    monkeypatch.setattr(run, "_SERVERS", {"postgresql": None})
    monkeypatch.setattr(run, "_machine", lambda: dict(tables.committed().machine))
    results = tmp_path / "results.json"
    results.write_text(tables.RESULTS.read_text())
    monkeypatch.setattr(tables, "RESULTS", results)
    monkeypatch.setattr(tables, "write", lambda: None)
    return run


def test_what_cannot_be_measured_keeps_its_figures_and_costs_no_others(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tables.committed().figures
    monkeypatch.setattr(sys, "argv", ["run"])
    assert bench.main() == 1
    said = capsys.readouterr().out
    assert "service is skipped: it needs postgresql, which is not installed here" in said.splitlines()
    assert said.index("service is skipped") < said.index("stream:"), "it says so after minutes"
    assert "signature FAILED" in said
    found = tables.committed()
    assert [one.value for one in found.figures if one.program == "stream"] == [9.0] * 4
    assert [one for one in found.figures if one.program != "stream"] == [
        one for one in before if one.program != "stream"
    ]
    assert "signature (failed)" in tables.table(found)
    assert "service (no postgresql)" in tables.table(found)
    monkeypatch.setattr(sys, "argv", ["run", "stream"])
    assert bench.main() == 0
    assert "signature (failed)" in tables.table(tables.committed()), "a run of one program forgets it"


@pytest.mark.parametrize(
    ("low", "high", "mark", "verdict"),
    [
        (1.0, 1.2, "<= 1.2", "reached"),
        (1.0, 1.3, "<= 1.2", "between"),
        (1.3, 1.4, "<= 1.2", "missed"),
        (1.9, 2.0, ">= 1.9", "reached"),
        (1.8, 2.0, ">= 1.9", "between"),
        (1.7, 1.8, ">= 1.9", "missed"),
        (1.7, 1.8, "", None),
    ],
)
def test_a_mark_is_reached_only_by_all_runs(low: float, high: float, mark: str, verdict: str | None) -> None:
    assert Figure("a job", "a peer", (low + high) / 2, low, high, mark).verdict == verdict


def test_a_run_on_another_machine_says_what_can_be_compared(bench: Any) -> None:
    committed = tables.committed()
    assert bench.describe_other_machine(dict(committed.machine), committed.machine) is None
    said = bench.describe_other_machine({**committed.machine, "processor": "another"}, committed.machine)
    assert "Only memory, and this package against itself" in said
    worse = [
        attrs.evolve(one, value=one.value * (0.1 if one.mark.startswith(">=") else 10)) for one in committed.figures
    ]
    here = bench.lost(worse, committed.figures)
    elsewhere = bench.lost(worse, committed.figures, elsewhere=True)
    assert 0 < len(elsewhere) < len(here)


def _imported(file: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ("basiq_async", "benchmarks"):
            yield from ((node.module or "", alias.name) for alias in node.names)


def _exists(module: str, name: str) -> bool:
    if not module.startswith("benchmarks"):
        return hasattr(import_module(module), name) or find_spec(f"{module}.{name}") is not None
    # Some of them need packages that only `make bench` installs.
    place = ROOT.joinpath(*module.split("."))
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    defined = re.search(rf"^[\w, ]*\b{name}\b", source.read_text(), re.MULTILINE)
    return defined is not None or (place / f"{name}.py").exists()
