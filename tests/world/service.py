"""A service: versions of its program, and the pods that run them."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from basiq_async import BasiqClient, PermissionDeniedError, RateLimitError, Response, RetryPolicy
from basiq_async.receiver import Deferred, Delivery, Result, WebhookReceiver

from .machines import Machine
from .network import Wire
from .properties import PERSON
from .vault import Vault, sign

if TYPE_CHECKING:
    from .world import World

TYPES = ("user.created", "consent.revoked", "transactions.updated")


@attrs.frozen
class Version:
    """A program: the types that it has handlers for, and its options."""

    types: tuple[str, ...] = TYPES
    deferred: bool = False
    quarantine_after: int | None = None
    by_pattern: bool = False
    """Whether its handlers are registered by patterns, as ``user.*``."""

    def __str__(self) -> str:
        kind = "deferred handlers" if self.deferred else "live handlers"
        more = "" if self.quarantine_after is None else f", quarantine_after={self.quarantine_after}"
        return f"a version with {kind} of {len(self.types)} types{more}"


@attrs.define(eq=False)
class Pod:
    machine: Machine
    version: Version
    receiver: WebhookReceiver
    stopping: asyncio.Event
    ended: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """Whether it serves."""
        return not self.machine.is_dead and not self.stopping.is_set()


class Service:
    """The pods of a service, on one store. A balancer hands each delivery to one of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.name = f"service{world.letter and '-'}{world.letter}"
        self.fake, self.model, self.weather, self.chance = world.fake, world.model, world.weather, world.chance
        self.webhook_ids: list[str] = []
        is_file = world.setting.get("secrets") == "file"
        self.vault = Vault(world.now, world.store.place.path.with_name(f"{self.name}.secrets") if is_file else None)
        self.url = f"https://{self.name}.example/basiq"
        self.wanted = 0
        """How many pods there are to be: one that crashes is started again."""
        self.version = self.earlier = Version()
        self.pods: list[Pod] = []
        self.leaving: list[Pod] = []
        """Pods that stop, of which the balancer has not heard yet."""
        self.started = 0
        self.poisoned: set[str] = set()
        """The ids of events whose handler raises."""
        self.slow: set[str] = set()
        """The ids of events whose handler takes long: live ones up to 8 s, deferred ones up to 50 s."""
        self.hangs: dict[str, int] = {}
        """The ids of events whose handler hangs, and how often."""
        self.lethal: dict[str, int] = {}
        """The ids of events whose handler kills its machine, and how often."""
        self.in_transactions = False
        """Whether handlers take effect in the transaction in which the store records it."""
        self.partner = "well"
        """Or ``refusing``, ``hanging``, ``403``, ``one 403``, ``429``: what all handlers need."""
        self.partner_of: str | None = None
        """The one event type whose handlers need it; None for all."""
        self.patience: float | None = None
        """After so many seconds whoever hands on the deliveries goes away, which cancels the call of the receiver."""

    # --- pods ---

    def client(self) -> BasiqClient:
        return BasiqClient(
            self.fake.api_key, transport=Wire(self.fake, self.weather), retry=RetryPolicy(max_retries=3, base=0.1)
        )

    async def start(self, version: Version) -> Pod:
        """Start one pod, and wait until it serves, for a minute at most."""
        self.started += 1
        self.world.touch()
        machine = Machine(f"pod-{self.world.letter}{self.started}", self.world.store.place.skew)
        ready = asyncio.Event()
        pod = Pod(machine, version, self.receiver(version, machine), asyncio.Event())
        machine.on_death.append(partial(self.crashed, pod))
        pod.ended = machine.start(self._serve(pod, ready))
        waits = [asyncio.ensure_future(each.wait()) for each in (ready, machine.died)]
        await asyncio.wait([*waits, pod.ended], timeout=60, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        if pod.ended.done():
            pod.ended.result()
        self.pods.append(pod)
        self.world.touch()
        return pod

    async def _serve(self, pod: Pod, ready: asyncio.Event) -> None:
        async with pod.receiver:
            ready.set()
            await pod.stopping.wait()

    def receiver(self, version: Version, machine: Machine) -> WebhookReceiver:
        receiver = WebhookReceiver(
            self.vault,
            webhook_id=self.webhook_ids,
            inbox=self.world.store.open(machine),
            deferred=Deferred() if version.deferred else False,
            quarantine_after=version.quarantine_after,
        )

        async def handle(delivery: Delivery) -> None:
            await self._handle(delivery, machine, 50 if version.deferred else 8)

        async def handle_in_transaction(delivery: Delivery, session: Any) -> None:
            await self._handle(delivery, machine, 2, session)

        patterns = [f"{each.partition('.')[0]}.*" for each in version.types] if version.by_pattern else version.types
        receiver.on(*patterns)(handle_in_transaction if self.in_transactions else handle)
        return receiver

    async def stop(self, pod: Pod) -> None:
        """Stop a pod in order: it has a minute, then it is killed."""
        if pod not in self.pods:
            return  # it has crashed
        self.pods.remove(pod)
        self.leaving.append(pod)
        pod.stopping.set()
        if pod.ended is not None and not pod.machine.is_dead:
            await asyncio.wait((pod.ended,), timeout=60)
        if self.chance.random() < 0.5:
            await asyncio.sleep(self.chance.uniform(0, 10))  # until its process ends, or the balancer has heard
        self.leaving.remove(pod)
        pod.machine.kill()
        self.world.touch()

    def crashed(self, pod: Pod) -> None:
        """Start a pod in the place of one that is gone, after a while."""
        self.model.end_claims(pod.machine.name)
        if pod not in self.pods:
            return  # it was stopped
        self.pods.remove(pod)
        self.world.touch()

        async def start_again() -> None:
            await asyncio.sleep(self.chance.uniform(5, 90))
            if len(self.pods) < self.wanted:
                await self.start(self.version)

        self.world.spawn(start_again())

    # --- deliveries ---

    async def receive(self, headers: dict[str, str], body: bytes) -> int:
        return (await self.answer(headers, body)).status

    async def answer(self, headers: dict[str, str], body: bytes) -> Response:
        """Hand a delivery to a pod, and return its response; 502 if there is none."""
        up = [each for each in (*self.pods, *self.leaving) if not each.machine.is_dead]
        if not up:
            return Response(502)
        pod = self.chance.choice(up)
        since, ready = self.world.store.since, self.chance.random() < 0.2 and not self.in_transactions
        ready = ready and bool(await pod.machine.end_of(pod.receiver.is_ready()))
        if ready and self.world.store.state == "away" and self.fake.now() - since > timedelta(seconds=15):
            self.model.breaks("a pod was ready, and its store was away")
        outcome = await pod.machine.end_of(pod.receiver.handle(headers, body), within=self.patience)
        if outcome is None:
            return Response(502)
        if outcome.reason == "no-match" and self.vault.must_know(pod.machine.name, headers, body):
            self.model.breaks(f"{pod.machine.name} refused a delivery, and had read the secret that signed it")
        is_away = outcome.result is Result.UNAVAILABLE and self.partner == "well"
        if ready and is_away and self.world.store.is_well_since(since) and pod.is_up:
            self.model.breaks(f"a pod was ready, and could not handle a delivery: {outcome.error!r}")
        if outcome.delivery is None and outcome.status < 300:
            self.model.breaks("a delivery was acknowledged, and not read")
        if outcome.result is Result.BUSY and self.world.is_quiet() and not self.in_transactions:
            self.model.check_busy(outcome.delivery.event_id)
        if outcome.delivery is not None:
            self.model.respond(outcome.delivery.event_id, pod.machine.name, int(outcome.status), outcome.result.value)
        return Response(int(outcome.status), outcome.headers)

    async def try_former_secrets(self) -> str:
        """Let somebody post to each pod who has the secrets that are over."""
        over, up = self.vault.over, [each for each in self.pods if each.is_up and not each.machine.is_frozen]
        for pod in up:
            for secret in over:
                headers, body = stranger(int(self.world.now().timestamp()), secret)
                found = await pod.machine.end_of(pod.receiver.handle(headers, body))
                if found is not None and found.delivery is not None:
                    self.model.breaks(f"{pod.machine.name} read a delivery with a secret that is over")
        return f"somebody posted with {len(over)} former secrets to {len(up)} pods"

    async def _handle(self, delivery: Any, machine: Machine, longest: float, session: Any = None) -> None:
        """What every handler does: half of its work, its effect, and the rest."""
        event_id = delivery.event_id
        run = self.model.begin(event_id, machine.name)
        if delivery.key != event_id and not delivery.again:
            self.model.breaks(f"{run.event.name} has the key {delivery.key}")
        try:
            await asyncio.sleep(self.chance.uniform(0.001, longest if event_id in self.slow else 0.3))
            partner = self.partner if self.partner_of in (None, run.event.type) else "well"
            if partner == "hanging" or self.hangs.get(event_id, 0) > 0:
                self.hangs[event_id] = self.hangs.get(event_id, 0) - 1
                await asyncio.sleep(3_600)
            if partner in ("403", "one 403"):
                self.partner = "well" if partner == "one 403" else partner
                raise PermissionDeniedError("no consent", status=403)
            if partner == "429":
                raise RateLimitError("too many requests", status=429, retry_after=86_400.0)
            if partner == "refusing":
                raise ConnectionError("the partner refuses")
            if event_id in self.poisoned:
                await fail_to_write(session)
            if self.lethal.get(event_id, 0) > 0:
                self.lethal[event_id] -= 1
                self.model.die(run)
                machine.kill()
                await asyncio.sleep(3_600)
            if session is not None:
                await session.execute(
                    text("INSERT INTO effects VALUES (:service, :event)"), {"service": self.name, "event": event_id}
                )
            self.model.take_effect(run)
            await asyncio.sleep(self.chance.uniform(0.0, 0.05))
        except BaseException:
            self.model.fail(run)
            raise
        finally:
            self.model.end(run)


async def fail_to_write(session: Any) -> None:
    """Raise the error of a statement whose parameters are a person's."""
    statement, values = "INSERT INTO nowhere VALUES (:name)", {"name": PERSON}
    if session is None:
        raise OperationalError(statement, values, ValueError("no such table"))
    await session.execute(text(statement), values)


def stranger(at: int, secret: str = "") -> tuple[dict[str, str], bytes]:
    """Return a delivery that Basiq has not sent. ``secret``: what signs it; by default a secret of nobody."""
    body = f'{{"eventTypeId": "{TYPES[0]}", "eventId": "{"f" * 64}", "links": {{}}}}'.encode()
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(at)}
    nobody = "v1," + base64.b64encode(bytes(32)).decode()
    headers["webhook-signature"] = sign(secret, headers, body) if secret else nobody
    return headers, body
