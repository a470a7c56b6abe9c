"""Where a reading can begin and stop early in a list that an earlier one has read. No I/O.

A hint saves requests. It is never a reason to skip an item: the record decides that.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any

import attrs
import cattrs

from .._wire.paging import Listing

FIRST = 128
"""The number of ids at the beginning and at the end of a part that are kept."""
MOST_TEXT = 65_536
"""Maximum length of a hint's text."""
MOST_LINKS = 20
UNPROVABLE = ""
"""A witness that no list shows."""
LONGEST_ID = 48
_FORMAT = 1
"""Another number makes the hints of earlier releases void."""
_DAY = timedelta(hours=24)
_EARLY = timedelta(minutes=15)


@attrs.frozen
class Part:
    """A part of the list that was read without a gap, and whose items are done.

    first, last: the ids (see ``short_id``) of its first and of its last items, in the order of the list.
    links: the page that shows the last ids, with a few items before them; then pages above it, ever farther away, for
    when what was last expires, or numbered pages move by more than one. With each are some ids of the page, none if an
    item may come late beside them.
    oldest: the time of its first item, if that has one.
    since: when the reading began that began at its first item, by the API's clock.
    complete: whether it has reached the end of the list.
    witness: while the first page of the list shows this id, nothing slipped away between the pages of the part. None if
    that is proven.
    """

    since: datetime
    first: list[str] = attrs.Factory(list)
    last: list[str] = attrs.Factory(list)
    links: list[tuple[str, list[str]]] = attrs.field(factory=list, repr=False)
    oldest: datetime | None = None
    complete: bool = False
    witness: str | None = None

    def below(self, above: Part) -> Part:
        """Return this part together with one that has reached its first items."""
        witnesses = {each for each in (self.witness, above.witness) if each is not None}
        return attrs.evolve(
            self,
            first=list(dict.fromkeys([*above.first, *self.first]))[:FIRST],
            oldest=above.oldest or self.oldest,
            witness=UNPROVABLE if len(witnesses) > 1 else next(iter(witnesses), None),
        )

    def is_due(self, now: datetime) -> bool:
        """Return whether the whole list must be read again: an item may have come anywhere since."""
        return self.complete and not -_EARLY <= now - self.since <= _DAY


@attrs.frozen
class Hint:
    """What a reading leaves for the next one.

    base: the part that reaches, or is to reach, the end of the list.
    above: a part that was begun at the start of the list, and has not reached the base.
    page: the number of items of the longest page.
    steps: see ``ListOrder``.
    """

    base: Part
    above: Part | None
    page: int
    steps: list[int]

    def is_of(self, listing: Listing[Any]) -> bool:
        """Return whether all its links are pages of a list."""
        links = [link for part in (self.base, self.above) if part is not None for link, _ in part.links]
        return all(listing.has_page(listing.base.url(link)) for link in links)


_TEXTS = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)


def _read_moment(value: Any, _: object = None) -> datetime:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return moment


_TEXTS.register_unstructure_hook(datetime, datetime.isoformat)
_TEXTS.register_structure_hook(datetime, _read_moment)


def write_hint(hint: Hint, selection: str) -> str | None:
    """Return the text of a hint, in ASCII; None if it is too long. ``selection`` names the list, and what it is for."""
    fields = _TEXTS.unstructure(hint)
    for most in (MOST_LINKS, 1):
        for part in filter(None, (fields["base"], fields["above"])):
            part["links"] = part["links"][:most]
        body = json.dumps(fields, separators=(",", ":"))
        text = f"{_check(body, selection)} {body}"
        if len(text) <= MOST_TEXT:
            return text
    return None


def read_hint(text: str | None, selection: str) -> Hint | None:
    """Return the hint of a text; None if it is damaged, of another release, or of another selection."""
    check, _, body = (text or "").partition(" ")
    if check != _check(body, selection):
        return None
    return _TEXTS.structure(json.loads(body), Hint)


def _check(body: str, selection: str) -> str:
    text = f"{json.dumps([_FORMAT, selection])} {body}"
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def short_id(item_id: str) -> str:
    """Return an id as a hint holds it: unchanged, or a digest of it if it is long or unusual."""
    if len(item_id) <= LONGEST_ID and item_id.isascii() and item_id.isprintable():
        return item_id
    return "#" + blake2b(item_id.encode(errors="surrogatepass"), digest_size=16).hexdigest()
