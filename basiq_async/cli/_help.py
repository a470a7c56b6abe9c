"""Help that cuts no name: where rich's columns are too narrow for a command's options, they are a plain list."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from functools import partial
from shutil import get_terminal_size
from typing import Any

_ALWAYS_ENOUGH = 120
_CUT = "…"
_ROW = re.compile(r"^\| (?!Exit)(\S+) +\| (.*?) *\|$\n?", re.MULTILINE)
_TABLE_HEAD = re.compile(r"^\|(?: Exit|-).*\n", re.MULTILINE)


def cut_no_names(command: Any) -> None:
    """Let a command and the commands below it show their whole help at any width of the terminal."""
    command.format_help = partial(_format_help, command)
    for inner in getattr(command, "commands", {}).values():
        cut_no_names(inner)


def _format_help(command: Any, context: Any, formatter: Any) -> None:
    write_help = partial(type(command).format_help, command, context, formatter)
    columns = get_terminal_size((80, 24)).columns
    if columns >= _ALWAYS_ENOUGH or not _is_cut(write_help):
        write_help()
        return
    # Names stand above their texts where there is no room beside them.
    formatter.width = max(columns - 2, 20)
    formatter.write_dl = partial(formatter.write_dl, col_max=max(columns // 2 - 10, 6))
    mode, epilog = command.rich_markup_mode, command.epilog
    command.rich_markup_mode, command.epilog = None, epilog and _without_table(epilog)
    try:
        write_help()
    finally:
        command.rich_markup_mode, command.epilog = mode, epilog


def _is_cut(write_help: Any) -> bool:
    with redirect_stdout(io.StringIO()) as written:
        write_help()
    return _CUT in written.getvalue()


def _without_table(markdown: str) -> str:
    """Return a text with each row of its table as a paragraph."""
    return _ROW.sub(r"\1: \2\n\n", _TABLE_HEAD.sub("", markdown))
