"""What operators do beside their jobs: run commands, and paste the lines that doctor prints."""

from __future__ import annotations

import shlex
import signal
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basiq_async import BasiqClient
from basiq_async.cli._run import MEANINGS  # private: the exit codes

from .command_line import RECEIVER, Command
from .jobs import Jobs
from .machines import Machine
from .model import Broken
from .network import Posting, Wire
from .properties import look_for_missed, look_for_unnamed, private
from .steps import REMEMBERED

if TYPE_CHECKING:
    pass

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


class Operators(Jobs):
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
