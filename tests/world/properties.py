"""What must be true of a world, beside what the model says of each event: one page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from .model import RECENT, Broken

if TYPE_CHECKING:
    from .world import World

SOON = timedelta(minutes=5)
"""What never failed is handled within that time, as Basiq delivers it at once."""
PERSON = "0fe25a3c"
"""What each event tells of a person."""


def look_for_missed(world: World, why: str, until: datetime, *, sending: bool = False) -> None:
    """Raise ``Broken`` if an event is missed. ``sending``: but for those that Basiq sends again, or that wait."""
    types = {*world.service.version.types} & {*world.subscribed_now()}
    missed = world.model.missed(types, world.now() - timedelta(days=7), until - RECENT)
    if sending:
        planned = {each.message_id for each in world.fake.upcoming()}
        sent = {each.event.id for each in world.fake.messages() if each.id in planned}
        hour = world.now() - timedelta(hours=1)
        missed = [each for each in missed if each.id not in sent and not (each.waits and each.waits > hour)]
    if missed:
        raise Broken(f"{', '.join(each.name for each in missed)} is missed, and {why}")


def look_for_delayed(world: World, since: datetime) -> None:
    """Raise ``Broken`` if what never failed, and happened while all was well, was not handled within minutes."""
    for event in world.model.events.values():
        if event.at < since or event.failures:
            continue
        if not event.effects or event.effects[0].at - event.at > SOON:
            raise Broken(f"{event.name} was not handled within {SOON.total_seconds():.0f} s, and all was well")


def look_at_size(world: World) -> None:
    """Raise ``Broken`` if the store keeps more than a row for each event, or many notes."""
    found = world.store.size()
    notes = sum(count for name, count in found.items() if "notes" in name)
    rows = max(count for name, count in found.items() if "notes" not in name)
    if notes > 40 + 5 * len(world.service.webhook_ids) or rows > len(world.model.events) * (1 + world.model.repeats):
        raise Broken(f"the store grows: {found} after {len(world.model.events)} events")


def look_at_effects(world: World) -> None:
    """Raise ``Broken`` if what is one transaction with its record took effect twice."""
    for event_id, count in world.store.effects():
        if count > 1 + world.model.repeats:
            raise Broken(f"{world.name_of(event_id)} took effect {count} times in the database")


def private(world: World) -> Sequence[str]:
    """What no log and no error may show: credentials, and what is a person's."""
    secrets = [each.removeprefix("whsec_") for each in world.service.kept_secrets]
    return ("whsec_", "fake-application", "Bearer ", PERSON, world.fake.api_key, *secrets)
