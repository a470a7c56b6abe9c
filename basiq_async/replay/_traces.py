"""What processes that were killed had under way: a note in the inbox, with the pages that were begun and not ended."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import attrs

NOTE = "pages under way"
MOST_ENDS = 3
"""A message that so many processes had alone when they ended is set aside."""
_MOST_PAGES = 200
"""The oldest of more pages go: the note stays small, also if nobody returns to a page."""
_MOST_TRIES = 50
Note = dict[str, list[Any]]
"""By the name of a page: the key of the message that a process has alone, or None, and how often one began it so."""


@attrs.frozen
class PageTraces:
    """The note. ``note`` and ``set_note`` are those of the record."""

    note: Callable[[str], Awaitable[str | None]]
    set_note: Callable[[str, str, str | None], Awaitable[bool]]

    async def names(self) -> set[str]:
        """Return the names of the pages that were begun and not ended."""
        return set(_read(await self.note(NOTE)))

    async def begin(self, page: str) -> Trace:
        """Note that a page is begun. The trace says what a former process had left of it."""
        former = await self._change(page, lambda found: found or [None, 0])
        return Trace(self, page, former)

    async def _change(self, page: str, change: Callable[[list[Any] | None], list[Any] | None]) -> list[Any] | None:
        """Change what is noted of a page; None removes it. Return what was noted before."""
        former: list[Any] | None = None
        for _ in range(_MOST_TRIES):
            text = await self.note(NOTE)
            pages = _read(text)
            former, now = pages.pop(page, None), None
            now = change(former)
            if now is not None:
                pages[page] = now
            kept = dict(list(pages.items())[-_MOST_PAGES:])
            if now == former or await self.set_note(NOTE, json.dumps(kept, separators=(",", ":")), text):
                return former
            await asyncio.sleep(random.random() * 0.05)  # another process has changed it
        return former


@attrs.define
class Trace:
    """A page under way in this process. ``former``: what was noted when it was begun; None if nobody had it."""

    _traces: PageTraces
    _page: str
    former: list[Any] | None

    @property
    def key(self) -> str | None:
        """The key of the message that a former process had alone when it ended."""
        key = (self.former or [None])[0]
        return key if isinstance(key, str) else None

    def ends_at(self, key: str) -> int:
        """Return how many processes ended while they had a message alone."""
        return int(self.former[1]) if self.former and key == self.key else 0

    async def attempt(self, key: str) -> None:
        """Note that this process has a message alone."""
        await self._traces._change(self._page, lambda found: [key, self.ends_at(key) + 1])

    async def take_back(self, key: str) -> None:
        """Note that it had it not: another process held it."""
        await self._traces._change(self._page, lambda found: [key, self.ends_at(key)])

    async def end(self) -> None:
        """Note that the page has ended."""
        await self._traces._change(self._page, lambda found: None)


def _read(text: str | None) -> Note:
    """Return the note; an empty one if another program wrote it."""
    try:
        found = json.loads(text or "{}")
        pages = {name: [key, int(ends)] for name, (key, ends) in found.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return pages
