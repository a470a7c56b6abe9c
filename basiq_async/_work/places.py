"""Notes of any number of owners in a bounded number of places, because a record cannot delete a note."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import count

import attrs

from ..errors import InboxError
from .inbox_calls import InboxCalls

MOST_JOBS = 200
"""The number of jobs that post, each to one place for one webhook, whose notes an inbox keeps."""
MOST_RESUME_POINTS = 32
"""The number of resume points of a record. A job whose filter has a date needs a new one at each run."""
_TRIES = 100
_IN_USE = timedelta(hours=1)
"""An owner that uses its place says so once in that time."""


@attrs.frozen
class Found:
    """The ``text`` of an owner's note, or None.

    gone_before: without a text, the moment before which a note of the owner may have lost its place; None if it never
        had one.
    """

    text: str | None = None
    gone_before: datetime | None = None


@attrs.frozen
class _NotePlace:
    """``until``: the owner uses it up to then. ``gone``: what ``_Table.gone`` was when it got the place.

    turn: tells its notes from those of the turn before, which may be of the same owner.
    """

    number: int
    until: int
    gone: int | None
    turn: str


@attrs.frozen
class _Table:
    """Who has which place, in the order of their last use. ``gone``: up to when those that lost theirs used them.

    Times are in seconds since the epoch. ``text``: of the note that says so.
    """

    places: Mapping[str, _NotePlace] = attrs.field(factory=dict)
    gone: int | None = None
    text: str | None = None

    @classmethod
    def read(cls, text: str | None, most: int, now: datetime) -> _Table:
        """Return what a note says. If another program has written it, all that it said is gone."""
        if not text:
            return cls(text=text)
        try:
            fields = json.loads(text)
            places = {str(owner): _read_note_place(*found) for owner, found in fields["places"].items()}
            gone = None if fields["gone"] is None else int(fields["gone"])
            numbers = {each.number for each in places.values()}
            for moment in filter(None, [gone, *(each.gone for each in places.values())]):
                datetime.fromtimestamp(moment, UTC)
            if len(numbers) == len(places) and numbers <= {*range(most)}:
                return cls(places, gone, text)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, OSError):
            pass
        return cls(gone=int(now.timestamp()), text=text)

    def use(self, owner: str, most: int, now: datetime) -> _Table:
        """Return the table in which the owner has used its place last. It takes that of the one that used it first."""
        places, gone, until = dict(self.places), self.gone, int((now + _IN_USE).timestamp())
        own = places.pop(owner, None)
        if own is None and len(places) >= most:
            lost = places.pop(next(iter(places)))
            own = _NotePlace(lost.number, until, self.gone, secrets.token_hex(4))
            gone = max(gone or 0, min(lost.until, int(now.timestamp())))
        elif own is None:
            taken = {each.number for each in places.values()}
            number = next(each for each in count() if each not in taken)
            own = _NotePlace(number, until, self.gone, secrets.token_hex(4))
        return _Table({**places, owner: attrs.evolve(own, until=until)}, gone)

    def is_in_use(self, owner: str, now: datetime) -> bool:
        """Return whether the owner has said not long ago that it uses its place, and was the last one."""
        if [*self.places][-1:] != [owner]:
            return False
        return 0 <= self.places[owner].until - now.timestamp() <= _IN_USE.total_seconds()

    def write(self) -> str:
        places = {owner: [each.number, each.until, each.gone, each.turn] for owner, each in self.places.items()}
        return json.dumps({"gone": self.gone, "places": places}, separators=(",", ":"))


class Places:
    """The notes of owners, each in one of ``most`` places. The owner that was not used for longest loses its place.

    Each note says whose it is. It is written only in place of the one that was read, so that of two programs at once
    none writes over what the other one has just written.

    note, set_note: calls of the record. ``name``: of the note that says who has which place.
    """

    def __init__(
        self,
        note: Callable[[str], Awaitable[str | None]],
        set_note: Callable[..., Awaitable[bool]],
        name: str,
        most: int,
        now: Callable[[], datetime],
    ) -> None:
        self._note, self._set_note, self._name, self._most, self._now = note, set_note, name, most, now

    async def read(self, owner: str, part: str = "") -> Found:
        """Return the note of an owner, or before when it may have gone. ``part``: which of its notes."""
        owner = _digest(owner)
        table = await self._table()
        if (own := table.places.get(owner)) is not None:
            text = await self._note(self._note_at(own.number, part))
            if text is not None and text.startswith(beginning := f"{owner}/{own.turn} "):
                return Found(text.removeprefix(beginning))
            if text is not None:  # it may have lost its place just now
                table = await self._table()
        own = table.places.get(owner)
        gone = table.gone if own is None else own.gone
        return Found(None, None if gone is None else datetime.fromtimestamp(gone, UTC))

    async def write(self, text: str, owner: str, part: str = "") -> None:
        """Store a note of an owner. Raises the errors of the record."""
        owner = _digest(owner)
        for _ in range(_TRIES):
            table, now = await self._table(), self._now()
            if not table.is_in_use(owner, now):
                changed = table.use(owner, self._most, now)
                if not await self._set_note(self._name, changed.write(), expected=table.text):
                    continue
                table = changed
            own = table.places[owner]
            name, beginning = self._note_at(own.number, part), f"{owner}/{own.turn} "
            former = await self._note(name)
            if former is not None and not former.startswith(beginning):
                now_own = (await self._table()).places.get(owner)
                if now_own is None or now_own.turn != own.turn:
                    continue  # another one took the place, and has written
            if await self._set_note(name, f"{beginning}{text}", expected=former):
                return
        raise InboxError("other programs change the notes of jobs again and again")

    async def _table(self) -> _Table:
        return _Table.read(await self._note(self._name), self._most, self._now())

    def _note_at(self, number: int, part: str) -> str:
        return f"{self._name} {number} {part}".rstrip()


def job_places(calls: InboxCalls, now: Callable[[], datetime]) -> Places:
    """Return where an inbox keeps the notes of jobs that post. ``now``: by Basiq's clock."""
    return Places(calls.note, calls.set_note, "job notes", MOST_JOBS, now)


def _digest(owner: str) -> str:
    return blake2b(owner.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _read_note_place(number: int, until: int, gone: int | None, turn: str) -> _NotePlace:
    return _NotePlace(int(number), int(until), None if gone is None else int(gone), str(turn))
