"""Options and arguments that several commands take."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigurationError
from ._completion import event_types, webhook_ids
from ._files import SECRET_VARIABLE

if TYPE_CHECKING:
    from ..receiver import WebhookReceiver
    from ..replay import Where


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


_DURATION = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def selection(
    *,
    since: str | None = None,
    until: str | None = None,
    failed: bool = False,
    event: Sequence[str] | None = None,
    limit: int | None = None,
) -> Where | None:
    """Return what the options choose, None where they choose everything. Raises ``ConfigurationError``."""
    from ..replay import event_types, failed_only
    from ..replay import limit as at_most
    from ..replay import since as from_then_on
    from ..replay import until as before

    chosen: list[Where] = []
    if since is not None:
        chosen.append(from_then_on(moment(since, "--since")))
    if until is not None:
        chosen.append(before(moment(until, "--until")))
    if failed:
        chosen.append(failed_only())
    if event:
        chosen.append(event_types(*event))
    if limit:
        chosen.append(at_most(limit))
    if not chosen:
        return None
    found = chosen[0]
    for each in chosen[1:]:
        found = found & each
    return found


def moment(text: str, name: str) -> datetime | timedelta:
    """Return a length of time before now, or a date. Raises ``ConfigurationError``."""
    try:
        found = _DURATION.fullmatch(text)
        return _length(found) if found is not None else _date(text)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{name} must be a length of time such as 2d, 12h or 90m, or a date, not {text!r}"
        ) from None


def duration(text: str, name: str) -> timedelta:
    """Return a length of time. Raises ``ConfigurationError``."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ConfigurationError(f"{name} must be a length of time such as 30s, 15m, 12h or 2d, not {text!r}")
    return _length(found)


def _length(found: re.Match[str]) -> timedelta:
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _date(text: str) -> datetime:
    read = datetime.fromisoformat(text)
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)


App = Annotated[
    str,
    typer.Option(
        "--receiver",
        metavar="MODULE:RECEIVER",
        help="Where the WebhookReceiver is, such as service.hooks:receiver; or an async context manager that makes it.",
    ),
]


@asynccontextmanager
async def open_receiver(place: str) -> AsyncIterator[WebhookReceiver]:
    """Import a receiver from a module of the current folder, or of the environment.

    Raises ``ConfigurationError`` where there is none.
    """
    from ..receiver import WebhookReceiver

    found = _load(place)
    if callable(found) and not isinstance(found, WebhookReceiver):
        found = found()
    if isinstance(found, WebhookReceiver):
        try:
            yield found
        finally:
            await found.aclose()
            close = getattr(found.inbox, "aclose", None)
            if close is not None:
                await close()
        return
    if not isinstance(found, AbstractAsyncContextManager):
        raise ConfigurationError(f"{place!r} is a {type(found).__name__}, not a WebhookReceiver")
    async with found as made:
        if not isinstance(made, WebhookReceiver):
            raise ConfigurationError(f"{place!r} makes a {type(made).__name__}, not a WebhookReceiver")
        yield made


def _load(place: str) -> object:
    name, colon, attribute = place.partition(":")
    if not colon or not name or not attribute:
        raise ConfigurationError(f"a receiver is named module:variable, such as service.hooks:receiver, not {place!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: object = importlib.import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigurationError(f"{place!r} cannot be imported: {exc}") from exc
    return found
