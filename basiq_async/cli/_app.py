"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from .._version import __version__
from ._demo import demo
from ._events import events_app
from ._listen import listen, trigger
from ._messages import messages_app
from ._mock import mock
from ._replay import replay
from ._signing import sign, verify
from ._webhooks import webhooks_app

app = typer.Typer(
    name="basiq-async",
    help="Basiq's webhooks from the command line. BASIQ_API_KEY and BASIQ_BASE_URL are read from the environment.",
    no_args_is_help=True,
    add_completion=False,
    # A traceback's frames can hold credentials.
    pretty_exceptions_enable=False,
)
app.command("demo")(demo)
app.add_typer(webhooks_app, name="webhooks")
app.add_typer(messages_app, name="messages")
app.add_typer(events_app, name="events")
for command in (listen, trigger, replay, sign, verify, mock):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"basiq-async {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Basiq's webhooks from the command line."""
