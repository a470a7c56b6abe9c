"""Receivers and inboxes that an option names: opened, and closed at the end."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from traceback import walk_tb
from typing import TYPE_CHECKING, Annotated

import attrs

from .._arguments import read_webhook_ids
from .._wire.hosts import show_urls_in
from .._wire.urls import quote_segment, read_endpoint
from .._work.failures import failure_text
from .._work.inbox_kinds import KINDS, kind_of
from ..errors import BasiqError, ConfigurationError, InboxError
from ._options import option
from ._output import say
from ._results import cell_text

if TYPE_CHECKING:
    from .._work.inbox_calls import InboxCalls
    from .._work.store_use import StoreUse
    from ..receiver import Inbox, WebhookReceiver


INBOX_TIMEOUT = 5.0
"""Maximum seconds for a call of an inbox."""
_OPENING_TIMEOUT = 15.0

ToOption = Annotated[
    str | None, option("The endpoint to post to. Deliveries are signed as Basiq signs them.", metavar="URL")
]
ReceiverOption = Annotated[
    str | None,
    option(
        "The place of a WebhookReceiver, such as service.hooks:receiver, or of a function or async context manager "
        "that makes one.",
        metavar="MODULE:RECEIVER",
    ),
]
_URLS = " or ".join(kind.example for kind in reversed(KINDS) if "://" in kind.example)
InboxPlace = Annotated[
    str | None,
    option(f"The inbox of the service: a file, or a URL such as {_URLS}", metavar="URL|FILE"),
]


WEBHOOK_VARIABLE = "BASIQ_WEBHOOK_ID"


@attrs.frozen(kw_only=True)
class InboxOptions:
    """The options that name an inbox, and the webhook that is meant.

    job NAME: With --to: the name of the job that posted, if it was given one.
    webhook: The webhook that the messages are of; several ids of one service with commas.
    """

    receiver: ReceiverOption = None
    inbox: InboxPlace = None
    to: ToOption = None
    job: str | None = None
    webhook: Annotated[str | None, option(envvar=WEBHOOK_VARIABLE)] = None

    @asynccontextmanager
    async def open(self, *, write: bool = False, joins: bool = False) -> AsyncIterator[tuple[InboxCalls, str | None]]:
        """Open the inbox, to ``write`` to it or only to look. ``joins``: it may be that of other webhooks.

        Also yield the job whose entries are meant; None for those of a receiver, and ``ALL`` for all of an inbox.
        """
        from .._work.inbox_calls import ALL, InboxCalls
        from .._work.keys import posting_job

        if (self.receiver is None) == (self.inbox is None and self.to is None):
            raise ConfigurationError("name the inbox with --inbox or --receiver, or with --to and --webhook")
        if self.receiver is not None:
            async with open_receiver(self.receiver, self.webhook, make=False) as opened:
                calls = InboxCalls(opened.inbox, INBOX_TIMEOUT)
                if write and not joins and opened.webhook_ids:
                    await calls.look(opened.webhook_ids)
                yield calls, None
            return
        check_webhook_ids(self.webhook)
        if self.to is not None:
            read_endpoint(self.to)
        if self.inbox is None and self.webhook is None:
            raise ConfigurationError(f"--to needs --webhook, or {WEBHOOK_VARIABLE}: the record is of one webhook")
        place = self.inbox or inbox_file_of(first_of(self.webhook or ""), self.job or self.to or "")
        async with open_inbox(place, write=write) as found:
            yield InboxCalls(found, INBOX_TIMEOUT), ALL if self.to is None else posting_job(self.job or self.to)


def check_webhook_ids(given: str | None) -> None:
    """Raise ``ConfigurationError`` for what cannot be the id of a webhook, or several with commas."""
    for each in read_webhook_ids(given) if given is not None else ():
        quote_segment(each, "webhook id")


def first_of(webhook: str) -> str:
    """Return the first of several webhooks with commas."""
    return webhook and read_webhook_ids(webhook)[0]


@asynccontextmanager
async def open_receiver(
    place: str, webhook_id: str | None = None, *, make: bool = True
) -> AsyncIterator[WebhookReceiver]:
    """Import a receiver from a module of the current folder or of the environment, and close it at the end.

    The user's own code may enter it, which does not begin to handle what waits in its inbox.

    make: whether it may make an inbox that does not exist.

    Raises ``ConfigurationError`` if the module or variable does not exist or raises, or does not hold a receiver; and
    for a receiver of another webhook than ``webhook_id``.
    """
    from .._work.store_use import may_work
    from ..receiver import WebhookReceiver

    may_work.set(False)
    async with AsyncExitStack() as stack:
        with naming_errors(place), _using("make" if make else "existing"):
            found = _load(place)
            if callable(found) and not isinstance(found, WebhookReceiver):
                found = found()
            if isinstance(found, WebhookReceiver):
                if (close := getattr(found.inbox, "aclose", None)) is not None:
                    stack.push_async_callback(close)
                stack.push_async_callback(found.aclose)
            elif isinstance(found, AbstractAsyncContextManager):
                found = await stack.enter_async_context(found)
        if not isinstance(found, WebhookReceiver):
            raise ConfigurationError(f"{place!r} is a {type(found).__name__}, not a WebhookReceiver")
        own = found.webhook_ids
        if webhook_id is not None and own and not {*own} & {*read_webhook_ids(webhook_id)}:
            # It does not know what was handled of this one.
            raise ConfigurationError(
                f"{place!r} is the receiver of the webhook {', '.join(map(repr, own))}, not of {webhook_id!r}"
            )
        yield found


def find_secret_file(receiver: object) -> str | None:
    """Return the file in which a receiver keeps its secrets; None if it has another store, or is none."""
    from ..receiver import WebhookReceiver

    file = receiver._secrets.file if isinstance(receiver, WebhookReceiver) else None
    return None if file is None else str(file)


def _load(place: str) -> object:
    name, colon, attribute = place.partition(":")
    if not colon or not name or not attribute:
        raise ConfigurationError(
            f"a receiver must be named as module:variable, such as service.hooks:receiver, not {place!r}"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    found: object = importlib.import_module(name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(
                f"{place!r} cannot be used: there is no {part!r}. Name a receiver, or a function or async context "
                "manager that makes one"
            )
        found = getattr(found, part)
    return found


_STORES = ("asyncpg", "psycopg", "redis", "sqlalchemy")


@contextmanager
def naming_errors(place: str) -> Iterator[None]:
    """Raise whatever the user's own module raises, or its storage that is away, as an error that names the module."""
    try:
        yield
    except BasiqError:
        raise
    except Exception as exc:
        is_away = isinstance(exc, OSError) or type(exc).__module__.partition(".")[0] in _STORES
        kind = InboxError if is_away else ConfigurationError
        raise kind(f"{place!r} cannot be used: {_said(exc)}") from exc


