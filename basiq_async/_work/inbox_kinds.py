"""The kinds of inboxes, one row each: the command line, the tests and the pages read them here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Any

import attrs

from .._lazy import missing_extra
from .protocol import Inbox


@attrs.frozen(kw_only=True)
class InboxKind:
    """A kind of inbox.

    name: its class, in ``basiq_async.receiver``. module: the module of ``inboxes`` that has it. If it has places, that
        module has a function ``open_place`` too.
    extra: the extra that it needs, and the package whose absence shows that it is not installed.
    places: matches the beginning of its places, which are files or URLs. example: one of them.
    """

    name: str
    module: str
    extra: str | None = None
    package: str = ""
    places: str | None = None
    example: str = ""

    def open(self, stack: AsyncExitStack, place: str, *, make: bool = False, **options: Any) -> Inbox:
        """Return the inbox at a place. The stack closes it, with what it needs.

        ``make``: whether to create what does not exist. Raises ``ConfigurationError`` if the place cannot be used.
        """
        try:
            module = import_module(f"basiq_async.receiver.inboxes.{self.module}")
        except ImportError as exc:
            if self.extra is None or (exc.name or "").partition(".")[0] != self.package:
                raise
            raise missing_extra(self.name, self.extra) from exc
        opened: Inbox = module.open_place(stack, place, make=make, **options)
        return opened


KINDS = (
    InboxKind(name="MemoryInbox", module="_memory"),
    InboxKind(
        name="RedisInbox",
        module="_redis",
        extra="redis",
        package="redis",
        places="(rediss?|unix)://",
        example="redis://...",
    ),
    InboxKind(
        name="SQLInbox",
        module="_sql",
        extra="sql",
        package="sqlalchemy",
        places=".*://",
        example="postgresql+asyncpg://...",
    ),
    InboxKind(name="SQLiteInbox", module="_sqlite", places="", example="inbox.db"),
)
"""All kinds. A place belongs to the first one whose ``places`` it matches."""

EXTRAS: Mapping[str, str] = {kind.package: kind.extra for kind in KINDS if kind.extra is not None}
"""The extra of each package that an inbox needs."""


def kind_of(place: str) -> InboxKind:
    """Return the kind of the inbox at a place."""
    return next(kind for kind in KINDS if kind.places is not None and re.match(kind.places, place))
