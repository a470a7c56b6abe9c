"""Open what an option names: a receiver or a function of the user's own module, or an inbox by its address."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Annotated

from ..errors import BasiqError, ConfigurationError, InboxError
from ._completion import option

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from ..receiver import Inbox, WebhookReceiver
    from ..replay import Checkpoint

WEBHOOK_VARIABLE = "BASIQ_WEBHOOK_ID"

Receiver = Annotated[
    str | None,
    option(
        "A WebhookReceiver, or a function that makes it or an async context manager of it; such as "
        "service.hooks:receiver.",
        "--receiver",
        metavar="MODULE:RECEIVER",
    ),
]
InboxPlace = Annotated[
    str | None,
    option(
        "The inbox of the service: the file of a SQLiteInbox, or a URL such as postgresql+asyncpg://... or redis://...",
        "--inbox",
        metavar="URL|FILE",
    ),
]


@asynccontextmanager
async def open_receiver(place: str) -> AsyncIterator[WebhookReceiver]:
    """Import a receiver from a module of the current folder or of the environment, and close it at the end.

    Raises ``ConfigurationError`` if the module or variable does not exist or raises, or does not hold a receiver.
    """
    from ..receiver import WebhookReceiver

    found = _load(place)
    if callable(found) and not isinstance(found, WebhookReceiver):
        try:
            found = found()
        except Exception as exc:
            raise name_failure(place, exc) from exc
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
    async with AsyncExitStack() as stack:
        try:
            made = await stack.enter_async_context(found)
        except BasiqError:
            raise
        except Exception as exc:
            raise name_failure(place, exc) from exc
        if not isinstance(made, WebhookReceiver):
            raise ConfigurationError(f"{place!r} makes a {type(made).__name__}, not a WebhookReceiver")
        yield made


def _load(place: str) -> object:
    name, colon, attribute = place.partition(":")
    if not colon or not name or not attribute:
        raise ConfigurationError(
            f"a receiver must be named as module:variable, such as service.hooks:receiver, not {place!r}"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: object = importlib.import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as exc:  # whatever the user's own module raises
        raise name_failure(place, exc) from exc
    return found


_STORES = ("asyncpg", "psycopg", "redis", "sqlalchemy")


def name_failure(place: str, exc: Exception) -> BasiqError:
    """Return the error for a user's module that raised, or whose storage is away."""
    is_away = isinstance(exc, OSError) or type(exc).__module__.partition(".")[0] in _STORES
    kind = InboxError if is_away else ConfigurationError
    return kind(f"{place!r} cannot be used: {type(exc).__name__}: {str(exc)[:500]}")


@asynccontextmanager
async def open_inbox(place: str, *, of_recovery: bool = False) -> AsyncIterator[Inbox]:
    """Open the inbox of a service, which must exist: a file, a database or Redis. It is closed at the end.

    of_recovery: open an inbox that a recovery has beside that of the service, and make it if it does not exist.

    Raises ``ConfigurationError`` for a file that does not exist, and ``InboxError`` if the inbox cannot be used.
    """
    from ..receiver import SQLiteInbox

    name = "basiq_recover" if of_recovery else "basiq"
    async with AsyncExitStack() as stack:
        inbox: Inbox
        if place.startswith(("redis://", "rediss://", "unix://")):
            inbox = await _open_redis(stack, place, name)
        elif "://" in place:
            from ..receiver import SQLInbox

            engine = open_engine(stack, place)
            inbox = SQLInbox(engine, table=f"{name}_inbox", create_tables=of_recovery)
        else:
            if not of_recovery and not os.path.isfile(place):  # noqa: ASYNC240  # once, before the work begins
                raise ConfigurationError(f"the inbox file {place!r} does not exist")
            inbox = await stack.enter_async_context(SQLiteInbox(place))
        if not of_recovery:
            await inbox.check()
        yield inbox


async def _open_redis(stack: AsyncExitStack, place: str, prefix: str) -> Inbox:
    try:
        from redis.asyncio import Redis

        client = Redis.from_url(place)
    except (ImportError, ValueError) as exc:
        raise ConfigurationError(f"the inbox in Redis cannot be opened: {type(exc).__name__}: {exc}") from None
    from ..receiver import RedisInbox

    stack.push_async_callback(client.aclose)
    return RedisInbox(client, prefix=prefix)


def open_engine(stack: AsyncExitStack, url: str) -> AsyncEngine:
    """Make SQLAlchemy's engine for a URL. Raises ``ConfigurationError`` if the URL or its driver cannot be used."""
    try:
        from sqlalchemy.exc import ArgumentError
        from sqlalchemy.ext.asyncio import create_async_engine
    except ImportError as exc:
        raise ConfigurationError(f"a database needs the extra 'sql': {exc}") from None
    try:
        engine = create_async_engine(url)
    except (ArgumentError, ImportError) as exc:  # the error's text can hold the password
        raise ConfigurationError(f"the URL of the database cannot be used: {type(exc).__name__}") from None
    stack.push_async_callback(engine.dispose)
    return engine


@asynccontextmanager
async def open_inbox_of(inbox: str | None, receiver: str | None) -> AsyncIterator[Inbox]:
    """Open the inbox that is named by exactly one of ``--inbox`` and ``--receiver``."""
    if (inbox is None) == (receiver is None):
        raise ConfigurationError("name the inbox with either --inbox or --receiver")
    if inbox is not None:
        async with open_inbox(inbox) as found:
            yield found
    else:
        async with open_receiver(receiver or "") as opened:
            yield opened.inbox


@asynccontextmanager
async def open_checkpoints(base: str) -> AsyncIterator[tuple[Checkpoint, Checkpoint]]:
    """Open the two checkpoints of a recovery, for its messages and its events: files, or a database for both."""
    from ..replay import SQLCheckpoint, SQLiteCheckpoint

    if "://" not in base:
        yield SQLiteCheckpoint(f"{base}-messages.db"), SQLiteCheckpoint(f"{base}-events.db")
        return
    async with AsyncExitStack() as stack:
        both = SQLCheckpoint(open_engine(stack, base))
        yield both, both
