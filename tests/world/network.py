"""Basiq and the way to it: deliveries when they are due, and requests and responses that are lost, late or refused."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial

from basiq_async import ConnectionFailedError, Request, RequestTimeoutError, Response
from basiq_async.testing import FakeBasiq

_NEXT = re.compile(rb'"next": ?("[^"]*")')
_ONE_WEBHOOK = re.compile("/webhooks/([^/?]+)$")
Answer = Callable[[dict[str, str], bytes], Awaitable[Response]]
"""What an endpoint does with the headers and the body of a delivery."""


class Weather:
    """How bad the network is now. ``loss`` is the share of requests that go wrong."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.loss = 0.0
        self.links: dict[str, datetime] = {}
        """When Basiq last gave each link to a page."""
        self.expired: int | None = None
        """The status of a response to a link of more than an hour before; None where links do not expire."""

    def see_links(self, response: Response, now: datetime) -> None:
        """Note the links to a page in a response."""
        for found in _NEXT.findall(response.body):
            self.links[json.loads(found)] = now

    def has_expired(self, url: str, now: datetime) -> bool:
        """Return whether a url is a link to a page that has expired."""
        given = self.links.get(url)
        return self.expired is not None and given is not None and now - given > timedelta(hours=1)


class Wire:
    """A transport from one machine to Basiq."""

    def __init__(self, fake: FakeBasiq, weather: Weather) -> None:
        self._fake = fake
        self._weather = weather
        self.looked: dict[str, datetime] = {}
        """When Basiq last told the status of each webhook."""

    async def send(self, request: Request, /) -> Response:
        chance = self._weather.chance
        await asyncio.sleep(chance.uniform(0.01, 0.2))
        wrong = chance.choice(_WRONG) if chance.random() < self._weather.loss else ""
        if wrong == "lost":
            raise ConnectionFailedError("the connection broke", method=request.method, path="", sent=True)
        if wrong in ("429", "503", "403", "401"):
            return Response(int(wrong), {"content-type": "application/json", "retry-after": "1"}, b"{}")
        if self._weather.expired is not None and self._weather.has_expired(request.url, self._fake.now()):
            return Response(self._weather.expired, {"content-type": "application/json"}, b"{}")
        exchange = self._fake._exchange(request)
        if request.method == "GET" and (asked := _ONE_WEBHOOK.search(request.url)) is not None:
            self.looked[asked[1]] = self._fake.now()
        if wrong == "twice" and request.method == "GET":
            exchange = self._fake._exchange(request)
        if wrong == "slow":
            await asyncio.sleep(40)
            raise RequestTimeoutError("no response within 30 s", method=request.method, path="")
        await asyncio.sleep(chance.uniform(0.01, 0.2))
        if wrong == "no response" or exchange.response is None:
            raise ConnectionFailedError("the response was lost", method=request.method, path="", sent=True)
        found = exchange.response
        if self._weather.expired is not None:
            self._weather.see_links(found, self._fake.now())
        date = format_datetime(self._fake.now().replace(microsecond=0), usegmt=True)
        return Response(found.status, {**found.headers, "date": date}, found.body)

    async def aclose(self) -> None:
        pass


class Posting:
    """A transport from one machine to an endpoint of the service."""

    def __init__(self, weather: Weather, answer: Answer, posted: list[str]) -> None:
        self._weather, self._answer, self._posted = weather, answer, posted

    async def send(self, request: Request, /) -> Response:
        await asyncio.sleep(self._weather.chance.uniform(0.01, 0.1))
        found = await self._answer(dict(request.headers), request.body or b"")
        await asyncio.sleep(self._weather.chance.uniform(0.01, 0.1))
        if self._weather.chance.random() < self._weather.loss:
            raise ConnectionFailedError("the response was lost", method=request.method, path="", sent=True)
        if found.status < 300:
            self._posted.append(request.headers["webhook-id"])
        return found

    async def aclose(self) -> None:
        pass


_WRONG = ("lost", "no response", "no response", "429", "503", "403", "401", "twice", "slow")


async def deliver(fake: FakeBasiq) -> None:
    """Make each delivery at its time, many at once, for as long as the world lasts."""
    timeline = fake._deliveries.timeline
    running: set[asyncio.Task[None]] = set()
    while True:
        news = asyncio.ensure_future(timeline._changed())
        await asyncio.sleep(0)  # it listens before the timeline is looked at
        while (planned := timeline.take_due()) is not None:
            task = asyncio.create_task(fake._deliveries.attempt(planned))
            running.add(task)
            task.add_done_callback(running.discard)
            task.add_done_callback(partial(_end, timeline, planned.begun))
        due = fake.next_due
        wait = None if due is None else max((due - fake.now()).total_seconds(), 0.0) + 1e-6
        await asyncio.wait((news,), timeout=3_600.0 if wait is None else wait)
        news.cancel()


def _end(timeline: object, begun: int, task: asyncio.Task[None]) -> None:
    timeline.end(begun)  # type: ignore[attr-defined]


def utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%d %H:%M:%S")
