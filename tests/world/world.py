"""A world: Basiq, a service and its operators. It is drawn from a seed as a list of steps, and lives through them."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs

from basiq_async.testing import FakeBasiq, Quirks

from . import errands, operations, sql_store, troubles, vault
from .command_line import in_the_process
from .machines import BEGINNING, Listening, run_world
from .model import Broken, Model
from .network import Weather, deliver
from .operators import Operators
from .properties import PERSON, SOON, look_at_effects, look_at_size, look_for_delayed, look_for_missed, private
from .service import TYPES, Service, Version
from .steps import HARMLESS, STEPS
from .stores import Memory, SQLite, Store, without_threads

_STEPS = (operations, errands, troubles)  # their import adds their steps
STORES: dict[str, type[Store]] = {"memory": Memory, "sqlite": SQLite, "sql": sql_store.SQL}
EVERY_FORM = Quirks.forms()


def draw_quirks(chance: random.Random) -> dict[str, str]:
    """Return the forms of a Basiq: the defaults, those of the engine, or some of all."""
    if (kind := chance.choice(("default", "engine", "mixed"))) == "mixed":
        return {name: chance.choice(forms) for name, forms in EVERY_FORM.items() if chance.random() < 0.3}
    return {"engine": "yes"} if kind == "engine" else {}


def make_quirks(drawn: dict[str, str]) -> Quirks:
    return Quirks.engine() if "engine" in drawn else Quirks(**drawn)  # type: ignore[arg-type]


@attrs.frozen
class Story:
    """All that decides what happens: a world of the same story is the same, on any machine."""

    seed: int
    setting: dict[str, Any]
    steps: tuple[tuple[float, str, float], ...]
    """For each step the seconds before it, its name, and the number that decides its details."""

    @classmethod
    def draw(cls, seed: int, *, days: float = 3.0) -> Story:
        chance = random.Random(seed)
        setting = {
            "pods": chance.randint(1, 3),
            "deferred": chance.random() < 0.4,
            "quarantine_after": chance.choice((None, None, 3)),
            "recover every": chance.choice((None, None, 1_800, 86_400)),
            "store": chance.choices(("memory", "sqlite", "sql"), (6, 6, 1))[0],
            "predecessor": chance.random() < 0.3,
            "services": chance.choices((1, 2, 3), (10, 1, 1))[0],
            "event every": chance.choice((None, None, None, 7_200)),
            "page": chance.choice((4, 20, 20)),
            "quirks": draw_quirks(chance),
            "links expire": chance.choice((None, None, 400, 404, 410)),
            "secrets": chance.choice(("vault", "file")),
        }
        if setting["store"] == "sql":  # its calls cost ten times as much processor time
            setting["transactions"] = chance.random() < 0.5
            setting["services"] = chance.choice((1, 2, 3))
            setting["recover every"], days = None, days / 20
        names, weights = list(STEPS), [weight for weight, _ in STEPS.values()]
        steps, left = list[tuple[float, str, float]](), days * 86_400
        while left > 0 and len(steps) < 40:
            pause = round(min(10 ** chance.uniform(-1, 4.6 + math.log10(max(days / 3, 1))), left), 3)
            steps.append((pause, chance.choices(names, weights)[0], round(chance.random(), 6)))
            left -= pause
        return cls(seed, setting, tuple(steps))

    def __str__(self) -> str:
        return json.dumps([self.seed, self.setting, self.steps])

    @classmethod
    def read(cls, line: str) -> Story:
        seed, setting, steps = json.loads(line)
        return cls(seed, setting, tuple((pause, name, by) for pause, name, by in steps))


class World:
    """A service with its operators and its store. Others may stand beside it: at the same Basiq, on the same database.

    first: the one that it stands beside.
    """

    def __init__(self, story: Story, first: World | None = None) -> None:
        self.story, self.setting = story, story.setting
        self.all: list[World] = [self] if first is None else [*first.all, self]
        """All services of the world."""
        self.letter: str = "" if first is None else "bc"[len(first.all) - 1]
        self.chance: random.Random = random.Random(f"the course of {story.seed}{self.letter}")
        self.store: Any = None
        self.former_stores: list[Store] = []
        self.backup: tuple[datetime, datetime | None, Any] | None = None
        self.told: list[tuple[datetime, str]] = [] if first is None else first.told
        """What happened when."""
        self.tasks: set[asyncio.Task[Any]] = set() if first is None else first.tasks
        self.broken: Broken | None = None
        self.model: Model = Model(self.now, self.letter)
        self.is_calm = False
        self.asked: Sequence[str] = TYPES
        """The event types that the service asks for."""
        self.disabled: dict[str, datetime] = {}
        self.changed = BEGINNING
        """When something happened last that may hold up what waits."""

    async def live(self) -> None:
        setting = self.setting
        self.fake = FakeBasiq(
            clock=self.now,
            seed=self.story.seed,
            quirks=make_quirks(setting["quirks"]),
            page_size=setting.get("page", 20),
        )
        self.weather: Weather = Weather(self.chance)
        self.weather.expired = setting.get("links expire")
        for _ in range(1, setting.get("services", 1)):
            self.all.append(World(self.story, self))
        for each in self.all:
            each.all, each.fake, each.weather = self.all, self.fake, self.weather
            each.begin()
        self.spawn(deliver(self.fake))
        for each in self.all:
            await each.operators.make()
        await asyncio.sleep(1_000)
        if setting.get("predecessor"):
            await self.live_before()
        for each in self.all:
            await each.start()
        await asyncio.sleep(600)  # two clocks may differ by so much: what is lost at first is unknown
        for pause, name, by in self.story.steps:
            await asyncio.sleep(pause)
            chosen = self.all[int(by * 23 % 1 * len(self.all))]
            chosen.check()
            _, act = STEPS[name]
            chosen.tell(await act(chosen, by))
            if name not in HARMLESS:
                chosen.touch()
        for each in self.all:
            each.check()
        await asyncio.gather(*(each.calm_down() for each in self.all))

    def begin(self) -> None:
        """Make the service, without pods."""
        first = self.all[0].store if self.setting["store"] == "sql" else None
        self.store = STORES[self.setting["store"]](self.model, self.chance, first)
        self.service = Service(self)
        self.operators: Operators = Operators(self)
        self.service.version = Version(
            deferred=self.setting["deferred"], quarantine_after=self.setting["quarantine_after"]
        )
        self.service.in_transactions = self.setting.get("transactions", False)
        self.fake.route(self.service.url, self.receive)

    async def start(self) -> None:
        """Start the pods, and what happens again and again."""
        self.service.wanted = self.setting["pods"]
        for _ in range(self.service.wanted):
            await self.service.start(self.service.version)
        if (every := self.setting["recover every"]) is not None:
            self.spawn(self.recover_every(every))
        if (every := self.setting.get("event every")) is not None and not self.letter:
            self.spawn(self.emit_every(every))
        self.spawn(self.watch())

    async def live_before(self) -> None:
        """Let another program, without an inbox, handle the first events."""
        for each in self.all:
            self.fake.route(each.service.url, each.model.handle_before)
        self.told.append((self.now(), ", ".join(map(self.emit, TYPES)) + " happened: another program has them"))
        await asyncio.sleep(100)
        for each in self.all:
            self.fake.route(each.service.url, each.receive)

    def close(self) -> None:
        for each in (*self.former_stores, self.store):
            if each is not None:
                each.close()

    async def calm_down(self) -> None:
        """End all faults, do what the pages say, and look what is left."""
        service, operators = self.service, self.operators
        service.partner_of = service.patience = None
        service.partner, self.weather.loss, self.store.state, service.vault.state = "well", 0.0, "well", "well"
        self.fake._deliveries.faults.clear()
        self.store.place.skew, self.is_calm, service.wanted = 0.0, True, 0
        service.version = Version(deferred=service.version.deferred)
        service.lethal.clear()
        service.poisoned.clear()
        for pod in list(service.pods):
            pod.machine.fuse, pod.machine.skew = None, 0.0
            if pod.machine.is_frozen:
                pod.machine.thaw()
            await service.stop(pod)
        self.asked = TYPES
        self.tell("calm begins")
        if not [each for each in self.fake.webhooks() if each.id == service.webhook_ids[0]]:
            self.tell(f"the webhook was made again: {await operators.make()}")
            await asyncio.sleep(1_000)
        elif set(self.subscribed_now()) != set(TYPES):
            self.tell(await operators.subscribe(list(TYPES)))
        service.wanted = 2
        for _ in range(2):
            await service.start(service.version)
        for each in self.fake.webhooks():
            if each.disabled and each.id in service.webhook_ids:
                self.tell(f"the webhook was reactivated: {await operators.rewrite(each.id)}")
        if self.webhook_disabled_at(service.webhook_ids[0]) is not None:
            self.tell(f"it stays disabled: {await operators.recover()}")
            self.tell(f"it was deleted ({await operators.delete(service.webhook_ids[0])})")
            self.tell(f"and made again: {await operators.make()}")
            await self.deploy()
            await asyncio.sleep(1_000)
        self.tell(operators.remove_secrets())
        for event_id in sorted(self.model.forwarded):
            self.tell(await operators.forget_user_of(self.model.events[event_id]))
        calm = max(self.now(), self.changed)
        await self.live_on(60)
        self.check()
        look_for_delayed(self, calm)
        self.tell(await operators.paste())
        if self.chance.random() < 0.5:  # else the lines that doctor prints must be enough
            self.tell(await operators.recover())
        await self.live_on()
        self.tell(await operators.paste())
        began = self.now()
        await self.live_on()
        self.check()
        look_for_delayed(self, began, SOON)
        look_for_missed(self, "all lines of doctor were run, twice", self.now(), sending=True)
        self.tell(last := await operators.recover())
        self.check()
        if "finished" not in last:
            raise Broken(f"when all was well, the recovery had problems: {last}")
        found = await operators.diagnose()
        if isinstance(found, str) or found.code:
            said = found if isinstance(found, str) else [each["text"] for each in found.row["problems"]]
            raise Broken(f"when all was well, doctor said {said}")
        if await operators.look() != (0, 0):
            raise Broken("when all was well, something waited or was in the quarantine")
        await self.service.try_former_secrets()
        self.check()
        look_at_size(self)
        look_at_effects(self)

    async def live_on(self, minutes: int = 45) -> None:
        """Let some events happen, and some time pass."""
        for each in TYPES:
            self.emit(each)
        await asyncio.sleep(minutes * 60)

    async def recover_every(self, seconds: float) -> None:
        """Recover again and again, as a cron job does. Where nothing has happened, seven of eight are left out."""
        before, seen, quiet = "recover finished, and handled 0", 0, 0
        while not self.is_calm:
            await asyncio.sleep(seconds)
            happened = len(self.told) + len(self.model.facts)
            quiet = 0 if happened != seen else quiet + 1
            seen = happened
            if self.is_calm or quiet % 8:
                continue
            if (said := await self.operators.recover()) != before:
                self.tell(f"{said} (it runs each {seconds:.0f} s)")
                before = said

    async def emit_every(self, seconds: float) -> None:
        while not self.is_calm:
            await asyncio.sleep(seconds)
            self.emit(TYPES[int(self.now().timestamp() // seconds) % 3])

    async def watch(self) -> None:
        """Look whether something waits too long while nothing is wrong."""
        days = sum(pause for pause, _, _ in self.story.steps) / 86_400
        while not self.is_calm:
            await asyncio.sleep(600 * max(days / 3, 1))
            if self.is_well():
                try:
                    look_for_delayed(self, self.changed)
                except Broken as exc:
                    self.broken = self.broken or exc

    def is_well(self) -> bool:
        """Return whether nothing is there that holds up what waits."""
        service, webhooks = self.service, [each for each in self.fake.webhooks() if each.disabled]
        return (
            self.store.state == service.vault.state == "well"
            and not self.store.place.skew
            and (service.partner == "well" or service.partner_of is not None)
            and not (self.weather.loss or self.fake._deliveries.faults or webhooks or service.leaving)
            and bool(service.pods)
            and all(
                pod.is_up
                and not (pod.machine.is_frozen or pod.machine.skew)
                and {*service.version.types} <= {*pod.version.types}
                for pod in service.pods
            )
        )

    def is_quiet(self) -> bool:
        """Return whether all has been well for some minutes, and no job runs."""
        since = self.now() - self.changed
        return (
            self.is_well() and since > timedelta(minutes=5) and not any(each.operators.running for each in self.sharing)
        )

    def touch(self, seconds: float = 0.0) -> None:
        """Note that something changes that may hold up what waits, for so long."""
        self.changed = max(self.changed, self.now() + timedelta(seconds=seconds))

    @property
    def sharing(self) -> list[World]:
        """The services on the same database."""
        return [each for each in self.all if each.store.place is self.store.place]

    # --- what steps do ---

    async def deploy(self, pause: float = 0.0) -> None:
        """Start new pods one after the other, each beside the old ones, and stop these."""
        service = self.service
        for pod in list(service.pods):
            new = await service.start(service.version)
            await asyncio.sleep(pause)
            if not new.machine.is_dead and pod in service.pods:
                await service.stop(pod)

    def move_store(self) -> None:
        """Give the service another store."""
        sent = self.messages()
        types = {*self.service.version.types} & {*self.subscribed_now()}
        planned = self.planned()  # what Basiq will send once more, come what may
        delivered = {each.event.id for each in sent if any(attempt.ok for attempt in each.attempts)} - planned
        self.model.move(delivered, types)
        self.backup = None
        self.former_stores.append(self.store)
        self.store = STORES[self.setting["store"]](self.model, self.chance, None)

    def emit(self, event_type: str) -> str:
        made = self.fake.emit(event_type, data={"name": PERSON})
        happened = [each.model.happen(made.event_id, event_type) for each in self.all]
        for each, event in zip(self.all, happened, strict=True):
            event.subscribed = event_type in each.asked
        return happened[0].name

    def messages(self) -> list[Any]:
        """Return the messages to the service's webhooks."""
        return [each for each in self.fake.messages() if each.webhook_id in self.service.webhook_ids]

    def has_failed(self, event_id: str) -> bool:
        """Return whether an attempt to deliver it has failed."""
        return any(not attempt.ok for each in self.messages() if each.event.id == event_id for attempt in each.attempts)

    def planned(self) -> set[str]:
        """Return the ids of the events that Basiq sends once more to the service."""
        planned = {each.message_id for each in self.fake.upcoming()}
        return {each.event.id for each in self.messages() if each.id in planned} if planned else planned

    def subscribed(self) -> list[str]:
        """The types that the service asks for."""
        return list(self.asked)

    def subscribed_now(self) -> Sequence[str]:
        """The types that Basiq has for the webhook."""
        found = [each for each in self.fake.webhooks() if each.id == self.service.webhook_ids[0]]
        return (found[0].events or TYPES) if found else ()

    def webhook_disabled_at(self, webhook_id: str) -> datetime | None:
        """Since when a webhook is disabled, at the latest; None for one that is not."""
        self.see_disabled()
        return self.disabled.get(webhook_id)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            act()
            self.touch()

        self.spawn(wait())

    def spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)

    # --- what is seen ---

    async def receive(self, headers: dict[str, str], body: bytes) -> int:
        try:
            return await self.service.receive(headers, body)
        except Broken as exc:
            self.broken = self.broken or exc
            raise

    def check(self) -> None:
        """Raise what was found broken meanwhile: a handler's error does not end the world."""
        self.see_disabled()
        self.broken = self.broken or self.model.broken
        if self.broken is not None:
            raise self.broken
        for task in self.tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise task.exception()  # type: ignore[misc]

    def see_disabled(self) -> None:
        """Note since when a webhook is disabled, at the latest."""
        disabled = {each.id for each in self.fake.webhooks() if each.disabled}
        self.disabled = {each: self.disabled.get(each, self.now()) for each in disabled}

    def now(self) -> datetime:
        return BEGINNING + timedelta(seconds=asyncio.get_running_loop().time() - 1000.0)

    def tell(self, text: str) -> None:
        if text != "nothing":
            self.told.append((self.now(), f"{self.letter}: {text}" if self.letter else text))

    def tell_all(self, broken: str) -> Sequence[str]:
        """Return the story: the steps, and what happened to the events that ``broken`` names."""
        named = set(re.findall(r"\be\d+\b", broken)[:2])
        facts = [
            (at, f"   {name}{each.letter}: {text}")
            for each in self.all
            for at, name, text in each.model.facts
            if name in named
        ]
        return [f"{at:%d %b %H:%M:%S}  {text}" for at, text in sorted(self.told + facts, key=lambda each: each[0])]

    def hear(self, text: str) -> None:
        for each in private(self):
            if each in text and self.broken is None:
                self.broken = Broken(f"a log shows what is private: {text[:200]}")

    def id_of(self, name: str) -> str:
        return next(each.id for each in self.model.events.values() if each.name == name)

    def name_of(self, event_id: str) -> str:
        return self.model.events[event_id].name


@attrs.frozen
class Ending:
    """How a world ended: what it broke, or None, and what happened."""

    broken: str | None
    told: Sequence[str]


def live(story: Story) -> Ending:
    """Live through a story."""
    world = World(story)
    key = FakeBasiq.DEFAULT_API_KEY
    logger = logging.getLogger("basiq_async")
    listening = Listening(world.hear)
    logger.addHandler(listening)
    logger.propagate, propagate = False, logger.propagate
    broken: str | None = None
    try:
        with without_threads(), sql_store.without_threads(), vault.without_threads(), in_the_process(key):
            run_world(world.live, str(story.seed))
    except Broken as exc:
        broken = str(exc)
    except Exception as exc:  # of the package, or of the world itself
        broken = f"{type(exc).__name__}: {exc}"
    finally:
        logger.removeHandler(listening)
        logger.propagate = propagate
        for each in world.all:
            each.close()
    return Ending(broken, world.tell_all(broken or ""))
