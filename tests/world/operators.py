"""What operators do: run commands, change the webhook, and paste the lines that doctor prints."""

from __future__ import annotations

import asyncio
import shlex
import signal
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basiq_async import BasiqClient, InboxError, Response, Secret
from basiq_async.cli._run import MEANINGS  # private: the exit codes
from basiq_async.replay import HttpTarget, Replay
from tests.support.frames import leaks

from .command_line import RECEIVER, Command, let_post
from .machines import Machine
from .model import Broken, Event
from .network import Posting, Wire
from .properties import look_for_missed, look_for_unnamed, private
from .steps import REMEMBERED

if TYPE_CHECKING:
    from .world import World

MISSED = {"undelivered", "never-sent", "unrecorded", "waiting", "partial", "forbidden"}
LEFT = {"undelivered", "never-sent", "unrecorded", "unknown", "unknown-activity", "quarantined", "unrecoverable"}
"""Codes of doctor: what a recovery handles, and what it must not leave."""


def codes(found: Command | str) -> set[str]:
    """Return the codes of the problems that doctor named."""
    return set() if isinstance(found, str) else {each["code"] for each in found.row.get("problems", ())}


def count_handled(row: Mapping[str, Any]) -> int:
    return sum((row.get(each) or {}).get("handled", 0) for each in ("messages", "events"))


def last_line(done: Command) -> str:
    return "".join(done.said).strip().rpartition("\n")[2][:200]


