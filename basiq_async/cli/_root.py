"""The outermost command: reads what may stand anywhere on the line, and shows every failure as one line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from ..errors import BasiqError, ConfigurationError
from ._output import (
    DEBUG,
    FIELD_NAMES,
    OutputClosedError,
    abandon_stdout,
    flush,
    live,
    new_session,
    note,
    show_error,
    write_help,
    write_note,
)

_FIELDS = re.compile(r"[A-Za-z_-]+(,[A-Za-z_-]+)*,?")
_ARGUMENT = re.compile(r"^[a-z]+(_[a-z]+)+\b")
"""An argument of the library, which its errors about arguments begin with."""
_EVIDENCE = ("status", "code", "parameter", "correlation_id", "retry_after", "method", "path", "attempts", "location",
             "reason")  # fmt: skip


class Root(TyperGroup):
    """The group of all commands."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        _reflow(self)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; see ``basiq-async --help`` for the exit codes."""
        given = list(sys.argv[1:] if args is None else args)
        arguments, wants_json = _arrange(given)
        with new_session(json=wants_json):
            code = self._guard(arguments, prog_name, complete_var, windows_expand_args, extra)
        if standalone_mode:
            sys.exit(code)
        return code

    def _guard(
        self,
        arguments: list[str],
        prog_name: str | None,
        complete_var: str | None,
        windows_expand_args: bool,
        extra: dict[str, Any],
    ) -> int:
        try:
            try:
                found = super().main(
                    arguments, prog_name or "basiq-async", complete_var, False, windows_expand_args, **extra
                )
                code = found if isinstance(found, int) else 0
            except OutputClosedError:
                raise
            except Exception as exc:
                code = _show(exc)
            flush()
        except OutputClosedError:
            # Who reads a pipe says when it is enough: no failure.
            abandon_stdout()
            return 0
        except BasiqError as exc:
            abandon_stdout()
            return _show(exc)
        finally:
            live("")
        return code


def _reflow(command: Any) -> None:
    """Join the lines of each paragraph of a help text: the terminal breaks them where it is wide enough."""
    if command.help and command.params is not None:
        paragraphs = command.help.replace("\f", "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for param in command.params or ():
        _name_value(param)
    make_help_option = command.get_help_option

    def get_help_option(context: Any) -> Any:
        option = make_help_option(context)
        if option is not None:
            option.metavar = ""
        return option

    command.get_help_option = get_help_option
    for inner in getattr(command, "commands", {}).values():
        _reflow(inner)


def _name_value(param: Any) -> None:
    """Name an option's value in words of the command line: nothing for a flag, ``TEXT`` for a list of texts."""
    if param.param_type_name == "argument":
        if param.metavar is None:
            param.metavar = param.name.upper()
        param.display_type_rich = lambda ctx: None
    elif getattr(param, "is_flag", False):
        param.metavar = ""
    elif param.metavar is None:
        kind = str(param.type_descriptor.annotation)
        param.metavar = "N" if "int" in kind or "float" in kind else "FILE" if "Path" in kind else "TEXT"


def _show(exc: Exception) -> int:
    """Show an exception; return the exit code that goes with it."""
    if os.environ.get(DEBUG):
        import traceback

        for line in "".join(traceback.format_exception(exc)).splitlines():
            write_note(line)
    if isinstance(exc, BasiqError):
        code = 2 if isinstance(exc, ConfigurationError) else 1
        evidence = {name: getattr(exc, name, None) for name in _EVIDENCE}
        known = {name: value for name, value in evidence.items() if value is not None}
        text = str(exc)
        if isinstance(exc, ConfigurationError):
            text = _ARGUMENT.sub(lambda found: found[0].replace("_", " "), text)
        show_error(f"{type(exc).__name__}: {text}", kind=type(exc).__name__, exit_code=code, **known)
        return code
    if isinstance(exc, typer.Abort):
        show_error("nothing was entered", kind="Aborted", exit_code=1)
        return 1
    if hasattr(exc, "format_message"):  # the root of typer's errors has no public name in its older releases
        return _shown_usage(exc)
    show_error(
        f"unexpected {type(exc).__name__}: {str(exc)[:500]} (set {DEBUG}=1 for a traceback)",
        kind=type(exc).__name__,
        exit_code=1,
    )
    return 1


def _shown_usage(exc: Any) -> int:
    context, code = getattr(exc, "ctx", None), int(exc.exit_code)
    if type(exc).__name__ == "NoArgsIsHelpError":
        if context is not None:
            write_help(context.get_help())
        return code
    show_error(exc.format_message(), kind="UsageError", exit_code=code)
    if context is not None:
        note(f"See '{context.command_path} --help'.")
    return code


def _arrange(given: list[str]) -> tuple[list[str], bool]:
    """Give ``--json`` its optional value, and put ``--profile`` in front, wherever it stood."""
    front: list[str] = []
    rest: list[str] = []
    wants_json = False
    left = iter(enumerate(given))
    for index, word in left:
        if word == "--":
            rest += given[index:]
            break
        following = given[index + 1] if index + 1 < len(given) else ""
        if word == "--json":
            wants_json = True
            if _names_fields(following):
                next(left)
                word = f"--json={following}"
            else:
                word = "--json="
        elif word.startswith("--json="):
            wants_json = True
        elif word == "--profile" and following:
            next(left)
            front += [word, following]
            continue
        elif word.startswith("--profile="):
            front.append(word)
            continue
        rest.append(word)
    return front + rest, wants_json


def _names_fields(word: str) -> bool:
    names = [name for name in word.split(",") if name]
    return bool(_FIELDS.fullmatch(word)) and ("," in word or names[0] in FIELD_NAMES)
