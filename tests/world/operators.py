"""What operators do: run jobs, change the webhook, and paste the lines that doctor prints."""

from __future__ import annotations

import asyncio
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from basiq_async import BasiqClient
from basiq_async.cli._lines import Given, find_line  # private: what doctor prints
from basiq_async.replay import Replay, recover
from tests.support.frames import leaks

from .machines import Machine
from .model import Broken
from .properties import look_for_missed, private
from .service import NAME

if TYPE_CHECKING:
    from .world import World

MISSED = {"undelivered", "never-sent", "unrecorded", "waiting", "partial", "forbidden"}
LEFT = {"undelivered", "never-sent", "unrecorded", "unknown", "unknown-activity", "quarantined", "unrecoverable"}
"""Codes of doctor: what a recovery handles, and what it must not leave."""
SHOWS = (
    "inbox waiting",
    "messages tail",
    "messages list",
    "events types",
    "whoami",
    "webhooks doctor",
    "quarantine list",
)
"""Commands that change nothing."""


class Operators:
    def __init__(self, world: World) -> None:
        self.world = world
        self.jobs = self.running = 0

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
        machine = Machine(f"job-{self.jobs}")
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
        if leaked := leaks(error, private(self.world)):
            raise Broken(f"an error shows what is private: {leaked[0]}")
        if not type(error).__module__.startswith("basiq_async"):
            raise Broken(f"a job raised a foreign error: {error!r}")
        return f"raised {type(error).__name__}: {str(error)[:200]}"

    # --- jobs ---

    async def recover(self, webhook_id: str = "", **options: Any) -> str:
        """Recover, by default the newest webhook, and look whether a finished one has left nothing."""
        world, service, began = self.world, self.world.service, self.world.now()
        webhook_id = webhook_id or service.webhook_ids[0]

        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            receiver = service.receiver(service.version, machine)
            found = await recover(basiq, webhook_id, receiver, **options)
            return found, machine.looked_at_webhook

        if options.get("everything"):
            world.model.forget_before()
        done = await self.run(job)
        if isinstance(done, str):
            return f"recover {done}"
        done, looked = done
        if not done.finished:
            return f"recover handled {done.handled}, and left {sorted({each.code for each in done.problems})}"
        look_for_missed(world, "the recovery was finished", began)
        disabled = world.webhook_disabled_at(webhook_id)
        if disabled is not None and disabled < looked:
            raise Broken("the recovery was finished, and the webhook was disabled before it looked")
        return f"recover finished, and handled {done.handled}"

    async def compare(self) -> str:
        """Let doctor look, recover, and let doctor look again: the three must agree."""
        world, before = self.world, await self.diagnose()
        handled = world.model.count_effects()
        said, named = (
            await self.recover(),
            set() if isinstance(before, str) else {each.code for each in before.problems},
        )
        handled = world.model.count_effects() - handled
        is_alone = self.running == 0 and not world.fake.upcoming() and world.store.state == "well"
        if is_alone and handled and not isinstance(before, str) and not named & MISSED:
            raise Broken(f"doctor saw nothing to recover, only {sorted(named)}, and {handled} events were")
        after = await self.diagnose()
        left = set() if isinstance(after, str) else {each.code for each in after.problems} & LEFT
        if is_alone and "finished" in said and left:
            raise Broken(f"the recovery was finished, and doctor named {sorted(left)}")
        return f"doctor said {sorted(named)}, then {said}"

    async def replay(self, **options: Any) -> str:
        service = self.world.service
        self.world.model.forget_before()
        if "again" in options:
            self.world.model.allow_again()

        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            return await Replay(
                basiq, service.webhook_ids[0], service.receiver(service.version, machine), **options
            ).run()

        done = await self.run(job)
        return f"replay {done if isinstance(done, str) else f'handled {done.handled}, finished: {done.finished}'}"

    async def retry(self) -> str:
        service = self.world.service

        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            return await service.receiver(service.version, machine).retry_quarantined()

        done = await self.run(job)
        return done if isinstance(done, str) else ", ".join(each.result.value for each in done)

    async def drop(self, by: float) -> str:
        service = self.world.service

        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            receiver = service.receiver(service.version, machine)
            found = await receiver.quarantined()
            chosen = [each.event_id for each in found][int(by * len(found)) :][:1]
            return await receiver.drop_quarantined(chosen)

        return f"an operator dropped from the quarantine: {await self.run(job)}"

    async def work(self) -> str:
        service = self.world.service

        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            return await service.receiver(service.version, machine).work(until_empty=True)

        return str(await self.run(job))

    async def join(self) -> str:
        """Let the newest webhook join the inbox: a receiver whose list holds a noted one does that at its start."""
        service = self.world.service

        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            async with service.receiver(service.version, machine):
                return "joined"

        return str(await self.run(job))

    async def move_store(self) -> str:
        """Stop the service, let nothing be left, and deploy it with another store. Recover from there on."""
        world, service = self.world, self.world.service
        if world.store.state != "well" or service.partner != "well" or self.running:
            return "nothing"
        if "finished" not in (said := await self.recover()):
            return f"the service was not moved to another inbox: {said}"
        wanted, service.wanted = service.wanted, 0
        for pod in list(service.pods):
            await service.stop(pod)
        stopped = world.now()
        await self.work()
        if await self.left() or self.running:
            said = "something was left"
        else:
            world.move_store()
            said = f"moved: {await self.recover(since=stopped)}"
        service.wanted = wanted
        for _ in range(wanted):
            await service.start(service.version)
        return f"the service was to get another inbox: {said}"

    async def left(self) -> bool:
        """Return whether something waits or is in the quarantine."""

        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            receiver = self.world.service.receiver(self.world.service.version, machine)
            return (await receiver.waiting()).count + len(await receiver.quarantined())

        return bool(await self.run(job) != 0)

    # --- doctor ---

    async def diagnose(self) -> Any:
        """Return what doctor finds, or a text. Where it finds nothing, nothing is missed but what Basiq still sends."""
        world, service, began = self.world, self.world.service, self.world.now()

        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            receiver = service.receiver(service.version, machine)
            return await basiq.webhooks.diagnose(service.webhook_ids[0], receiver=receiver, max_items=None)

        found = await self.run(job)
        if not isinstance(found, str) and found.healthy:
            disabled = world.webhook_disabled_at(service.webhook_ids[0])
            if disabled is not None and disabled < began:
                raise Broken("doctor found nothing, and the webhook was disabled before it began")
            look_for_missed(world, "doctor found nothing", began, sending=True)
        return found

    async def paste(self) -> str:
        """Run the lines that doctor prints, in its order."""
        found = await self.diagnose()
        if isinstance(found, str):
            return f"doctor {found}"
        place, said = Given(receiver="service:receiver"), []
        for problem in found.problems:
            words = find_line(problem, found, place)[1:]
            said.append(f"{problem.code}: {' '.join(words) or 'no line'} -> {await self.command(list(words))}")
        return f"an operator pasted {'; '.join(said) or 'nothing, for all is well'}"

    async def command(self, words: list[str]) -> str:
        """Run a command of the command line, as far as doctor prints it."""
        text = " ".join(words)
        if not words or text.startswith(SHOWS):
            return "-"
        if words[0] == "recover":
            options: dict[str, Any] = {"everything": "--everything" in words, "all_types": "--all-types" in words}
            if "--acknowledged" in words:
                options["acknowledged"] = datetime.fromisoformat(words[words.index("--acknowledged") + 1])
            return await self.recover(**options)
        if text.startswith("webhooks wait"):
            await asyncio.sleep(1_000)
            return "active"
        if text.startswith(("webhooks reactivate", "webhooks secret")):
            return await self.rewrite(words[2])
        if text.startswith("webhooks update"):
            types = [word for before, word in pairwise(words) if before == "--event"]
            return await self.subscribe(types)
        if text.startswith("quarantine retry"):
            return await self.retry()
        if text.startswith("work "):
            return await self.work()
        if text.startswith("inbox join"):
            return await self.join()
        raise Broken(f"doctor prints a line that no one here can run: {text}")

    # --- the webhook ---

    async def rewrite(self, webhook_id: str) -> str:
        """Reactivate a webhook, or write it as it is: Basiq may make a new secret."""

        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            return self.keep_secret(await basiq.webhooks.reactivate(webhook_id))

        return str(await self.run(job))

    async def subscribe(self, types: list[str]) -> str:
        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            return self.keep_secret(
                await basiq.webhooks.update(self.world.service.webhook_ids[0], subscribed_events=types)
            )

        return f"subscribed to {len(types)} types: {await self.run(job)}"

    async def move(self, url: str) -> str:
        """Let a new url take the deliveries of the present one."""
        world = self.world

        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            types = world.subscribed()
            ensure = partial(basiq.webhooks.ensure, name=NAME, subscribed_events=types)
            found = await ensure(url=url, move_from=world.service.url)
            world.service.url = url
            return self.keep_secret(found)

        world.fake.route(url, world.receive)
        return str(await self.run(job))

    async def make(self) -> str:
        """Make the webhook that is gone again."""
        world, service = self.world, self.world.service

        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            types = world.subscribed()
            found = await basiq.webhooks.ensure(url=service.url, name=NAME, subscribed_events=types)
            if found.id not in service.webhook_ids:
                self.world.model.forget_before()  # the messages of the former one may be gone, and what they told
                service.webhook_ids = [found.id, *service.webhook_ids]
            return self.keep_secret(found)

        return str(await self.run(job))

    async def make_second(self, url: str) -> str:
        """Make a second webhook, and put its id before the others."""
        world, service = self.world, self.world.service

        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            found = await basiq.webhooks.ensure(url=url, subscribed_events=world.subscribed())
            world.model.forget_before()  # the new webhook has no message of what the former one delivered
            service.webhook_ids = [found.id, *service.webhook_ids]
            service.url = url
            return self.keep_secret(found)

        return str(await self.run(job))

    async def delete(self, webhook_id: str) -> str:
        async def job(machine: Machine, basiq: BasiqClient) -> Any:
            self.world.model.forget_before()  # its messages are gone, and what they told
            await basiq.webhooks.delete(webhook_id)

        return str(await self.run(job))

    def keep_secret(self, webhook: Any) -> str:
        """Put a new secret before the former ones, in the file that all pods read; if need be by the dashboard."""
        kept = self.world.service.kept_secrets
        text = self.world.fake.secret(webhook.id) if webhook.secret is None else webhook.secret.reveal()
        if text not in kept:
            kept.insert(0, text)
            del kept[3:]
        return getattr(webhook, "action", "done")
