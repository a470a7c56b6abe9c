"""The program: its commands, the options before a command, the display of errors, and help that cuts no name."""

from __future__ import annotations

import inspect
import io
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from shutil import get_terminal_size
from typing import Annotated, Any

import typer
from typer.main import get_command

from .. import __version__
from .._redaction.tracebacks import hide_parameters
from .._work.failures import failure_text, reason_text
from ..errors import AuthenticationError, BasiqError, ConfigurationError, NotFoundError, PermissionDeniedError
from ._command import command
from ._options import complete_profile, option, prepare_completion
from ._output import (
    DEBUG,
    OutputClosedError,
    OutputError,
    abandon_stdout,
    flush,
    live,
    new_session,
    say,
    session,
    show_error,
    write,
    write_help,
    write_line,
)
from ._run import MEANINGS, WRONG, exit_code, run_until_signal

_EPILOG = """\
A terminal gets text, and a pipe gets JSON lines. `--json` prints JSON lines in a terminal too, and `--json=id,status`
only these fields. Standard output holds only data. Notes and errors go to standard error; without a terminal, a command
that lasts tells there every 30 s how far it is.

| Exit code | Meaning |
|---|---|
{}

Environment: BASIQ_API_KEY, BASIQ_BASE_URL, BASIQ_PROFILE, BASIQ_WEBHOOK_SECRET, BASIQ_WEBHOOK_ID, NO_COLOR;
BASIQ_DEBUG=1 shows tracebacks and logs.
""".format("\n".join(f"| {code} | {meaning} |" for code, meaning in MEANINGS.items()))

_COMMANDS: Mapping[str, Mapping[str, str]] = {
    "Webhooks": {"webhooks": "_webhooks", "messages": "_history", "events": "_events"},
    "History": {"replay": "_replay", "recover": "_recover", "quarantine": "_quarantine", "inbox": "_waiting"},
    "Deferred handlers": {"work": "_waiting"},
    "Local development": {
        "listen": "_listen", "trigger": "_deliveries", "mock": "_mock", "sign": "_deliveries", "verify": "_deliveries",
        "demo": "_demo",
    },
    "Settings": {
        **dict.fromkeys(("login", "logout", "whoami", "profiles"), "_profiles"), "completion": "_options",
    },
}  # fmt: skip
"""The module of each command, by the heading that it has in the help."""


def build(words: Collection[str] = ()) -> typer.Typer:
    """Make the program with the commands that are among these words: the others are slow to import. Else with all."""
    made = typer.Typer(
        name="basiq-async",
        epilog=_EPILOG,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="markdown",
        add_completion=False,
        # A traceback's frames can hold credentials.
        pretty_exceptions_enable=False,
    )
    made.callback()(_root)
    places = [(panel, name, module) for panel, inner in _COMMANDS.items() for name, module in inner.items()]
    for panel, name, place in [each for each in places if each[1] in words] or places:
        module = import_module(f"{__package__}.{place}")
        if (group := getattr(module, f"{name}_app", None)) is not None:
            made.add_typer(group, name=name, rich_help_panel=panel)
        else:
            made.command(name, rich_help_panel=panel)(getattr(module, name))
    return made


def _version(wanted: bool) -> None:
    if wanted:
        write(f"basiq-async {__version__}")
        raise typer.Exit


