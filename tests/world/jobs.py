"""Jobs of the operators of a service: they write, move and delete its webhook, and forget users, with a client."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from basiq_async import BasiqClient, InboxError, Response, Secret
from basiq_async.replay import HttpTarget, Replay
from tests.support.frames import leaks

from .command_line import Command, let_post
from .machines import Machine
from .model import Broken, Event
from .network import Posting, Wire
from .properties import private

if TYPE_CHECKING:
    from .world import World


class Jobs:
    def __init__(self, world: World) -> None:
        self.world = world
        self.jobs = self.running = 0
        self.fuse: int | None = None
        """After so many steps the next job is killed."""
        self.posted: list[str] = []
        """The ids of the messages that a job posted to the service, which acknowledged them."""

    async def run(self, work: Any, *, hours: float = 3) -> Any:
        """Run a job on a machine of its own. Return its result, or a text that says how it ended otherwise.

        ``work``: an async function of the machine and a client.
        """
        self.jobs += 1
        self.running += 1
        try:
            return await self._run(work, hours)
        finally:
            self.running -= 1

    async def _run(self, work: Any, hours: float) -> Any:
        machine = Machine(f"job-{self.world.letter}{self.jobs}", self.world.store.place.skew)
        machine.fuse, self.fuse = self.fuse, None
        machine.on_death.append(partial(self.world.model.end_claims, machine.name))

        async def job() -> Any:
            async with self.world.service.client() as basiq:
                return await work(machine, basiq)

        task = machine.start(job())
        died = asyncio.ensure_future(machine.died.wait())
        await asyncio.wait((task, died), timeout=hours * 3_600, return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        if machine.is_dead:
            return "was killed"
        if not task.done():
            machine.kill()
            raise Broken(f"a job did not end in {hours:g} hours")
        machine.kill()
        if (error := task.exception()) is None:
            return task.result()
        self._check_error(error)
        return f"raised {type(error).__name__}: {str(error)[:200]}"

    def _check_error(self, error: BaseException) -> None:
        if leaked := leaks(error, private(self.world)):
            raise Broken(f"an error shows what is private: {leaked[0]}")
        if not type(error).__module__.startswith("basiq_async"):
            raise Broken(f"a job raised a foreign error: {error!r}")

    async def forget(self, by: float) -> str:
        """Forget a user, as docs/personal-data.md has it: of what is kept, if something is."""
        world = self.world
        kept = world.model.kept(waits=False) + world.model.kept(waits=True) or [*world.model.events.values()][-20:]
        if not kept:
            return "nothing"
        event = kept[int(by * len(kept)) % len(kept)]
        return await self.forget_user_of(event)

    async def forget_user_of(self, event: Event) -> str:
        world, service, store = self.world, self.world.service, self.world.store
        users = [each.event.user_id for each in world.fake.messages() if each.event.id == event.id]
        if not (user_id := users[0] if users else ""):
            return "nothing"

        async def job(machine: Machine, basiq: BasiqClient) -> str:
            receiver = service.receiver(service.version, machine)
            quarantined, waiting = store.naming(user_id)
            try:
                said = f"{await receiver.forget(user_id)} removed"
            except InboxError as exc:
                if "name the user" not in str(exc):
                    raise
                said, waiting = "some wait", set[str]()
            left = [there & before for there, before in zip(store.naming(user_id), (quarantined, waiting), strict=True)]
            if any(left):
                world.model.breaks(f"the user of {event.name} was forgotten, and the store still has {left}")
            return said

        return f"the user of {event.name} was forgotten: {await self.run(job)}"

    async def post_in_vain(self, event_id: str) -> str:
        """Post an event with the inbox of the service, which does not have it yet. It is refused on the way."""
        return str(await self.run(partial(self._post_in_vain, event_id)))

    async def _post_in_vain(self, event_id: str, machine: Machine, basiq: BasiqClient) -> str:

        async def refuse(headers: dict[str, str], body: bytes) -> Response:
            return Response(422)

        service, inbox = self.world.service, self.world.store.connect(machine)
        self.world.model.forwarded.add(event_id)
        receiver = partial(service.receiver, service.version, machine)
        let_post(Command(Wire(service.fake, service.weather), Posting(service.weather, refuse, []), receiver))
        target = HttpTarget(service.url, service.vault.kept[0])
        chosen = partial(Replay, where=lambda message: message.event_id == event_id)
        report = await chosen(basiq, service.webhook_ids[0], target, inbox=inbox).run()
        return f"{report.failed} that a job posted was refused"

    # --- the webhook ---

    async def rewrite(self, webhook_id: str) -> str:
        """Reactivate a webhook, or write it as it is: Basiq may make a new secret."""

        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            return await self.keep_secret(await basiq.webhooks.reactivate(webhook_id, secret=self.world.service.vault))

        return str(await self.run(job))

    async def subscribe(self, types: list[str]) -> str:
        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            service = self.world.service
            update = partial(basiq.webhooks.update, service.webhook_ids[0], secret=service.vault)
            return await self.keep_secret(await update(subscribed_events=types))

        return f"subscribed to {len(types)} types: {await self.run(job)}"

    async def move(self, url: str) -> str:
        """Let a new url take the deliveries of the present one."""
        world = self.world

        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            types = world.subscribed()
            ensure = partial(basiq.webhooks.ensure, name=world.service.name, subscribed_events=types)
            found = await ensure(url=url, move_from=world.service.url, secret=world.service.vault)
            world.service.url = url
            return await self.keep_secret(found)

        world.fake.route(url, world.receive)
        return str(await self.run(job))

    async def make(self) -> str:
        """Make the webhook that is gone again."""
        world, service = self.world, self.world.service

        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            types = world.subscribed()
            ensure = partial(basiq.webhooks.ensure, name=service.name, secret=service.vault)
            found = await ensure(url=service.url, subscribed_events=types)
            if found.id not in service.webhook_ids:
                self.world.model.forget_before()  # the messages of the former one may be gone, and what they told
                service.webhook_ids = [found.id, *service.webhook_ids]
            return await self.keep_secret(found)

        said = await self.run(job)
        if not service.vault.texts:  # Basiq shows no secret: an operator copies the first one from the dashboard
            (made,) = [each for each in world.fake.webhooks() if each.url == service.url]
            await service.vault.write(Secret(world.fake.secret(made.id)))
            said = await self.run(job)
        return str(said)

    async def make_second(self, url: str) -> str:
        """Make a second webhook, and put its id before the others."""
        world, service = self.world, self.world.service

        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            ensure = partial(basiq.webhooks.ensure, secret=service.vault)
            found = await ensure(url=url, subscribed_events=world.subscribed())
            world.model.forget_before()  # the new webhook has no message of what the former one delivered
            service.webhook_ids = [found.id, *service.webhook_ids]
            service.url = url
            return await self.keep_secret(found)

        return str(await self.run(job))

    async def delete(self, webhook_id: str) -> str:
        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            self.world.model.forget_before()  # its messages are gone, and what they told
            await basiq.webhooks.delete(webhook_id)

        return str(await self.run(job))

    def remove_secrets(self) -> str:
        """Remove from the vault the secrets that no webhook has any more."""
        ids = {each.id for each in self.world.fake.webhooks()} & {*self.world.service.webhook_ids}
        return f"former secrets removed: {self.world.service.vault.remove([*map(self.world.fake.secret, ids)])}"

    async def keep_secret(self, webhook: Any) -> str:
        """Look whether a new secret is in the vault; bring one there by hand that Basiq did not return.

        The webhook may be delivered to a quarter of an hour later.
        """
        self.world.touch(1_000)
        vault, text = self.world.service.vault, self.world.fake.secret(webhook.id)
        if webhook.secret is not None and webhook.secret.reveal() not in vault.kept:
            self.world.model.breaks("Basiq returned a new secret, and it is not in the vault")
        if webhook.secret is None and text not in vault.kept and vault.state == "well":
            await vault.write(Secret(text))
        return getattr(webhook, "action", "done")
