"""Commands whose verdict a person trusts: what the inbox has of an event, a wrong id, and what is sent again."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from basiq_async import BadRequestError, NotFoundError

from .command_line import RECEIVER
from .model import PREDECESSOR, Broken
from .steps import REMEMBERED, pick, step

if TYPE_CHECKING:
    from .world import World


@step(2)
async def ask_inbox(world: World, by: float) -> str:
    """Ask what the inbox has of an event: 0 is a promise that it was handled, and 1 that it was not."""
    events = [each for each in [*world.model.events.values()][-20:] if world.now() - each.at < REMEMBERED]
    if not events:
        return "nothing"
    event = pick(events, by)
    stood = any(each.stands and each.recorded and each.machine != PREDECESSOR for each in event.effects)
    done = await world.operators.command("inbox", "get", event.id, "--receiver", RECEIVER)
    if isinstance(done, str) or done.error is not None:
        return f"inbox get of {event.name} {done if isinstance(done, str) else done.code}"
    stands = any(each.stands for each in event.effects)
    if done.code == 0 and not event.effects and not event.dropped:
        raise Broken(f"inbox get says that {event.name} was handled, and it was not")
    if done.code == 1 and stood and stands:
        raise Broken(f"inbox get says that {event.name} was not handled, and it was")
    return f"inbox get of {event.name} ended with {done.code}"


@step(1)
async def delete_another(world: World, by: float) -> str:
    """Somebody has a wrong id: the deletion of a webhook that is not there is no success."""
    wrong = str(uuid.UUID(int=int(by * 1e9), version=4))
    done = await world.operators.command("webhooks", "delete", wrong, "--yes")
    if not isinstance(done, str) and done.code == 0 and not world.weather.loss:
        raise Broken("a webhook that does not exist was deleted")
    return f"the deletion of a wrong id {done if isinstance(done, str) else f'ended with {done.code}'}"


@step(2)
async def resend(world: World, by: float) -> str:
    """Post two messages to the service once more, and between them one that Basiq does not have."""
    service, loss = world.service, world.weather.loss
    found = [each for each in world.fake.messages(service.webhook_ids[0]) if world.now() - each.created < REMEMBERED]
    if not found:
        return "nothing"
    chosen = [pick(found, by), pick(found, by * 7 % 1)]
    for each in chosen:
        world.model.forget_before(each.event.id)
    ids = [chosen[0].id, str(uuid.UUID(int=int(by * 1e9), version=4)), chosen[1].id]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "secret").write_text(service.vault.kept[0])
        Path(folder, "secret").chmod(0o600)
        place = "--to", service.url, "--secret-file", f"{folder}/secret"
        done = await world.operators.command("messages", "resend", service.webhook_ids[0], *ids, *place)
    if isinstance(done, str):
        return f"a resend {done}"
    is_ended = isinstance(done.error, (BadRequestError, NotFoundError))
    is_short = len(done.rows) < len(ids) and not (loss or world.weather.loss or done.error)
    if done.code == 0 or is_ended or is_short:
        raise Broken(
            f"a resend of {len(ids)} ids, one of them unknown, ended with {done.code} and {len(done.rows)} rows"
        )
    return f"{', '.join(world.name_of(each.event.id) for each in chosen)} were sent again: {done.code}"