def _said(exc: Exception) -> str:
    """Return the text of an error without the passwords of URLs."""
    frames = [frame for frame, _ in walk_tb(exc.__traceback__)]
    if frames and frames[-1].f_globals.get("__name__") == "urllib.parse":  # it quotes pieces of what it cannot parse
        return f"{type(exc).__name__}: a URL cannot be parsed"
    return show_urls_in(failure_text(exc))[:500]


@asynccontextmanager
async def open_inbox(place: str, *, write: bool = False, make: bool = False) -> AsyncIterator[Inbox]:
    """Open an inbox: a file, a database or Redis. It is closed at the end, and forgets nothing meanwhile.

    By default it is only read: nothing is written, not even a table. write: whether it must be possible to write to it.
    make: whether to make an inbox that does not exist.

    Raises ``ConfigurationError`` for a file that does not exist, and ``InboxError`` if the inbox cannot be used, or if
    no inbox has begun there.
    """
    from .._work.limits import inbox_limit

    async with AsyncExitStack() as stack:
        with _using("make" if make else "existing" if write else "look"):
            inbox = kind_of(place).open(stack, place, make=make, remember=None)
        async with inbox_limit(_OPENING_TIMEOUT):
            await (inbox.check() if write or make else inbox.known_since())
        yield inbox


@contextmanager
def _using(use: StoreUse) -> Iterator[None]:
    from .._work.store_use import store_use

    token = store_use.set(use)
    try:
        yield
    finally:
        store_use.reset(token)


async def tell_newest(inbox: Inbox, before: str = "") -> datetime | None:
    """Say when an inbox last recorded something: a copy may lack what came last. Return that time.

    before: what is said in the same line.
    """
    from .._work.limits import inbox_limit

    if (read := getattr(inbox, "last_recorded", None)) is None:  # an inbox of the user's own
        if before:
            say(before)
        return None
    async with inbox_limit(INBOX_TIMEOUT):
        newest: datetime | None = await read()
    text = (
        "the inbox has recorded nothing yet"
        if newest is None
        else f"the inbox last recorded something at {cell_text(newest)}"
    )
    say(f"{before}; {text}" if before else text, last_recorded=newest)
    return newest


def may_write(inbox: Inbox) -> bool:
    """Return False for a file that this user cannot write."""
    from ..receiver import SQLiteInbox

    if not isinstance(inbox, SQLiteInbox):
        return True
    by_effect, path = os.access in os.supports_effective_ids, inbox._store.path
    folder = os.path.dirname(os.path.abspath(path))
    return all(os.access(each, os.W_OK, effective_ids=by_effect) for each in (path, folder))


def inbox_file_of(webhook_id: str, target: str) -> str:
    """Return the name of the inbox file for what was posted of a webhook to a target: the same for each command."""
    digest = hashlib.blake2b(target.encode(errors="replace"), digest_size=4).hexdigest()
    return f"basiq-{re.sub('[^A-Za-z0-9-]', '_', webhook_id)[:64]}-{digest}.db"
