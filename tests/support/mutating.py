"""Runs collected tests in forks of their process, each with a change of the code that only the fork sees.

As a plugin of pytest, it has only the tests run that the file ``BASIQ_MUTANTS_ONLY`` names. For ``tests/mutants.py``.
"""

from __future__ import annotations

import gc
import os
import pkgutil
import signal
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import suppress
from functools import _lru_cache_wrapper
from pathlib import Path
from types import CodeType, FunctionType

import pytest
from coverage import Coverage, CoverageData


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if file := os.environ.get("BASIQ_MUTANTS_ONLY"):
        only = Path(file).read_text().splitlines()
        items[:] = [each for each in items if each.nodeid in only]


class Forks:
    """A plugin of pytest. In place of the collected tests, the session calls ``work`` with this."""

    def __init__(self, folder: Path, work: Callable[[Forks], None]) -> None:
        self._folder = folder
        self._work = work
        self._items: dict[str, pytest.Item] = {}
        self._failed = False
        self._seconds: dict[str, float] = {}
        self._coverage = Coverage(data_file=str(folder / "lines"), include=["*/basiq_async/*"], config_file=False)
        self._coverage.set_option("run:core", "ctrace")  # the default of Python 3.14 tells no test from another

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._items = {item.nodeid: item for item in session.items}
        session.config.pluginmanager.unregister(name="terminalreporter")  # it would write a line for each mutant
        if not session.testsfailed:
            self._work(self)
        return True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        began = time.monotonic()
        try:
            return (yield)
        finally:
            self._seconds[item.nodeid] = time.monotonic() - began

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed = True
            print(report.nodeid, report.longreprtext)

    def measure(self) -> tuple[dict[str, dict[int, list[str]]], dict[str, float]]:
        """Run all tests once. Return which of them runs which line of which file, and the seconds of each."""
        times = self._folder / "times"

        def run() -> None:
            self._coverage.start()
            self._run(list(self._items), self._coverage.switch_context)
            self._coverage.stop()
            self._coverage.save()
            times.write_text("".join(f"{seconds}\t{name}\n" for name, seconds in self._seconds.items()))

        if self._fails(run, 3_600):
            raise SystemExit(f"the tests fail without a change:\n{(self._output).read_text()[-3_000:]}")
        data = CoverageData(str(self._folder / "lines"))
        data.read()
        pairs = (line.split("\t", 1) for line in times.read_text().splitlines())
        lines = {path: data.contexts_by_lineno(path) for path in data.measured_files()}
        return lines, {name: float(seconds) for seconds, name in pairs}

    def notice(self, names: Sequence[str], change: Callable[[], object], limit: float) -> bool:
        """Return whether one of the tests fails, or does not end in ``limit`` seconds, in a fork with a change."""

        def run() -> None:
            gc.unfreeze()
            change()
            self._run(names)

        return self._fails(run, limit)

    @property
    def _output(self) -> Path:
        return self._folder / f"output-{os.getpid()}"

    def _run(self, names: Sequence[str], on_test: Callable[[str], object] = lambda name: None) -> None:
        items = [self._items[name] for name in names]
        for item, following in zip(items, [*items[1:], None], strict=True):
            on_test(item.nodeid)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._failed:
                return

    def _fails(self, run: Callable[[], None], limit: float) -> bool:
        output = self._output
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                with output.open("w") as file:
                    os.dup2(file.fileno(), 1)
                    os.dup2(file.fileno(), 2)
                run()
            except BaseException as exc:
                self._failed = True
                print(f"{type(exc).__name__}: {exc}")
            finally:
                sys.stdout.flush()
                os._exit(self._failed)
        until = time.monotonic() + limit
        ended = status = 0
        while not ended and time.monotonic() < until:
            time.sleep(0.01)
            ended, status = os.waitpid(pid, os.WNOHANG)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if not ended:
            os.waitpid(pid, 0)
        return not ended or status != 0


def replace_code(path: Path, source: bytes, functions: Collection[tuple[str, int]]) -> None:
    """Give functions of a file, by their names and first lines, the code that they have in ``source``."""
    codes = {
        (each.co_name, each.co_firstlineno): each
        for each in _codes_in(compile(source, str(path), "exec", dont_inherit=True))
    }
    changed = 0
    for function in [each for each in gc.get_objects() if isinstance(each, FunctionType)]:
        name = function.__code__.co_name, function.__code__.co_firstlineno
        if function.__code__.co_filename == str(path) and name in functions:
            function.__code__ = codes[name]
            changed += 1
    assert changed, f"{path} has none of the functions {functions}"


def replace_text(path: Path, source: bytes) -> None:
    """Let a file of a package that is not Python have another content, and forget what was read of it."""
    read = pkgutil.get_data
    pkgutil.get_data = lambda package, name: source if name == path.name else read(package, name)
    for each in gc.get_objects():
        if isinstance(each, _lru_cache_wrapper) and each.__module__.startswith("basiq_async."):
            each.cache_clear()


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes_in(each)
