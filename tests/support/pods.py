"""A service of several pods, as its module has it: with an inbox of any kind, in the folder of a test.

Its effects are lines of the file ``handled``: the event's id, its key, and who handled it.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import attrs

from basiq_async import ConfigurationError
from basiq_async.receiver import WebhookReceiver
from basiq_async.testing import FakeBasiq

from .served import Served

_NUMBERS = itertools.count()
_SERVICE = """\
import asyncio, os
from contextlib import asynccontextmanager
from basiq_async.receiver import RedisInbox, SecretFile, SQLInbox, SQLiteInbox, WebhookReceiver

@asynccontextmanager
async def inbox_at(place):
    if place.startswith('redis'):
        from redis.asyncio import Redis
        async with Redis.from_url(place) as client:
            yield RedisInbox(client, **{own!r})
    elif '://' in place:
        from sqlalchemy.ext.asyncio import create_async_engine
        engine = create_async_engine(place)
        try:
            async with SQLInbox(engine, **{own!r}) as inbox:
                yield inbox
        finally:
            await engine.dispose()
    else:
        async with SQLiteInbox(place) as inbox:
            yield inbox

@asynccontextmanager
async def receiver():
    async with inbox_at({place!r}) as inbox:
        webhook_id = {webhook_id!r} or os.environ['BASIQ_WEBHOOK_ID']
        secret = SecretFile('the secret')
        made = WebhookReceiver(secret, webhook_id=webhook_id, inbox=inbox, handler_timeout=1, lease=3)
        @made.on('*')
        async def handle(delivery):
            with open('handled', 'a') as file:
                file.write(delivery.event_id + ' ' + delivery.key + ' {name}' + chr(10))
            await asyncio.sleep(float(os.environ.get('SLOW', '0')))
        async with made:
            yield made
"""


def write_service(
    place: str, webhook_id: str | None = None, *, prefix: str | None = None, name: str = "service"
) -> str:
    """Write the module of a service, and return the place of its receiver.

    webhook_id: one or several with commas; None for that of the environment, when it starts. prefix: that of Redis, or
        the name of its table; None for the default, which the command line looks at.
    """
    module = f"a_service_of_pods_{next(_NUMBERS)}"
    own = {} if prefix is None else {"prefix" if place.startswith("redis") else "table": prefix}
    values = {"place": place, "own": own, "webhook_id": webhook_id, "name": name}
    Path(f"{module}.py").write_text(_SERVICE.format(**values))
    return f"{module}:receiver"


def handled(name: str = "service") -> Counter[str]:
    """How often a service has handled each event."""
    lines = Path("handled").read_text().splitlines() if Path("handled").exists() else []
    return Counter(line.split()[0] for line in lines if line.endswith(f" {name}"))


@attrs.define(eq=False)
class Pods:
    """Two pods of a service, which get deliveries in turn. One that is refused at its start is ``refused``."""

    served: Served
    refused: list[str] = attrs.Factory(list[str])
    _running: list[WebhookReceiver] = attrs.Factory(list[WebhookReceiver])
    _stack: AsyncExitStack = attrs.Factory(AsyncExitStack)
    _turn: int = 0

    def deploy(self, receiver: str, url: str, *, count: int = 2) -> None:
        """Start pods at a url, then end the former ones."""
        name, _, attribute = receiver.partition(":")
        importlib.invalidate_caches()
        make = getattr(importlib.import_module(name), attribute)

        async def start() -> None:
            stack, running = AsyncExitStack(), list[WebhookReceiver]()
            for _ in range(count):
                try:
                    running.append(await stack.enter_async_context(make()))
                except ConfigurationError as exc:
                    self.refused.append(str(exc))
            former, self._stack, self._running = self._stack, stack, running
            self.fake.route(url, self.receive)
            await former.aclose()

        self.served.run(start())

    def end(self) -> None:
        self._running = []
        self.served.run(self._stack.aclose())

    @property
    def fake(self) -> FakeBasiq:
        return self.served.fake

    async def receive(self, headers: Mapping[str, str], body: bytes) -> int:
        if not self._running:
            return 503
        self._turn += 1
        return (await self._running[self._turn % len(self._running)].handle(headers, body)).status

    def is_ready(self) -> bool:
        found = list[bool]()

        async def ask() -> None:
            await asyncio.sleep(0)
            found.extend([await each.is_ready() for each in self._running])

        self.served.run(ask())
        return bool(found) and all(found)
