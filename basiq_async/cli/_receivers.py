"""A user's receiver, by its place in a module."""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..receiver import WebhookReceiver

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
