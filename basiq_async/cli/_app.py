"""The commands, put together. A new command is one line of the table."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Annotated, Any

import typer

from .._version import __version__
from . import _completion
from ._compare import compare
from ._demo import demo
from ._events import events_app
from ._fleet_jobs import jobs_app, worker
from ._listen import listen
from ._login import login, logout, profiles, whoami
from ._messages import messages_app
from ._mock import mock_app
from ._output import session, write
from ._quarantine import quarantine_app
from ._reconcile import reconcile
from ._recover import recover
from ._replay import replay
from ._root import Root
from ._signing import sign, verify
from ._trigger import trigger
from ._webhooks import webhooks_app

_EPILOG = """\
A terminal gets text, a pipe gets JSON lines. --json asks for JSON
lines in a terminal, --json FIELDS for some fields alone. Standard
output holds data only; notes and errors go to standard error.

Exit code   Meaning
0           all is well
1           something failed, or is left to do
2           wrong use, or wrong settings
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
    """Put the program together. With the ``words`` of a command line, only the commands among them can be run.

    typer looks at the arguments of every command before it runs one, which takes as long as all else that ``--help``
    does. Those that are not named are there with their help alone.
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
        if isinstance(command, typer.Typer):
            made.add_typer(command if named else _describe(command), name=name, rich_help_panel=panel)
        else:
            made.command(name, rich_help_panel=panel, help=command.__doc__)(command if named else _do_nothing)
    return made


def _describe(group: typer.Typer) -> typer.Typer:
    """A group of no commands, with the same help."""
    callback = group.registered_callback
    return typer.Typer(help=group.info.help or (callback.callback.__doc__ if callback and callback.callback else None))


def _do_nothing() -> None:
    """Stand in for a command that is not on the line."""


def _version(wanted: bool) -> None:
    if wanted:
        write(f"basiq-async {__version__}")
        raise typer.Exit


def _root(
    profile: Annotated[
        str | None,
        typer.Option(
            help="The name of the API key to use, anywhere on the line; see login.",
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


_completion.prepare()
app = build()
