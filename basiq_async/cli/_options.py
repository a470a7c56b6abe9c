"""Options and arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._completion import event_types, webhook_ids
from ._files import SECRET_VARIABLE

Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="[FIELDS]",
        help="JSON lines, as in a pipe; errors are JSON too. FIELDS, such as id,status, shows these alone.",
        show_default=False,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="The newest N alone; 0 for all. A terminal shows 50, a pipe gets all.",
        metavar="N",
        show_default=False,
    ),
]
Raw = Annotated[bool, typer.Option("--raw", help="As the API sent it, as JSON.")]
Filter = Annotated[
    str | None, typer.Option(help="A filter in Basiq's syntax, which Basiq applies.", show_default=False)
]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="First tried then or later: 2d, 90m, or a date.", show_default=False),
]
Until = Annotated[
    str | None,
    typer.Option("--until", metavar="TIME", help="First tried before that; as --since.", show_default=False),
]
Failed = Annotated[bool, typer.Option("--failed", help="Only what no attempt delivered.")]
EventPattern = Annotated[
    list[str] | None,
    typer.Option(
        "--event",
        help="Only these types: exact, or a beginning such as consent.*; may be repeated.",
        show_default=False,
        autocompletion=event_types,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
WebhookId = Annotated[str, typer.Argument(help="The webhook's id.", autocompletion=webhook_ids)]
EndpointSecretFile = Annotated[
    Path | None,
    typer.Option(
        "--secret-file",
        help=f"The file with the endpoint's signing secret; else {SECRET_VARIABLE} has it.",
        show_default=False,
    ),
]
