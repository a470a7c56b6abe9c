"""Every ``--help``: as it was reviewed, and within the width of the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from basiq_async.cli import build_app

from ..support.command_line import run_command
from ..support.snapshots import assert_matches

SNAPSHOTS = Path(__file__).parent / "snapshots"
WRITTEN_WITH = "0.29.2"
"""The release of typer whose look the snapshots have."""


def commands(command: Any = None, *path: str) -> Iterator[tuple[str, ...]]:
    command = get_command(build_app()) if command is None else command
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, name)


@pytest.mark.skipif(typer.__version__ != WRITTEN_WITH, reason="another release of typer draws other boxes")
@pytest.mark.parametrize("path", list(commands()), ids=lambda path: " ".join(path) or "basiq-async")
def test_the_help_of_every_command(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    done = run_command(*path, "--help", env={"COLUMNS": "80"})
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert_matches(done.stdout, SNAPSHOTS / "help" / f"{'-'.join(['basiq-async', *path])}.txt")


def test_the_exit_codes_are_a_table_in_the_help() -> None:
    shown = run_command("--help").stdout
    for code in ("0", "1", "2", "130", "143"):
        assert any(line.strip().startswith(f"{code} ") for line in shown.splitlines())


def whole(*words: str) -> Any:
    """The same line by the program with all of its commands: a line has those alone that it names."""
    return CliRunner().invoke(build_app(), list(words), prog_name="basiq-async")


def test_a_program_with_only_the_commands_of_its_line_shows_the_same_help() -> None:
    assert run_command("--help").stdout == whole("--help").stdout
    for name in (path[0] for path in commands() if len(path) == 1):
        for words in ([name, "--help"], ["--profile", "webhooks", name, "--help"]):
            found = run_command(*words)
            assert (found.exit_code, found.stdout) == (0, whole(*words).stdout)


def test_a_command_that_is_not_known_is_told_of_alike_whether_the_others_are_there_or_not() -> None:
    few = run_command("webhoks", "list")
    assert (few.exit_code, few.stderr) == (2, whole("webhoks", "list").stderr)
    assert "webhooks" in few.stderr


@pytest.mark.parametrize("path", list(commands()), ids=lambda path: " ".join(path) or "basiq-async")
def test_h_is_help_and_no_help_names_a_type_of_python(path: tuple[str, ...]) -> None:
    asked = run_command(*path, "-h")
    assert asked.exit_code == 0
    assert asked.stdout == run_command(*path, "--help").stdout
    assert not re.search(r"<\w+|list\[|\bNone\b|\bTrue\b|\bFalse\b|<bool>", asked.stdout)
