"""What must be true of a world, beside what the model says of each event: one page.

What it does not hold against the package: an event that a program without an inbox handled is handled once more if its
messages are gone, or are those of another webhook, and with ``--everything`` (``Model.forget_before``); and a ready
receiver may refuse a delivery, as busy too, while a handler with a session holds SQLite's only lock.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from .model import RECENT, Broken

if TYPE_CHECKING:
    from .world import World

SOON = timedelta(minutes=5)
"""What never failed is handled within that time while all is well, as Basiq delivers it at once."""
BOUND = timedelta(minutes=35)
"""What never failed is handled within that time, from when its store and pods are there: docs/guarantees.md."""
AGAIN = timedelta(minutes=50)
"""What failed, and waits, is tried again within that time."""
PERSON = "0fe25a3c"
"""What each event tells of a person."""


def look_for_missed(
    world: World, why: str, until: datetime, *, sending: bool = False, among: Container[str] | None = None
) -> None:
    """Raise ``Broken`` if an event is missed. ``sending``: but for those that Basiq sends again, or that wait.

    among: the ids of the events to look for, in place of those of the last seven days.
    """
    types = {*world.service.version.types} & {*world.subscribed_now()}
    week, hour = world.now() - timedelta(days=7), world.now() - timedelta(hours=1)
    missed = [each for each in world.model.unhandled() if each.type in types and each.at <= until - RECENT]
    missed = [each for each in missed if (each.at >= week if among is None else each.id in among)]
    if sending:
        sent = world.planned()
        missed = [each for each in missed if each.id not in sent and not (each.waits and each.waits > hour)]
    if missed:
        raise Broken(f"{', '.join(each.name for each in missed)} is missed, and {why}")


def look_for_unnamed(world: World, until: datetime) -> None:
    """Raise ``Broken`` if an event was not handled, is too old to be, and no operator has acknowledged that.

    Where nobody recovers often, no history shows some of them: docs/guarantees.md names which.
    """
    types = {*world.service.version.types} & {*world.subscribed_now()}
    old = [each for each in world.model.unhandled() if each.at <= until - timedelta(days=8) and each.type in types]
    unnamed = [each.name for each in old if each.subscribed and not each.acknowledged]
    if unnamed and world.setting["recover every"] is not None:
        raise Broken(f"{', '.join(unnamed)} cannot be handled any more, and a recovery was finished without a word")


def look_for_delayed(world: World, since: datetime, bound: timedelta = BOUND) -> None:
    """Raise ``Broken`` if what never failed was not handled within a time, and all has been well since a moment.

    It waited in the store, or it happened since then, so that Basiq delivered it at once.
    """
    types = {*world.service.version.types} & {*world.subscribed_now()}
    special = {*world.service.poisoned, *world.service.hangs, *world.service.lethal}
    for event in world.model.events.values():
        begins = max(event.waits, since + timedelta(seconds=1)) if event.waits else event.at
        ends = event.effects[0].at if event.effects else world.now()
        if event.type not in types or event.kills or event.is_over or event.type == world.service.partner_of:
            continue
        if event.failures:  # one that waits is tried each half an hour, and a worker looks each ten minutes
            if not event.waits or event.id in special or event.effects:
                continue
            begins, least = max(since + timedelta(seconds=1), begins), max(bound, AGAIN)
        else:
            least = bound
        if since < begins < ends - least and not (event.waits is None and world.has_failed(event.id)):
            raise Broken(f"{event.name} was not handled within {least.total_seconds():.0f} s, and all was well")


def look_at_size(world: World) -> None:
    """Raise ``Broken`` if the store keeps more than a row for each event, or many notes."""
    found = world.store.size()
    notes = sum(count for name, count in found.items() if "notes" in name)
    rows = max(count for name, count in found.items() if "notes" not in name)
    events = sum(len(each.model.events) * (1 + each.model.repeats) + len(each.model.forwarded) for each in world.all)
    if notes > sum(40 + 5 * len(each.service.webhook_ids) for each in world.sharing) or rows > events:
        raise Broken(f"the store grows: {found} after {len(world.model.events)} events")


def look_at_effects(world: World) -> None:
    """Raise ``Broken`` if what is one transaction with its record took effect twice."""
    for event_id, count in world.store.effects():
        if count > 1 + world.model.repeats:
            raise Broken(f"{world.name_of(event_id)} took effect {count} times in the database")


def private(world: World) -> Sequence[str]:
    """What no log and no error may show: credentials, and what is a person's."""
    secrets = [each.removeprefix("whsec_") for place in world.all for each in place.service.vault.texts]
    return ("whsec_", "fake-application", "Bearer ", PERSON, world.fake.api_key, *secrets)
