"""The commands, put together. A new command is one line here."""

from __future__ import annotations

from typing import Annotated

import typer

from .._version import __version__
from . import _completion
from ._compare import compare
from ._demo import demo
from ._events import events_app
from ._jobs import jobs_app
from ._listen import listen
from ._login import login, logout, whoami
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
from ._worker import worker

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

_completion.prepare()
app = typer.Typer(
    name="basiq-async",
    cls=Root,
    help="Basiq's webhooks from the command line.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    # A traceback's frames can hold credentials.
    pretty_exceptions_enable=False,
)
_WORK, _HISTORY, _LOCAL, _SETTINGS = "Webhooks", "History", "Local development", "Settings"
_FLEET = "Many machines"
app.add_typer(webhooks_app, name="webhooks", rich_help_panel=_WORK)
app.add_typer(messages_app, name="messages", rich_help_panel=_WORK)
app.add_typer(events_app, name="events", rich_help_panel=_WORK)
app.command(rich_help_panel=_HISTORY)(replay)
app.command(rich_help_panel=_HISTORY)(recover)
app.command(rich_help_panel=_HISTORY)(reconcile)
app.add_typer(quarantine_app, name="quarantine", rich_help_panel=_HISTORY)
app.command(rich_help_panel=_FLEET)(worker)
app.add_typer(jobs_app, name="jobs", rich_help_panel=_FLEET)
app.command(rich_help_panel=_LOCAL)(listen)
app.command(rich_help_panel=_LOCAL)(trigger)
app.add_typer(mock_app, name="mock", rich_help_panel=_LOCAL)
app.command(rich_help_panel=_LOCAL)(sign)
app.command(rich_help_panel=_LOCAL)(verify)
app.command(rich_help_panel=_LOCAL)(compare)
app.command(rich_help_panel=_LOCAL)(demo)
app.command(rich_help_panel=_SETTINGS)(login)
app.command(rich_help_panel=_SETTINGS)(logout)
app.command(rich_help_panel=_SETTINGS)(whoami)
app.command(rich_help_panel=_SETTINGS)(_completion.completion)


def _version(wanted: bool) -> None:
    if wanted:
        write(f"basiq-async {__version__}")
        raise typer.Exit


@app.callback()
def root(
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