class Operators:
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

    # --- commands ---

    async def command(self, *words: str, seconds: float | None = None) -> Command | str:
        """Run a line of the command line. Return how it ended, or a text if it was killed.

        seconds: after which a signal ends it; by default it ends by itself.
        """
        service, model = self.world.service, self.world.model

        async def job(machine: Machine, basiq: BasiqClient) -> Command:
            receiver = partial(service.receiver, service.version, machine)
            posting = Posting(service.weather, service.answer, self.posted)
            command = Command(Wire(service.fake, service.weather), posting, receiver)
            if seconds is not None:
                self.world.later(seconds, lambda: command.signal(signal.SIGTERM))
            return await command.run(words)

        ended: Command | str = await self.run(job)
        if isinstance(ended, str):
            return ended
        said = "".join(ended.said)
        if ended.error is not None:
            self._check_error(ended.error)
        shown = said + "".join(ended.output)
        if leaked := [each for each in private(self.world) if each in shown]:
            model.breaks(f"{words[0]} showed what is private, {leaked[0]}: {shown[:200]}")
        if ended.code not in MEANINGS or (ended.error is not None and not ended.code):
            model.breaks(f"{' '.join(words)} ended with {ended.code}: {said[-200:]}")
        return ended

    async def recover(self, webhook_id: str = "", *options: str) -> str:
        """Recover, by default the newest webhook, and look whether an exit of 0 has left nothing."""
        world, began = self.world, self.world.now()
        webhook_id = webhook_id or world.service.webhook_ids[0]
        if "--everything" in options:
            world.model.forget_before()
        if "--acknowledged" in options:
            for event in world.model.unhandled():
                event.acknowledged = True
        done = await self.command("recover", webhook_id, "--receiver", RECEIVER, *options)
        if isinstance(done, str):
            return f"recover {done}"
        if bool(done.row.get("finished")) is (done.code != 0):
            raise Broken(f"a recovery ended with {done.code}, and said finished: {done.row.get('finished')}")
        if done.code:
            why = sorted({each["code"] for each in done.row.get("problems", ())}) or last_line(done)
            return f"recover handled {count_handled(done.row)}, and left {why}"
        look_for_missed(world, "the recovery was finished", began)
        look_for_unnamed(world, began)
        disabled, looked = world.webhook_disabled_at(webhook_id), done.wire.looked.get(webhook_id)
        if disabled is not None and looked is not None and disabled < looked:
            raise Broken("the recovery was finished, and the webhook was disabled before it looked")
        return f"recover finished, and handled {count_handled(done.row)}"

    async def compare(self) -> str:
        """Let doctor look, recover, and let doctor look again: the three must agree."""
        world, before = self.world, await self.diagnose()
        handled, named = world.model.count_effects(), codes(before)
        said = await self.recover()
        handled = world.model.count_effects() - handled
        is_alone = self.running == 0 and not world.planned() and world.store.state == "well"
        if is_alone and handled and not isinstance(before, str) and not named & MISSED:
            raise Broken(f"doctor saw nothing to recover, only {sorted(named)}, and {handled} events were")
        left = codes(await self.diagnose()) & LEFT
        if is_alone and "finished" in said and left:
            raise Broken(f"the recovery was finished, and doctor named {sorted(left)}")
        return f"doctor said {sorted(named)}, then {said}"

    async def replay(self, *options: str) -> str:
        """Replay. If all was selected, an exit of 0 has left nothing that has a message."""
        world, began = self.world, self.world.now()
        sent = {each.event.id for each in world.messages()}
        world.model.forget_before()
        if "--again" in options:
            world.model.allow_again()
        done = await self.command("replay", world.service.webhook_ids[0], "--receiver", RECEIVER, *options)
        if isinstance(done, str):
            return f"replay {done}"
        if not done.code and not options:
            look_for_missed(world, "a replay of all ended with 0", began, among=sent)
        return f"replay ended with {done.code}, and handled {done.row.get('handled')}"

    async def post(self, fuse: int) -> str:
        """Post the history to the service by a job that is killed, and run the same line again."""
        world, service, said = self.world, self.world.service, []
        world.model.forget_before()
        self.posted = []
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "secret").write_text(service.vault.kept[0])
            Path(folder, "secret").chmod(0o600)
            place = "--inbox", f"{folder}/jobs.db", "--secret-file", f"{folder}/secret"
            since = world.now() - REMEMBERED
            chosen = "--since", since.isoformat(), "--concurrency", "4"
            line = "replay", service.webhook_ids[0], "--to", service.url, *place, *chosen
            for self.fuse in (fuse, None):
                before, self.posted = {*self.posted}, []
                listed = world.fake.messages(service.webhook_ids[0])
                sent = {each.id: each.event.id for each in listed if each.attempts and each.created > since}
                done = await self.command(*line)
                said.append(done if isinstance(done, str) else f"ended with {done.code}")
                taken = {sent.get(each) for each in (*before, *self.posted)}
                left = [world.name_of(event) for event in sent.values() if event not in taken]
                if left and not (isinstance(done, str) or done.code):
                    raise Broken(f"a job that posts ended with 0, and has not posted {left}")
        if len(again := before & {*self.posted}) > 4:
            raise Broken(f"a job that was killed posted {len(again)} messages again, of {len(self.posted)}")
        return f"a job that is killed {fuse} steps after its begin posts all: it {', then it '.join(said)}"

    async def retry(self, group: str = "quarantine") -> str:
        """Retry what is in the quarantine, or what waits (``inbox``)."""
        done = await self.command(group, "retry", "--receiver", RECEIVER)
        if isinstance(done, str):
            return done
        results = [each["result"] for each in done.rows]
        if not done.code and not {*results} <= {"handled", "duplicate", "handled-before"}:
            raise Broken(f"{group} retry ended with 0, and had {results}")
        return f"{', '.join(results) or 'nothing'}, exit code {done.code}"

    async def look(self) -> tuple[int, int]:
        """Return the exit codes of what shows what waits, and what is in the quarantine; an empty one must be empty."""
        found, model = [], self.world.model
        for words, waits in ((("inbox", "waiting"), True), (("quarantine", "list"), False)):
            before = model.kept(waits=waits)
            shown = await self.command(*words, "--receiver", RECEIVER)
            found.append(1 if isinstance(shown, str) else shown.code)
            left = [each.name for each in model.kept(waits=waits) if each in before]
            if not found[-1] and left:
                raise Broken(f"{' '.join(words)} ended with 0, and {left[0]} is there")
        return found[0], found[1]

    async def drop(self, by: float) -> str:
        shown = await self.command("quarantine", "list", "--receiver", RECEIVER)
        if isinstance(shown, str) or not shown.rows:
            return "nothing"
        chosen = shown.rows[int(by * len(shown.rows))]["delivery_id"]
        done = await self.command("quarantine", "drop", chosen, "--receiver", RECEIVER, "--yes")
        return f"an operator dropped one of the quarantine: {done if isinstance(done, str) else done.code}"

    async def work(self) -> str:
        """Begin what waits, for five minutes."""
        done = await self.command("work", "--receiver", RECEIVER, seconds=300)
        return done if isinstance(done, str) else f"ended with {done.code}"

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

    async def move_store(self) -> str:
        """Stop the service, let nothing be left, and deploy it with another store. Recover from there on."""
        world, service = self.world, self.world.service
        if world.store.state != "well" or service.partner != "well" or self.running:
            return "nothing"
        since = world.now() - timedelta(minutes=2)
        if "finished" not in (said := await self.recover()):
            return f"the service was not moved to another inbox: {said}"
        wanted, service.wanted = service.wanted, 0
        for pod in list(service.pods):
            await service.stop(pod)
        await self.work()
        if await self.look() != (0, 0) or self.running:
            said = "something was left"
        else:
            world.move_store()
            said = f"moved: {await self.recover('', '--since', since.isoformat())}"
        service.wanted = wanted
        for _ in range(wanted):
            await service.start(service.version)
        return f"the service was to get another inbox: {said}"

    # --- doctor ---

    async def diagnose(self) -> Command | str:
        """Run doctor. Where it finds nothing, nothing is missed but what Basiq still sends."""
        world, began = self.world, self.world.now()
        webhook_id = world.service.webhook_ids[0]
        found = await self.command("webhooks", "doctor", webhook_id, "--receiver", RECEIVER, "--limit", "0")
        if isinstance(found, str) or not found.row:
            return found if isinstance(found, str) else last_line(found)
        if (found.code == 0) is bool(found.row["problems"]) or found.row["healthy"] is bool(found.row["problems"]):
            raise Broken(f"doctor ended with {found.code}, and named {sorted(codes(found))}")
        if found.code == 0:
            disabled = world.webhook_disabled_at(webhook_id)
            if disabled is not None and disabled < began:
                raise Broken("doctor found nothing, and the webhook was disabled before it began")
            look_for_missed(world, "doctor found nothing", began, sending=True)
        return found

    async def paste(self) -> str:
        """Run the lines that doctor prints, in its order."""
        found, said = await self.diagnose(), []
        if isinstance(found, str):
            return f"doctor {found}"
        for problem in found.row["problems"]:
            said.append(
                f"{problem['code']}: {problem['command'] or 'no line'} -> {await self.line(problem['command'])}"
            )
        return f"an operator pasted {'; '.join(said) or 'nothing, for all is well'}"

    async def line(self, line: str | None) -> str:
        """Run a line that doctor prints; by hand what writes a secret to a file: the service has another place."""
        words = shlex.split(line or "")[1:]
        match words:
            case [] | ["messages", "tail", *_] | ["webhooks", "doctor", *_, "--test"]:
                return "-"  # it waits for a person, or posts to an address of no real network
            case ["recover", webhook_id, "--receiver", _, *options]:
                return await self.recover(webhook_id, *options)
            case ["webhooks", "reactivate" | "secret", webhook_id, *_]:
                return await self.rewrite(webhook_id)
            case ["webhooks", "update", _, *options]:
                return await self.subscribe([word for word in options if word != "--event"])
            case ["quarantine", "retry", *_]:
                return await self.retry()
            case ["work", *_]:
                done = await self.command(*words, seconds=600)
            case ["inbox", "join", *_]:
                done = await self.command(*words, "--yes")
            case _:
                done = await self.command(*words)
        return done if isinstance(done, str) else f"{done.code} {last_line(done) if done.error else ''}"

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
