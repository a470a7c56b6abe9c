"""What can happen to a service: a function a step. A step gets the world, and a number from 0 to 1 that decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from .machines import Machine
from .service import TYPES

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
    if len(world.service.pods) < 4:
        pod = await world.service.start(world.service.version)
        return f"{pod.machine.name} started"
    pod = pick(world.service.pods, by)
    await world.service.stop(pod)
    return f"{pod.machine.name} stopped"


# --- operators ---


@step(6)
async def recover(world: World, by: float) -> str:
    return await world.recover()


@step(2)
async def reactivate(world: World, by: float) -> str:
    disabled = [each for each in world.fake.webhooks() if each.disabled]
    if not disabled:
        return "nothing"
    await world.run(Machine("operator"), world.reactivate(disabled[0].id))
    return "an operator reactivated the webhook"


@step(1)
async def outage(world: World, by: float) -> str:
    world.service.partner = "refusing"
    world.later(by * 20_000, lambda: setattr(world.service, "partner", "well"))
    return f"the partner refuses for {by * 20_000:.0f} s"
