"""The program: its commands, the options that may be anywhere on the line, and the display of errors."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .._version import __version__
from ..errors import BasiqError, ConfigurationError
from . import _completion
from ._checks import compare
from ._dead_letters import quarantine_app
from ._deliveries import sign, trigger, verify
from ._demo import demo
from ._fleet_jobs import jobs_app, worker
from ._history import events_app, messages_app
from ._listen import listen
from ._login import login, logout, profiles, whoami
from ._mock import add_mock_commands, mock_app
from ._output import (
    DEBUG,
    OutputClosedError,
    OutputError,
    abandon_stdout,
    flush,
    live,
    new_session,
    note,
    session,
    show_error,
    write,
    write_help,
    write_note,
)
from ._recover import reconcile, recover
from ._replay import replay
from ._results import shown_fields
from ._webhooks import webhooks_app

_EPILOG = """\
A terminal gets text, and a pipe gets JSON lines. --json prints JSON
lines in a terminal too, and --json FIELDS only these fields. Standard
output holds only data. Notes and errors go to standard error.

Exit code   Meaning
0           success
1           something failed, or is left to do
2           wrong usage, or wrong settings
130         ended by SIGINT (Ctrl-C)
143         ended by SIGTERM

Environment: BASIQ_API_KEY, BASIQ_BASE_URL, BASIQ_PROFILE,
BASIQ_WEBHOOK_SECRET, NO_COLOR; BASIQ_DEBUG=1 shows tracebacks and logs.
"""

_WORK, _HISTORY, _LOCAL, _SETTINGS = "Webhooks", "History", "Local development", "Settings"
_FLEET = "Many machines"
_COMMANDS: tuple[tuple[str, str, typer.Typer | Callable[..., Any]], ...] = (
    (_WORK, "webhooks", webhooks_app),
    (_WORK, "messages", messages_app),
    (_WORK, "events", events_app),
    (_HISTORY, "replay", replay),
    (_HISTORY, "recover", recover),
    (_HISTORY, "reconcile", reconcile),
    (_HISTORY, "quarantine", quarantine_app),
    (_FLEET, "worker", worker),
    (_FLEET, "jobs", jobs_app),
    (_LOCAL, "listen", listen),
    (_LOCAL, "trigger", trigger),
    (_LOCAL, "mock", mock_app),
    (_LOCAL, "sign", sign),
    (_LOCAL, "verify", verify),
    (_LOCAL, "compare", compare),
    (_LOCAL, "demo", demo),
    (_SETTINGS, "login", login),
    (_SETTINGS, "logout", logout),
    (_SETTINGS, "whoami", whoami),
    (_SETTINGS, "profiles", profiles),
    (_SETTINGS, "completion", _completion.completion),
)


def build(words: Collection[str] | None = None) -> typer.Typer:
    """Make the program. With the ``words`` of a command line, only the commands among these words can be run.

    typer reads the arguments of every command before it runs one, and that is slow. So commands that are not on the
    line are added with their help only.
    """
    made = typer.Typer(
        name="basiq-async",
        cls=Root,
        help="Basiq's webhooks from the command line.",
        epilog=_EPILOG,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        add_completion=False,
        # A traceback's frames can hold credentials.
        pretty_exceptions_enable=False,
    )
    made.callback()(_root)
    for panel, name, command in _COMMANDS:
        named = words is None or name in words
        if named and command is mock_app:
            add_mock_commands()
        if isinstance(command, typer.Typer):
            made.add_typer(command if named else _describe(command), name=name, rich_help_panel=panel)
        else:
            made.command(name, rich_help_panel=panel, help=command.__doc__)(command if named else _do_nothing)
    return made


def _describe(group: typer.Typer) -> typer.Typer:
    """Return a group with the same help and without commands."""
    callback = group.registered_callback
    return typer.Typer(help=group.info.help or (callback.callback.__doc__ if callback and callback.callback else None))


def _do_nothing() -> None:
    """Take the place of a command that is not on the line."""


def _version(wanted: bool) -> None:
    if wanted:
        write(f"basiq-async {__version__}")
        raise typer.Exit


def _root(
    profile: Annotated[
        str | None,
        typer.Option(
            help="The name of the stored API key to use; see login. May be anywhere on the line.",
            show_default=False,
            autocompletion=_completion.profiles,
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Basiq's webhooks from the command line."""
    session().profile = profile


_FIELDS = re.compile(r"[A-Za-z_-]+(,[A-Za-z_-]+)*,?")
_ARGUMENT = re.compile(r"^[a-z]+(_[a-z]+)+\b")
"""The name of an argument at the start of an error message of the library."""
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
        arguments, wants_json = _arrange(self, given)
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
            except (OutputClosedError, OutputError):
                raise
            except Exception as exc:
                code = _show(exc)
            flush()
        except OutputClosedError:
            # The reader of a pipe may close it early. That is not a failure.
            abandon_stdout()
            return 0
        except BasiqError as exc:
            abandon_stdout()
            return _show(exc)
        finally:
            live("")
        return code


def _reflow(command: Any) -> None:
    """Join the lines of each paragraph of a help text, so that the terminal breaks them at its own width."""
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
    """Set the name that help shows for an option's value: none for a flag, ``TEXT`` for texts, ``N`` for numbers."""
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
    """Show an exception, and return its exit code."""
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
    if hasattr(exc, "format_message"):  # in older releases of typer, the base class of its errors is not public
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


def _arrange(root: TyperGroup, given: list[str]) -> tuple[list[str], bool]:
    """Return the arguments with ``--profile`` moved to the front and ``--json`` joined with its optional value.

    The second result is whether ``--json`` is among them.
    """
    command: Any = root
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
            if _names_fields(following, shown_fields(command.callback)):
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
        else:
            command = getattr(command, "commands", {}).get(word, command)
        rest.append(word)
    return front + rest, wants_json


def _names_fields(word: str, known: Collection[str]) -> bool:
    names = [name for name in word.split(",") if name]
    return bool(_FIELDS.fullmatch(word)) and ("," in word or names[0] in known)