@command()
def _root(
    profile: Annotated[str | None, option(autocompletion=complete_profile)] = None,
    timeout: Annotated[float | None, option(None, min=0.001)] = None,
    base_url: str | None = None,
    version: Annotated[bool, option(None, "--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Basiq's webhooks from the command line.

    profile: The name of the stored API key to use; see login.
    timeout N: Maximum seconds for a request with its retries. By default 30 for each attempt, and 120.
    base_url URL: The API's URL, in place of BASIQ_BASE_URL.
    version: Show the version.
    """
    session().profile = profile
    session().timeout = timeout
    session().base_url = base_url


def run(given: Sequence[str]) -> int:
    """Run the command line, and return its exit code."""
    end = given.index("--") if "--" in given else len(given)
    # typer has no option whose value is optional: --json alone gets an empty value.
    words = ["--json=" if word == "--json" else word for word in given[:end]]
    is_help = prepare_completion() or not {"-h", "--help"}.isdisjoint(words)
    with new_session(json=any(word.startswith("--json=") for word in words)):
        try:
            try:
                program: Any = build(() if is_help else words)
                if isinstance(program, typer.Typer):
                    program = get_command(program)
                _cut_no_names(program)
                found = program(args=[*words, *given[end:]], prog_name="basiq-async", standalone_mode=False)
                if inspect.iscoroutine(found):  # of a command that is an async function
                    found = run_until_signal(found)
                code = found if isinstance(found, int) else 0
            except typer.Exit as exc:
                code = exc.exit_code
            except (OutputClosedError, OutputError):
                raise
            except Exception as exc:
                code = _show(exc)
            live(None)
            flush()
        except OutputClosedError:
            # The reader of a pipe may close it early. That is not a failure.
            abandon_stdout()
            return 129 if session().hung_up else 0
        except BasiqError as exc:
            abandon_stdout()
            return _show(exc)
        finally:
            live(None)
        return code


_ARGUMENT = re.compile(r"^[a-z]+(_[a-z]+)+\b")
"""The name of an argument at the start of an error message of the library."""
_EVIDENCE = ("status", "code", "parameter", "correlation_id", "retry_after", "method", "path", "attempts", "location",
             "reason")  # fmt: skip


def _show(exc: Exception) -> int:
    """Show an exception, and return its exit code."""
    live(None)
    code = exit_code(exc)
    if os.environ.get(DEBUG):
        import traceback

        for line in "".join(traceback.format_exception(hide_parameters(exc))).splitlines():
            write_line(line)
    if isinstance(exc, BasiqError):
        evidence = {name: getattr(exc, name, None) for name in _EVIDENCE}
        known = {name: value for name, value in evidence.items() if value is not None}
        text = reason_text(exc)
        if isinstance(exc, (AuthenticationError, NotFoundError, PermissionDeniedError)) and session().key is not None:
            text = f"{text} (with the key of {session().key})"
        if isinstance(exc, ConfigurationError):
            text = _ARGUMENT.sub(lambda found: found[0].replace("_", " "), text)
        show_error(f"{type(exc).__name__}: {text}", kind=type(exc).__name__, exit_code=code, **known)
        return code
    if isinstance(exc, typer.Abort):
        show_error("nothing was entered", kind="Aborted", exit_code=WRONG)
        return WRONG
    if hasattr(exc, "format_message"):  # the base class of typer's errors is not public in each of its releases
        return _show_usage(exc)
    text = f"unexpected {failure_text(exc, longest=500)} (set {DEBUG}=1 for a traceback)"
    show_error(text, kind=type(exc).__name__, exit_code=code)
    return code


def _show_usage(exc: Any) -> int:
    context, code = getattr(exc, "ctx", None), int(exc.exit_code)
    if type(exc).__name__ == "NoArgsIsHelpError":
        if context is not None:
            write_help(context.get_help())
        return code
    show_error(exc.format_message(), kind="UsageError", exit_code=code)
    if context is not None:
        say(f"See '{context.command_path} --help'.")
    return code


# --- help ---

_ALWAYS_ENOUGH = 120
_CUT = "…"
_ROW = re.compile(r"^\| (?!Exit)(\S+) +\| (.*?) *\|$\n?", re.MULTILINE)
_TABLE_HEAD = re.compile(r"^\|(?: Exit|-).*\n", re.MULTILINE)


def _cut_no_names(command: Any) -> None:
    """Let a command and the commands below it show their whole help at any width of the terminal.

    Where rich's columns are too narrow for a command's options, they are a plain list.
    """
    command.format_help = partial(_format_help, command)
    for inner in getattr(command, "commands", {}).values():
        _cut_no_names(inner)


def _format_help(command: Any, context: Any, formatter: Any) -> None:
    write_help = partial(_until_reader_leaves, partial(type(command).format_help, command, context, formatter))
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


def _until_reader_leaves(write: Any) -> None:
    try:
        write()
    except SystemExit:  # rich ends a program whose reader has left
        raise OutputClosedError from None


def _is_cut(write_help: Any) -> bool:
    with redirect_stdout(io.StringIO()) as written:
        write_help()
    return _CUT in written.getvalue()


def _without_table(markdown: str) -> str:
    """Return a text with each row of its table as a paragraph."""
    return _ROW.sub(r"\1: \2\n\n", _TABLE_HEAD.sub("", markdown))
