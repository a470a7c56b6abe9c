"""Where a record keeps the resume points of readings: a few for each list, and the one used last stays longest."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from hashlib import blake2b

from .._work.protocol import Record

MOST_RESUME_POINTS = 8
"""The number of resume points of each list. A job whose filter has a date needs a new one at each run."""


class ListResumePoints:
    """The resume points of one list in a record, each for a filter.

    A note of the list's name says which filter has which place, in the order of their last use. A resume point says
    itself what it is for, so that two runs which take the same place at once lose one of the resume points, and nothing
    else.

    ask: makes a call of the record, within a time limit.
    """

    def __init__(
        self, record: Record, name: str, filter: str | None, ask: Callable[..., Awaitable[str | None]]
    ) -> None:
        self._record, self._name, self._ask = record, name, ask
        self._filter = blake2b((filter or "").encode(errors="surrogatepass"), digest_size=8).hexdigest()
        self._places: dict[str, int] = {}

    async def read(self) -> str | None:
        """Return the resume point of the filter; None if there is none."""
        self._places = _read_places(await self._ask(self._record.note, self._name))
        place = self._places.get(self._filter)
        return None if place is None else await self._ask(self._record.note, self._note_at(place))

    async def keep(self, resume_point: str) -> None:
        """Keep the resume point of the filter, in the place of the one that was not used for longest."""
        places = self._places
        if [*places][-1:] != [self._filter]:
            place = places.pop(self._filter, None)
            if place is None and len(places) < MOST_RESUME_POINTS:
                place = min(set(range(MOST_RESUME_POINTS)).difference(places.values()))
            elif place is None:
                place = places.pop(next(iter(places)))
            places[self._filter] = place
            await self._record.set_note(self._name, json.dumps(places))
        await self._record.set_note(self._note_at(places[self._filter]), resume_point)

    def _note_at(self, place: int) -> str:
        return f"{self._name} {place}"


def _read_places(text: str | None) -> dict[str, int]:
    try:
        found = {str(each): int(place) for each, place in dict(json.loads(text or "{}")).items()}
    except (ValueError, TypeError, RecursionError):
        return {}
    whole = len(found) <= MOST_RESUME_POINTS and len({*found.values()}) == len(found)
    return found if whole and {*found.values()} <= {*range(MOST_RESUME_POINTS)} else {}
