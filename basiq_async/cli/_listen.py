"""``basiq-async listen``: receive deliveries on this machine, or read new messages from the history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import attrs
import typer

from ..errors import ConfigurationError
from ._completion import event_types, option, webhook_ids
from ._options import SECRET_VARIABLE, Json, check_documented, read_secrets
from ._results import Output
from ._run import run_until_signal


@attrs.frozen(kw_only=True)
class ListenOptions:
    """What to receive or to poll, and what to do with it. ``webhook_id``: None polls all webhooks."""

    forward_to: str | None
    event: Sequence[str] | None
    webhook_id: str | None
    since: str | None
    every: float
    checkpoint: str | None
    limit: int
    body: bool


def listen(
    secret: Annotated[
        list[str] | None,
        option(
            "The webhook's signing secret. Prefer the environment variable or --secret-file. May be repeated.",
            "--secret",
            envvar=SECRET_VARIABLE,
        ),
    ] = None,
    secret_file: Annotated[Path | None, option("A file with the signing secrets, one per line.")] = None,
    forward_to: Annotated[
        str | None, option("Forward each genuine delivery to this service.", "--forward-to", metavar="URL")
    ] = None,
    event: Annotated[
        list[str] | None,
        option(
            "Only these event types, such as user.created or consent.*; may be repeated.",
            "--event",
            "--events",
            autocompletion=event_types,
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="The port to listen on; 0 for any free port.")] = 8080,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    path: Annotated[str, typer.Option(help="The path that deliveries are posted to.")] = "/basiq",
    poll: Annotated[
        str | None,
        option(
            "Read this webhook's new messages from Basiq; needs no public address.",
            metavar="WEBHOOK_ID",
            autocompletion=webhook_ids,
        ),
    ] = None,
    poll_all: Annotated[bool, option("Like --poll, for all webhooks.", "--poll-all", "--all")] = False,
    since: Annotated[
        str | None, option("With --poll: the first run begins that long ago, such as 10m.", metavar="TIME")
    ] = None,
    every: Annotated[float, typer.Option(min=1, help="With --poll: the seconds between two requests.")] = 5.0,
    checkpoint: Annotated[
        str | None, option("With --poll: the checkpoint file. By default it is named after the webhook.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="End after N genuine deliveries; 0 for no limit.")] = 0,
    body: Annotated[bool, option("Also show the bodies of genuine deliveries.", "--body")] = False,
    json: Json = None,
) -> None:
    """Receive deliveries, verify them, and print each one, until SIGINT or SIGTERM. Refused deliveries are printed too.

    With --forward-to, your service gets each genuine delivery unchanged, and Basiq gets your service's response. With
    --poll, you need no tunnel and no public address: new messages are read from Basiq's history, and with --forward-to
    posted with a new signature. Messages from the time when the program was off come first.
    """
    options = ListenOptions(
        forward_to=forward_to, event=event, webhook_id=poll, since=since, every=every, checkpoint=checkpoint,
        limit=limit, body=body,
    )  # fmt: skip
    output = Output(json)
    if poll is not None or poll_all:
        from ._polling import Polling

        if poll is not None and poll_all:
            raise ConfigurationError("--poll and --all cannot be used together")
        secrets = read_secrets(secret_file, secret) if forward_to is not None else []
        run_until_signal(Polling(output, options, secrets).run)
        return
    if since is not None or checkpoint is not None:
        raise ConfigurationError("--since and --checkpoint require --poll or --all")
    from ._serving import Listener

    if not path.startswith("/"):
        raise ConfigurationError(f"--path must begin with a /, not {path!r}")
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"--port must be from 0 to 65535, not {port}")
    check_documented(event)
    listener = Listener(output, options, read_secrets(secret_file, secret))
    run_until_signal(lambda: listener.serve(host, port, path))
