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

from . import operations, sql_store, troubles
from .machines import BEGINNING, Listening, run_world
from .model import Broken, Model
from .network import Weather, deliver
from .operators import Operators
from .properties import PERSON, look_at_effects, look_at_size, look_for_delayed, look_for_missed, private
from .service import TYPES, URL, Service, Version
from .steps import STEPS
from .stores import Memory, SQLite, Store, without_threads

_STEPS = (operations, troubles)  # their import adds their steps
STORES: dict[str, type[Store]] = {"memory": Memory, "sqlite": SQLite, "sql": sql_store.SQL}
EVERY_FORM = Quirks.forms()
_NOTHING_LEFT = "recover finished, and handled 0"


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
            "quirks": draw_quirks(chance),
        }
        if setting["store"] == "sql":  # its calls cost ten times as much processor time
            setting["transactions"] = chance.random() < 0.5
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
    def __init__(self, story: Story) -> None:
        self.story = story
        self.chance = random.Random(f"the course of {story.seed}")
        self.store: Any = None
        self.former_stores: list[Store] = []
        self.backup: tuple[datetime, datetime | None, Any] | None = None
        self.told: list[tuple[datetime, str]] = []
        """What happened when."""
        self.model = Model(self.now)
        self.broken: Broken | None = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self.is_calm = False
        self.asked: Sequence[str] = TYPES
        """The event types that the service asks for."""
        self.disabled: dict[str, datetime] = {}

    async def live(self) -> None:
        self.fake = FakeBasiq(
            clock=self.now, seed=self.story.seed, quirks=make_quirks(self.story.setting["quirks"]), page_size=20
        )
        self.store = STORES[self.story.setting["store"]](self.model, self.chance)
        self.weather = Weather(self.chance)
        self.service = Service(self.fake, self.model, self.store, self.weather, self.chance, self.spawn)
        self.operators = Operators(self)
        setting = self.story.setting
        self.service.version = Version(deferred=setting["deferred"], quarantine_after=setting["quarantine_after"])
        self.service.in_transactions = setting.get("transactions", False)
        self.fake.route(URL, self.receive)
        self.spawn(deliver(self.fake))
        await self.operators.make()
        await asyncio.sleep(1_000)
        if setting.get("predecessor"):
            await self.live_before()
        self.service.wanted = setting["pods"]
        for _ in range(setting["pods"]):
            await self.service.start(self.service.version)
        if (every := setting["recover every"]) is not None:
            self.spawn(self.recover_every(every))
        await asyncio.sleep(600)  # two clocks may differ by so much: what is lost at first is unknown
        for pause, name, by in self.story.steps:
            await asyncio.sleep(pause)
            self.see_disabled()
            self.check()
            _, act = STEPS[name]
            self.tell(await act(self, by))
        self.check()
        await self.calm_down()

    async def live_before(self) -> None:
        """Let another program, without an inbox, handle the first events."""
        self.fake.route(URL, self.model.handle_before)
        self.told.append((self.now(), ", ".join(map(self.emit, TYPES)) + " happened: another program has them"))
        await asyncio.sleep(100)
        self.fake.route(URL, self.receive)

    def close(self) -> None:
        for each in (*self.former_stores, self.store):
            if each is not None:
                each.close()

    async def calm_down(self) -> None:
        """End all faults, do what the pages say, and look what is left."""
        service, operators = self.service, self.operators
        service.partner, self.weather.loss, self.store.state = "well", 0.0, "well"
        self.fake._deliveries.faults.clear()
        self.is_calm, service.wanted = True, 0
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
            if each.disabled:
                self.tell(f"the webhook was reactivated: {await operators.rewrite(each.id)}")
        if self.webhook_disabled_at(service.webhook_ids[0]) is not None:
            self.tell(f"it stays disabled: {await operators.recover()}")
            self.tell(f"it was deleted ({await operators.delete(service.webhook_ids[0])})")
            self.tell(f"and made again: {await operators.make()}")
            await self.deploy()
            await asyncio.sleep(1_000)
        await self.live_on()
        self.tell(await operators.paste())
        if self.chance.random() < 0.5:  # else the lines that doctor prints must be enough
            self.tell(await operators.recover())
        await self.live_on()
        self.tell(await operators.paste())
        began = self.now()
        await self.live_on()
        self.check()
        look_for_delayed(self, began)
        look_for_missed(self, "all lines of doctor were run, twice", self.now(), sending=True)
        self.tell(last := await operators.recover())
        self.check()
        if "finished" not in last:
            raise Broken(f"when all was well, the recovery had problems: {last}")
        found = await operators.diagnose()
        if isinstance(found, str) or not found.healthy:
            said = found if isinstance(found, str) else [str(each) for each in found.problems]
            raise Broken(f"when all was well, doctor said {said}")
        look_at_size(self)
        look_at_effects(self)

    async def live_on(self) -> None:
        """Let some events happen, and three quarters of an hour pass."""
        for each in TYPES:
            self.emit(each)
        await asyncio.sleep(45 * 60)

    async def recover_every(self, seconds: float) -> None:
        """Recover again and again, as a cron job does. Where nothing has happened, three of four are left out."""
        before, seen, quiet = _NOTHING_LEFT, 0, 0
        while not self.is_calm:
            await asyncio.sleep(seconds)
            happened = len(self.told) + len(self.model.facts)
            quiet = 0 if happened != seen or before != _NOTHING_LEFT else quiet + 1
            seen = happened
            if self.is_calm or quiet % 4:
                continue
            if (said := await self.operators.recover()) != before:
                self.tell(f"{said} (it runs each {seconds:.0f} s)")
                before = said

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
        sent = self.fake.messages()
        types = {*self.service.version.types} & {*self.subscribed_now()}
        planned = {each.message_id for each in self.fake.upcoming()}  # what Basiq will send once more, come what may
        done = [each for each in sent if each.id not in planned and any(attempt.ok for attempt in each.attempts)]
        delivered = {each.event.id for each in done}
        self.model.move({each.event.id for each in sent}, delivered, types)
        self.backup = None
        self.former_stores.append(self.store)
        self.store = self.service.store = STORES[self.story.setting["store"]](self.model, self.chance)

    def emit(self, event_type: str) -> str:
        made = self.fake.emit(event_type, data={"name": PERSON})
        return self.model.happen(made.event_id, event_type).name

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
            self.told.append((self.now(), text))

    def tell_all(self, broken: str) -> Sequence[str]:
        """Return the story: the steps, and what happened to the events that ``broken`` names."""
        named = set(re.findall(r"\be\d+\b", broken)[:2])
        facts = [(at, f"   {name}: {text}") for at, name, text in self.model.facts if name in named]
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
    logger = logging.getLogger("basiq_async")
    listening = Listening(world.hear)
    logger.addHandler(listening)
    logger.propagate, propagate = False, logger.propagate
    broken: str | None = None
    try:
        with without_threads(), sql_store.without_threads():
            run_world(world.live, str(story.seed))
    except Broken as exc:
        broken = str(exc)
    except Exception as exc:  # of the package, or of the world itself
        broken = f"{type(exc).__name__}: {exc}"
    finally:
        logger.removeHandler(listening)
        logger.propagate = propagate
        world.close()
    return Ending(broken, world.tell_all(broken or ""))
