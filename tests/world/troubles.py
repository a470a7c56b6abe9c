"""Steps that are nobody's wish: what happens to stores, to the network, to partners, and at Basiq."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import attrs

from . import service
from .service import TYPES
from .steps import pick, step

if TYPE_CHECKING:
    from .world import World

# --- stores ---


@step(5)
async def bad_store(world: World, by: float) -> str:
    state, seconds = pick(["away", "slow", "read-only", "deaf", "full"], by * 11 % 1), 10 ** (by * 4)
    world.store.state = state
    world.later(seconds, lambda: setattr(world.store, "state", "well"))
    world.emit(pick(list(TYPES), by))
    return f"the store is {state} for {seconds:.0f} s"


@step(2)
async def back_up(world: World, by: float) -> str:
    await world.store.wait_for_locks()
    kept = world.store.snapshot()
    for each in world.sharing:
        each.backup = each.now(), each.model.began, kept
    return "the store was backed up"


@step(1)
async def restore(world: World, by: float) -> str:
    if world.backup is None:
        return "nothing"
    since, _, kept = world.backup
    await world.store.wait_for_locks()
    for each in world.sharing:
        each.model.began = each.backup and each.backup[1]
    lose(world, since, kept)
    return f"the store was restored from the backup of {since:%d %b %H:%M:%S}"


@step(1)
async def copy_half(world: World, by: float) -> str:
    """Somebody copies the file of the store, and not what is beside it."""
    if (kept := world.store.copy_half()) is None:
        return "nothing"
    await asyncio.sleep(by * 1_000)
    await world.store.wait_for_locks()
    world.model.began = None
    lose(world, datetime.min.replace(tzinfo=UTC), kept)
    return f"the store was replaced by a copy of its file of {by * 1_000:.0f} s before, without the file of its log"


@step(2)
async def fail_over(world: World, by: float) -> str:
    """A replica takes over that lacks the last seconds."""
    await world.store.wait_for_locks()
    since, kept = world.now(), world.store.snapshot()
    names = [world.emit(pick(list(TYPES), by * 7 % 1)) for _ in range(1 + int(by * 4))]
    await asyncio.sleep(by * 20)
    await world.store.wait_for_locks()
    lose(world, since, kept)
    return f"{', '.join(names)} happened, and a replica took over that lacks the last {by * 20:.1f} s"


@step(1)
async def flush(world: World, by: float) -> str:
    await world.store.wait_for_locks()
    for each in world.sharing:
        each.model.flush()
        each.model.end_claims(until=world.now() + timedelta(seconds=100))
        each.backup = None
        each.touch()
    world.store.flush()
    return "the store was flushed"


def lose(world: World, since: datetime, kept: Any) -> None:
    for each in world.sharing:
        each.model.lose(since)
        each.model.end_claims(until=world.now() + timedelta(seconds=100))
        each.touch()
    world.store.restore(kept)


# --- the network and partners ---


@step(3)
async def bad_network(world: World, by: float) -> str:
    world.weather.loss = by * 0.5
    world.later(by * 5_000, lambda: setattr(world.weather, "loss", 0.0))
    return f"{by * 0.5:.0%} of the requests to Basiq go wrong for {by * 5_000:.0f} s"


@step(4)
async def lost_responses(world: World, by: float) -> str:
    drop: Any = pick(["response", "request"], by * 3 % 1)
    world.fake.fail_deliveries(1 + int(by * 3), drop=drop)
    name = world.emit(pick(list(TYPES), by))
    return f"{name} happened, and {1 + int(by * 3)} deliveries lose their {drop}"


@step(3)
async def partner(world: World, by: float) -> str:
    """What all handlers need is away, or what those of one type need."""
    service, state = world.service, pick(["refusing", "hanging", "403", "one 403", "429"], by * 3 % 1)
    seconds, of = 10 ** (2 + by * 3), pick([None, *TYPES], by * 19 % 1)
    service.partner, service.partner_of = state, of

    def end() -> None:
        service.partner, service.partner_of = "well", None

    world.later(seconds, end)
    return f"the partner of {of or 'all'} is {state} for {seconds:.0f} s"


@step(1)
async def impatience(world: World, by: float) -> str:
    """Whoever hands on the deliveries goes away after a while, which cancels the call of the receiver."""
    world.service.patience = patience = by * 0.3
    await asyncio.sleep(310)  # until all is quiet
    names = [world.emit(pick(list(TYPES), by * 7 % 1)) for _ in range(4)]
    await asyncio.sleep(60)
    world.service.patience = None
    return f"{', '.join(names)} happened, and each delivery was given up after {patience:.2f} s"


@step(2)
async def stranger(world: World, by: float) -> str:
    """Somebody who does not have the secret posts a delivery."""
    if world.service.vault.over and by < 0.7:
        return await world.service.try_former_secrets()
    posted = service.stranger(int(world.now().timestamp() - (0 if by < 0.7 else 1_000)))
    return f"a stranger posted a delivery, and got {await world.receive(*posted)}"


@step(2)
async def bad_vault(world: World, by: float) -> str:
    """The place of the secrets is away, and somebody without one posts a delivery."""
    vault, seconds = world.service.vault, 10 ** (by * 4)
    vault.state = state = pick(["failing", "hanging", "slow", "empty"], by * 11 % 1)
    world.later(seconds, lambda: setattr(vault, "state", "well"))
    said = await world.receive(*service.stranger(int(world.now().timestamp())))
    world.emit(pick(list(TYPES), by))
    return f"the place of the secrets is {state} for {seconds:.0f} s; a stranger got {said}"


# --- Basiq ---

TURNS = (
    ("message_order", "newest-first"),
    ("event_order", "newest-first"),
    ("attempt_order", "oldest-first"),
    ("attempts", "absent"),
    ("attempts", "objects"),
    ("paging", "offset"),
    ("paging", "last-item"),
    ("status_filter", "outcome"),
    ("signing_key_on_update", "new"),
    ("former_key", "signs-24h"),
    ("update", "patches"),
    ("disables", "removed"),
    ("resend", "instead"),
    ("links", "list"),
)
"""Forms that Basiq may turn to in the middle."""


@step(2)
async def turn(world: World, by: float) -> str:
    name, form = pick(list(TURNS), by)
    world.fake.quirks = attrs.evolve(world.fake.quirks, **{name: form})
    return f"Basiq has another rule: {name} is {form} from now on"
