"""Steps that operators take: jobs, changes of the webhook, and moves."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

from .operators import codes
from .service import TYPES
from .steps import pick, step

if TYPE_CHECKING:
    from .world import World


@step(6)
async def recover(world: World, by: float) -> str:
    return await world.operators.recover()


@step(2)
async def disabled(world: World, by: float) -> str:
    """Basiq disables the webhook while a recovery runs."""
    webhook = world.fake._store.app.webhooks.get(world.service.webhook_ids[0])
    if webhook is None:
        return "nothing"

    def disable() -> None:
        if not world.is_calm:
            webhook.disabled = True
            world.see_disabled()

    world.later(10 ** (by * 2 - 1), disable)
    return f"Basiq disables the webhook in the middle: {await world.operators.recover()}"


@step(3)
async def paste(world: World, by: float) -> str:
    return await world.operators.paste()


@step(3)
async def doctor(world: World, by: float) -> str:
    found = await world.operators.diagnose()
    return f"doctor {found if isinstance(found, str) else f'said {sorted(codes(found))}'}"


@step(3)
async def compare(world: World, by: float) -> str:
    await asyncio.sleep(300)  # what happened just now is for the next recovery
    return await world.operators.compare()


@step(2)
async def replay(world: World, by: float) -> str:
    hour = "--since", (world.now() - timedelta(hours=1)).isoformat()
    chosen: list[tuple[str, ...]] = [
        (),
        ("--source", "events"),
        hour,
        ("--failed",),
        ("--event", TYPES[0]),
        (*hour, "--again", "bug"),
        ("--everything", "--again", f"bug-{by}"),
    ]
    words = pick(chosen, by)
    return f"{' '.join(words) or 'all'}: {await world.operators.replay(*words)}"


@step(2)
async def post(world: World, by: float) -> str:
    return await world.operators.post(int(2 ** (5 + by * 7)))


@step(2)
async def retry(world: World, by: float) -> str:
    group = "quarantine" if by < 0.6 else "inbox"
    return f"an operator ran {group} retry: {await world.operators.retry(group)}"


@step(2)
async def look(world: World, by: float) -> str:
    return f"what shows what waits, and the quarantine, ended with {await world.operators.look()}"


@step(1)
async def drop(world: World, by: float) -> str:
    return await world.operators.drop(by)


@step(2)
async def rewrite(world: World, by: float) -> str:
    said = await world.operators.rewrite(world.service.webhook_ids[0])
    return f"an operator wrote the webhook again: {said}"


@step(2)
async def forget(world: World, by: float) -> str:
    if by < 0.5:
        return await world.operators.forget(by * 2)
    world.fake.fail_deliveries(len(world.all), drop="request")
    name = world.emit(pick(list(TYPES), by))
    await asyncio.sleep(1)
    said = await world.operators.post_in_vain(world.id_of(name))
    return f"{said}; {await world.operators.forget_user_of(world.model.events[world.id_of(name)])}"


@step(1)
async def remove_secrets(world: World, by: float) -> str:
    return world.operators.remove_secrets()


@step(2)
async def move(world: World, by: float) -> str:
    url = f"https://{world.service.name}.example/{int(by * 1e6)}"
    return f"the url was changed to {url}: {await world.operators.move(url)}"


@step(1)
async def subscribe(world: World, by: float) -> str:
    world.asked = TYPES[:2] if by < 0.5 else TYPES
    return f"the webhook was {await world.operators.subscribe(list(world.asked))}"


@step(1)
async def make_again(world: World, by: float) -> str:
    """Somebody deletes the webhook. Later it is made again, and the service is deployed with both ids."""
    deleted = await world.operators.delete(world.service.webhook_ids[0])
    name = world.emit(pick(list(TYPES), by))
    await asyncio.sleep(10 ** (by * 4))
    made = await world.operators.make()
    await world.deploy()
    return f"the webhook was deleted ({deleted}), {name} happened, and it was made again ({made})"


@step(1)
async def second_webhook(world: World, by: float) -> str:
    """Rotate by a second webhook, as the page has it."""
    service, url = world.service, f"https://{world.service.name}.example/second/{int(by * 1e6)}"
    world.fake.route(url, world.receive)
    said = await world.operators.make_second(url)
    if said != "created":
        return f"a second webhook was not made: {said}"
    await world.deploy()
    names = [world.emit(each) for each in TYPES]
    await asyncio.sleep(10 ** (by * 4))
    both = [await world.operators.recover(each) for each in service.webhook_ids[:2]]
    deleted = await world.operators.delete(service.webhook_ids[1])
    return f"beside a second webhook {', '.join(names)} happened; {both}; the first one was deleted: {deleted}"


@step(1)
async def move_store(world: World, by: float) -> str:
    """Move to another inbox by the steps of the page, where nothing is left."""
    return await world.operators.move_store()


@step(2)
async def race(world: World, by: float) -> str:
    """A recovery comes to what a pod handles at this moment."""
    world.fake.fail_deliveries(2, drop="request")
    name = world.emit(pick(list(TYPES), by))
    world.service.slow.add(world.id_of(name))
    await asyncio.sleep(220)  # Basiq's third attempt is later
    for message in [each for each in world.messages() if each.event.id == world.id_of(name)]:
        world.fake.redeliver(message.id, message.webhook_id)
    await asyncio.sleep(0.1 + by)
    return f"{name} was not delivered; Basiq sent it once more, and at the same time {await world.operators.recover()}"
