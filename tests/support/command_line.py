"""Run the command line in this process: ``basiq_async.cli.main`` with its own arguments and standard streams."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import math
import os
import sys
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from typer.main import get_command

from basiq_async.cli import build_app, main

from .real_time import PatientLoop
from .warm import CLIENT

COLD = (sys.executable, "-c", "from basiq_async.cli import main; main()")
"""The words that run it in a process of its own."""
PROGRAM = COLD if not hasattr(os, "fork") else (*CLIENT, "basiq_async.cli:main")
"""The same in a process that begins warm."""
HASTY = COLD if not hasattr(os, "fork") else (*CLIENT, "tests.support.hasty:main")
"""The same with a hundredth of the waits between requests."""


@dataclass(frozen=True)
class CommandResult:
    """A command that has ended: its exit code, and its output."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The JSON lines of standard output."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def row(self) -> dict[str, Any]:
        """The only JSON line of standard output."""
        (row,) = self.rows
        return row


class _Stream(io.TextIOWrapper):
    """A standard stream whose text is kept.

    ``terminal``: whether it claims to be a terminal. ``reads``: the number of lines after which its reader leaves."""

    def __init__(self, content: bytes = b"", *, terminal: bool = False, reads: float = math.inf) -> None:
        self._terminal = terminal
        self._left = reads
        self._kept = io.BytesIO(content)
        super().__init__(self._kept, encoding="utf-8")

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        if self._left <= 0:
            raise BrokenPipeError
        self._left -= text.count("\n")
        return super().write(text)

    def text(self) -> str:
        self.flush()
        return self._kept.getvalue().decode()


@functools.cache
def program() -> Any:
    """The program, which takes typer 50 ms to build: longer than most commands last."""
    return get_command(build_app())


def commands(command: Any = None, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command and group of the program, with the words that name it."""
    command = program() if command is None else command
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, name)


def _run(work: Coroutine[Any, Any, object]) -> object:
    """As ``asyncio.run``, with time limits that do not depend on the load of the machine."""
    with asyncio.Runner(loop_factory=PatientLoop) as runner:
        return runner.run(work)


def run_command(
    *words: str,
    stdin: str | bytes = b"",
    env: Mapping[str, str | None] | None = None,
    terminal: bool = False,
    reads: float = math.inf,
) -> CommandResult:
    """Run ``basiq-async`` with these arguments.

    terminal: whether standard output and standard error are a terminal. reads: the number of lines of output after
    which their reader leaves. env: variables of the environment; None removes a variable.
    """
    streams = {
        "stdin": _Stream(stdin.encode() if isinstance(stdin, str) else stdin),
        "stdout": _Stream(terminal=terminal, reads=reads),
        "stderr": _Stream(terminal=terminal),
    }
    built = program()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("basiq_async.cli._app.build", lambda words: built)
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        patch.setattr(sys, "argv", ["basiq-async", *words])
        patch.setattr("asyncio.run", _run)
        for name, value in (env or {}).items():
            patch.setenv(name, value) if value is not None else patch.delenv(name, raising=False)
        try:
            main()
            code: object = 0
        except SystemExit as ended:
            code = ended.code
        assert code is None or isinstance(code, int), code
        return CommandResult(code or 0, streams["stdout"].text(), streams["stderr"].text())
