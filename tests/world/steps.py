"""What can happen to a service: a function a step. A step gets the world, and a number from 0 to 1 that decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from .service import TYPES, Version

if TYPE_CHECKING:
    from .world import World

HARMLESS = {"emit", "burst", "twice", "again", "stranger", "doctor", "recover", "look", "back_up", "ask_inbox"}
"""Steps after which nothing holds up what waits."""
Act = Callable[["World", float], Awaitable[str]]
REMEMBERED = timedelta(days=29)
"""For so long each store remembers what was handled."""
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
async def hang(world: World, by: float) -> str:
    name = world.emit(pick(list(TYPES), by))
    world.service.hangs[world.id_of(name)] = 1 + int(by * 2)
    return f"{name} happened, whose handler hangs"


@step(2)
async def lethal(world: World, by: float) -> str:
    name = world.emit(pick(list(TYPES), by))
    world.service.lethal[world.id_of(name)] = pick([1, 2, 3, 12], by * 5 % 1)
    return f"{name} happened, whose handler kills its pod"


@step(5)
async def twice(world: World, by: float) -> str:
    name = world.emit(pick(list(TYPES), by))
    await asyncio.sleep(by * 0.3)
    found = [each for each in world.messages() if each.event.id == world.id_of(name)]
    for message in found:
        world.fake.redeliver(message.id, message.webhook_id)
    return f"{name} happened, and Basiq sent it twice"


@step(4)
async def again(world: World, by: float) -> str:
    messages = [each for each in world.messages()[:20] if world.now() - each.created < REMEMBERED]
    if not messages:
        return "nothing"
    message = pick(messages, by)
    world.model.forget_before(message.event.id)
    world.fake.redeliver(message.id, message.webhook_id)
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


@step(3)
async def kill_job(world: World, by: float) -> str:
    operators = world.operators
    jobs: list[Callable[[], Awaitable[Any]]] = [
        operators.recover,
        operators.recover,
        operators.replay,
        operators.retry,
        partial(operators.retry, "inbox"),
        operators.work,
    ]
    fuse = operators.fuse = int(2 ** (4 + by * 6))
    job = pick(jobs, by * 13 % 1)
    said = f"{getattr(job, 'func', job).__name__} {await job()}, then {await job()}"
    return f"a job is killed {fuse} steps after its begin: {said}"


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


@step(1)
async def machine_clock(world: World, by: float) -> str:
    """The one machine on which all run, and on which the store is, has a wrong clock for some hours."""
    place, skew = world.store.place, pick([-7_200.0, -400.0, 500.0, 7_200.0, 90_000.0, 4e6], by * 3 % 1)
    pods = [each for other in world.sharing for each in other.service.pods]

    def set_all(skew: float) -> None:
        place.skew = skew
        for each in pods:
            each.machine.skew = skew

    set_all(skew)
    world.later(by * 10_000, lambda: set_all(0.0))
    return f"the clock of the store and of all pods is {skew:.0f} s ahead for {by * 10_000:.0f} s"


def draw_version(by: float) -> Version:
    return Version(
        types=TYPES if by < 0.7 else TYPES[:2],
        deferred=by * 17 % 1 < 0.4,
        quarantine_after=3 if by * 5 % 1 < 0.4 else None,
        by_pattern=by * 7 % 1 < 0.3,
    )


@step(4)
async def deploy(world: World, by: float) -> str:
    """Start new pods one after the other, each beside the old ones, and stop these."""
    service = world.service
    service.earlier, service.version = service.version, draw_version(by)
    await world.deploy(by * 100)
    return f"{service.version} was deployed, pod by pod"


@step(2)
async def roll_back(world: World, by: float) -> str:
    service = world.service
    service.earlier, service.version = service.version, service.earlier
    await world.deploy()
    return f"{service.version} was deployed once more"


@step(2)
async def canary(world: World, by: float) -> str:
    """One pod of a new version runs beside the others for hours. Then it is rolled back, or all are deployed."""
    service, version = world.service, draw_version(by * 3 % 1)
    pod = await service.start(version)
    names = [world.emit(pick(list(TYPES), by * 7 % 1)) for _ in range(2)]
    await asyncio.sleep(10 ** (by * 4.4))
    names.append(world.emit(pick(list(TYPES), by)))
    await asyncio.sleep(by * 10)
    if by * 11 % 1 < 0.6:
        await service.stop(pod)
        return (
            f"{pod.machine.name}, {version}, ran beside while {names[0]} to {names[-1]} happened, and was rolled back"
        )
    service.earlier, service.version = service.version, version
    await world.deploy()
    return f"{pod.machine.name}, {version}, ran beside while {names[0]} to {names[-1]} happened, and is all now"


@step(2)
async def old_pod(world: World, by: float) -> str:
    if len(world.service.pods) > 4:
        return "nothing"
    pod = await world.service.start(world.service.earlier)
    return f"{pod.machine.name} started, with the earlier {pod.version}"


@step(2)
async def outage(world: World, by: float) -> str:
    """All pods are gone, for up to thirty hours."""
    service, hours = world.service, 30 * by**3
    wanted, service.wanted = service.wanted, 0
    for pod in list(service.pods):
        await service.stop(pod)
    names = [world.emit(pick(list(TYPES), by * 7 % 1)) for _ in range(3)]
    await asyncio.sleep(hours * 3_600)
    names += [world.emit(pick(list(TYPES), by * 7 % 1)) for _ in range(2)]
    service.wanted = wanted
    for _ in range(wanted):
        await service.start(service.version)
    return f"the service was down for {hours:.1f} h, while {names[0]} to {names[-1]} happened"
