"""What can happen to a service: a function a step. A step gets the world, and a number from 0 to 1 that decides."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from .service import TYPES, Version

if TYPE_CHECKING:
    from .world import World

Act = Callable[["World", float], Awaitable[str]]
STEPS: dict[str, tuple[int, Act]] = {}
"""For each step its weight, and its function. It returns what it did, in words."""


def step(weight: int) -> Callable[[Act], Act]:
    def add(act: Act) -> Act:
        STEPS[act.__name__] = weight, act
        return act

    return add


def pick(found: list[Any], by: float) -> Any:
    return found[int(by * len(found)) % len(found)]


# --- events ---


@step(30)
async def emit(world: World, by: float) -> str:
    count, names = 1 + int(by * 40) % 4, []
    for _ in range(count):
        names.append(world.emit(pick(list(TYPES), by * 7 % 1)))
        await asyncio.sleep(by * 3)
    return f"{', '.join(names)} happened"


@step(3)
async def burst(world: World, by: float) -> str:
    names = [world.emit(pick(list(TYPES), by * 7 % 1)) for _ in range(5 + int(by * 20))]
    return f"{names[0]} to {names[-1]} happened at once"


@step(2)
async def poison(world: World, by: float) -> str:
    name = world.emit(pick(list(TYPES), by))
    world.service.poisoned.add(world.id_of(name))
    return f"{name} happened, whose handler raises"


@step(4)
async def slow(world: World, by: float) -> str:
    names = [world.emit(pick(list(TYPES), by)) for _ in range(1 + int(by * 5))]
    world.service.slow.update(world.id_of(name) for name in names)
    return f"{', '.join(names)} happened, whose handler takes long"


@step(2)
async def lethal(world: World, by: float) -> str:
    name = world.emit(pick(list(TYPES), by))
    world.service.lethal[world.id_of(name)] = 1 + int(by * 3)
    return f"{name} happened, whose handler kills its pod"


@step(5)
async def twice(world: World, by: float) -> str:
    name = world.emit(pick(list(TYPES), by))
    await asyncio.sleep(by * 0.3)
    found = [each for each in world.fake.messages() if each.event.id == world.id_of(name)]
    for message in found:
        world.fake.redeliver(message.id)
    return f"{name} happened, and Basiq sent it twice"


@step(4)
async def again(world: World, by: float) -> str:
    messages = list(world.fake.messages())[:20]
    if not messages:
        return "nothing"
    message = pick(messages, by)
    world.model.forget_before(message.event.id)
    world.fake.redeliver(message.id)
    return f"Basiq sent {world.name_of(message.event.id)} once more"


# --- pods ---


@step(8)
async def kill(world: World, by: float) -> str:
    up = [each for each in world.service.pods if each.is_up]
    if not up:
        return "nothing"
    pod = pick(up, by)
    pod.machine.fuse = int(2 ** (by * 31 % 1 * 8))
    world.emit(pick(list(TYPES), by))
    return f"{pod.machine.name} is killed {pod.machine.fuse} steps later"


@step(4)
async def scale(world: World, by: float) -> str:
    service = world.service
    service.wanted = 1 + int(by * 4)
    while len(service.pods) < service.wanted:
        await service.start(service.version)
    while len(service.pods) > service.wanted:
        await service.stop(pick(service.pods, by))
    return f"the service has {service.wanted} pods"


@step(4)
async def freeze(world: World, by: float) -> str:
    """A freeze is short, or outlives each claim."""
    up = [each for each in world.service.pods if each.is_up and not each.machine.is_frozen]
    if not up:
        return "nothing"
    machine, seconds = pick(up, by).machine, 5 * by if by < 0.5 else 600 * by
    world.emit(pick(list(TYPES), by))
    await asyncio.sleep(by * 13 % 0.5)
    machine.freeze()

    def thaw() -> None:
        if seconds > 5 and not machine.is_dead:
            world.model.end_claims(machine.name, until=world.now() + timedelta(seconds=100))
        machine.thaw()

    if seconds > 5:
        world.model.end_claims(machine.name)
    world.later(seconds, thaw)
    return f"{machine.name} freezes for {seconds:.1f} s"


@step(3)
async def clock(world: World, by: float) -> str:
    up = [each for each in world.service.pods if each.is_up]
    if not up:
        return "nothing"
    machine, skew = pick(up, by).machine, pick([-7_200.0, -400.0, -60.0, 30.0, 250.0, 500.0, 7_200.0, 3e5], by * 3 % 1)
    machine.skew = skew
    if by < 0.7:
        world.later(60 + by * 10_000, lambda: setattr(machine, "skew", 0.0))
    return f"the clock of {machine.name} is {skew:.0f} s ahead"


def draw_version(by: float) -> Version:
    return Version(
        types=TYPES if by < 0.7 else TYPES[:2],
        deferred=by * 17 % 1 < 0.4,
        quarantine_after=3 if by * 5 % 1 < 0.4 else None,
    )


@step(4)
async def deploy(world: World, by: float) -> str:
    """Start new pods one after the other, each beside the old ones, and stop these."""
    service = world.service
    service.earlier, service.version = service.version, draw_version(by)
    for pod in list(service.pods):
        new = await service.start(service.version)
        await asyncio.sleep(by * 100)
        if not new.machine.is_dead and pod in service.pods:
            await service.stop(pod)
    return f"{service.version} was deployed, pod by pod"


@step(2)
async def roll_back(world: World, by: float) -> str:
    service = world.service
    service.earlier, service.version = service.version, service.earlier
    for pod in list(service.pods):
        new = await service.start(service.version)
        if not new.machine.is_dead and pod in service.pods:
            await service.stop(pod)
    return f"{service.version} was deployed once more"


@step(2)
async def old_pod(world: World, by: float) -> str:
    if len(world.service.pods) > 4:
        return "nothing"
    pod = await world.service.start(world.service.earlier)
    return f"{pod.machine.name} started, with the earlier {pod.version}"


# --- stores ---


@step(5)
async def bad_store(world: World, by: float) -> str:
    state, seconds = pick(["away", "slow", "read-only", "deaf"], by * 11 % 1), 10 ** (by * 4)
    world.store.state = state
    world.later(seconds, lambda: setattr(world.store, "state", "well"))
    world.emit(pick(list(TYPES), by))
    return f"the store is {state} for {seconds:.0f} s"


@step(2)
async def back_up(world: World, by: float) -> str:
    await world.store.wait_for_locks()
    world.backup = world.now(), world.model.began, world.store.snapshot()
    return "the store was backed up"


@step(1)
async def restore(world: World, by: float) -> str:
    if world.backup is None:
        return "nothing"
    since, began, kept = world.backup
    await world.store.wait_for_locks()
    world.model.began = began
    lose(world, since, kept)
    return f"the store was restored from the backup of {since:%d %b %H:%M:%S}"


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
    world.model.flush()
    world.model.end_claims(until=world.now() + timedelta(seconds=100))
    world.store.flush()
    world.backup = None
    return "the store was flushed"


def lose(world: World, since: datetime, kept: Any) -> None:
    world.model.lose(since)
    world.model.end_claims(until=world.now() + timedelta(seconds=100))
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


@step(2)
async def partner(world: World, by: float) -> str:
    state, seconds = pick(["refusing", "hanging", "403"], by * 3 % 1), 10 ** (2 + by * 3)
    world.service.partner = state
    world.later(seconds, lambda: setattr(world.service, "partner", "well"))
    return f"the partner is {state} for {seconds:.0f} s"


@step(2)
async def stranger(world: World, by: float) -> str:
    """Somebody who does not have the secret posts a delivery."""
    body = f'{{"eventTypeId": "{TYPES[0]}", "eventId": "{"f" * 64}", "links": {{}}}}'.encode()
    at = int(world.now().timestamp() - (0 if by < 0.7 else 1_000))
    signature = "v1," + base64.b64encode(bytes(32)).decode()
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(at), "webhook-signature": signature}
    return f"a stranger posted a delivery, and got {await world.receive(headers, body)}"


# --- operators ---


@step(6)
async def recover(world: World, by: float) -> str:
    return await world.operators.recover()


@step(2)
async def disabled(world: World, by: float) -> str:
    """Basiq disables the webhook while a recovery runs."""
    webhook = world.fake._store.app.webhooks.get(world.service.webhook_ids[0])
    if webhook is None:
        return "nothing"
    world.later(10 ** (by * 2 - 1), lambda: setattr(webhook, "disabled", True))
    return f"Basiq disables the webhook in the middle: {await world.operators.recover()}"


@step(3)
async def paste(world: World, by: float) -> str:
    return await world.operators.paste()


@step(3)
async def doctor(world: World, by: float) -> str:
    found = await world.operators.diagnose()
    return f"doctor {found if isinstance(found, str) else f'said {[each.code for each in found.problems]}'}"


@step(2)
async def replay(world: World, by: float) -> str:
    return await world.operators.replay(**pick([{}, {"source": "events"}], by))


@step(2)
async def retry(world: World, by: float) -> str:
    return f"an operator retried the quarantine: {await world.operators.retry()}"


@step(1)
async def drop(world: World, by: float) -> str:
    return await world.operators.drop(by)


@step(2)
async def rewrite(world: World, by: float) -> str:
    said = await world.operators.rewrite(world.service.webhook_ids[0])
    return f"an operator wrote the webhook again: {said}"


@step(2)
async def move(world: World, by: float) -> str:
    url = f"https://service.example/{int(by * 1e6)}"
    return f"the url was changed to {url}: {await world.operators.move(url)}"


@step(1)
async def subscribe(world: World, by: float) -> str:
    world.asked = TYPES[:2] if by < 0.5 else TYPES
    return f"the webhook was {await world.operators.subscribe(list(world.asked))}"


@step(1)
async def make_again(world: World, by: float) -> str:
    """Somebody deletes the webhook. Later it is made again, and the service is deployed with both ids."""
    deleted = await world.operators.delete()
    name = world.emit(pick(list(TYPES), by))
    await asyncio.sleep(10 ** (by * 4))
    made = await world.operators.make()
    for pod in list(world.service.pods):
        new = await world.service.start(world.service.version)
        if not new.machine.is_dead and pod in world.service.pods:
            await world.service.stop(pod)
    return f"the webhook was deleted ({deleted}), {name} happened, and it was made again ({made})"
