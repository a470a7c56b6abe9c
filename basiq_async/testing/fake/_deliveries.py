"""Deliveries: made when an event happens, tried on Basiq's schedule, each attempt recorded."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextvars import ContextVar
from datetime import datetime

import attrs

from ...errors import ConfigurationError
from ._endpoints import Endpoint, EndpointAnswer, NoAnswer, over_http_once
from ._quirks import Quirks
from ._records import Attempt, Event, Message, Webhook
from ._render import Renderer
from ._responses import as_json
from ._schedule import SCHEDULE
from ._signing import signed_headers
from ._state import Application, World
from ._violations import Violations

# The attempts that the running code is itself a part of: to wait for one of those would be for ever.
_current: ContextVar[tuple[asyncio.Future[None], ...]] = ContextVar("current attempts", default=())

__all__ = ["Courier", "DeliveredAttempt", "Emission"]

logger = logging.getLogger("basiq_async.testing")
KEPT = 10_000
ACKNOWLEDGE_WITHIN = 30.0


@attrs.frozen
class DeliveredAttempt:
    """One attempt to deliver a message to an endpoint, as it went out and what came back.

    ``number`` counts from 1; ``status`` is None where nothing answered, ``answer`` is the text of the answer
    or of what went wrong; ``at`` is on the fake's clock; ``duration`` is in seconds.
    """

    webhook_id: str
    message_id: str
    event_type_id: str
    event_id: str
    url: str
    headers: dict[str, str] = attrs.field(repr=False)
    body: bytes
    number: int
    at: datetime
    status: int | None
    answer: str
    ok: bool
    duration: float


@attrs.define(order=True)
class _Job:
    due: datetime
    serial: int
    app: Application = attrs.field(order=False)
    webhook: Webhook = attrs.field(order=False)
    message: Message = attrs.field(order=False)
    number: int = attrs.field(order=False)


@attrs.frozen
class Emission:
    """An event that was recorded, and the ids of the messages made of it, one for each webhook.

    Awaiting it delivers what is due now; without that the next ``advance`` or the running server does.
    """

    event_id: str
    message_ids: tuple[str, ...]
    _settle: Callable[[], Generator[object, None, None]] = attrs.field(repr=False, eq=False)

    def __await__(self) -> Generator[object, None, Emission]:
        yield from self._settle()
        return self


class Courier:
    """Emits events and delivers their messages, in the order in which they are due."""

    def __init__(self, world: World, violations: Violations, *, timeout: float, sign_at: Callable[[], float]) -> None:
        self._world = world
        self._violations = violations
        self._timeout = timeout
        self._sign_at = sign_at
        self._due: list[_Job] = []
        self._serial = 0
        self._at_work: set[asyncio.Future[None]] = set()
        self.routes: dict[str, Endpoint] = {}
        self.elsewhere: Endpoint = over_http_once
        self.base = ""
        self.attempts: deque[DeliveredAttempt] = deque(maxlen=KEPT)
        self.wake: Callable[[], None] = _nothing

    def emit(
        self,
        app: Application,
        type_id: str,
        *,
        user_id: str | None = None,
        entity_id: str | None = None,
        data: dict[str, object] | None = None,
        webhooks: Iterable[Webhook] | None = None,
        text: str | None = None,
        even_unsubscribed: bool = False,
    ) -> Emission:
        """Record an event, and a message for each webhook that is active and subscribed to it."""
        now = self._world.clock()
        event: Event = self._world.record_event(app, type_id, user_id, entity_id, data)
        made: list[str] = []
        for webhook in app.webhooks.values() if webhooks is None else webhooks:
            wanted = even_unsubscribed or type_id in webhook.events
            if wanted and webhook.status(now) == "active":
                message = self._world.record_message(app, webhook, event, text)
                self._schedule(app, webhook, message, 1, now)
                made.append(message.id)
        if made:
            self.wake()
        return Emission(event.id, tuple(made), lambda: self.settle().__await__())

    def next_due(self) -> datetime | None:
        """When the next attempt is due."""
        return self._due[0].due if self._due else None

    def pending(self) -> int:
        """How many attempts are still to come."""
        return len(self._due)

    def take_due(self, moment: datetime) -> _Job | None:
        """The next attempt that is due at ``moment``; whoever takes it makes it."""
        return heapq.heappop(self._due) if self._due and self._due[0].due <= moment else None

    async def settle(self) -> None:
        """Make every attempt that is due now, and wait for those that somebody else is making."""
        while (job := self.take_due(self._world.clock())) is not None:
            await self.attempt(job)
        waiting = [work for work in self._at_work if work not in _current.get()]
        if waiting:
            await asyncio.wait(waiting)

    async def attempt(self, job: _Job) -> None:
        """Make one attempt, and plan the next one where it fails."""
        webhook, message = job.webhook, job.message
        if job.app.webhooks.get(webhook.id) is not webhook or webhook.disabled:
            return
        work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._at_work.add(work)
        outer = _current.set((*_current.get(), work))
        try:
            await self._deliver(job, webhook, message)
        finally:
            _current.reset(outer)
            self._at_work.discard(work)
            work.set_result(None)

    async def _deliver(self, job: _Job, webhook: Webhook, message: Message) -> None:
        clock = self._world.clock
        started = clock()
        body = as_json(Renderer(self.base, Quirks()).payload(message))
        headers = {
            "content-type": "application/json",
            "user-agent": "Basiq-Webhooks (fake)",
            **signed_headers(webhook.key, message.id, int(self._sign_at()), body),
        }
        status, text = await self._call(webhook.url, headers, body)
        duration = (clock() - started).total_seconds()
        if duration > ACKNOWLEDGE_WITHIN:
            self._violations.add(
                "slow-acknowledgement",
                f"{webhook.url} took {duration:.0f} s to acknowledge {message.id}: answer first, work after",
            )
        ok = status is not None and 200 <= status <= 299
        attempt = Attempt(self._world.ids.opaque(5), webhook.url, text, status, started, ok)
        message.attempts = (*message.attempts, attempt)
        self.attempts.append(
            DeliveredAttempt(
                webhook.id,
                message.id,
                message.event.type_id,
                message.event.id,
                webhook.url,
                headers,
                body,
                job.number,
                started,
                status,
                text,
                ok,
                duration,
            )
        )
        if ok:
            return
        if job.number < len(SCHEDULE):
            self._schedule(job.app, webhook, message, job.number + 1, started + SCHEDULE[job.number])
            self.wake()
        else:
            webhook.disabled = True

    async def _call(self, url: str, headers: dict[str, str], body: bytes) -> tuple[int | None, str]:
        endpoint = self.routes.get(url, self.elsewhere)
        try:
            async with asyncio.timeout(self._timeout):
                answer: EndpointAnswer = await endpoint(url, headers, body)
        except TimeoutError:
            self._violations.add(
                "slow-acknowledgement", f"{url} did not acknowledge a delivery within {self._timeout:g} s"
            )
            return None, f"no answer within {self._timeout:g} s"
        except NoAnswer as error:
            return None, str(error)
        except ConfigurationError:
            raise  # what was routed to is no receiver
        except Exception as error:
            # An endpoint in this process that raises is a server that answers 500; what it raised is its own.
            logger.exception("the endpoint %s raised", url)
            return 500, f"Internal Server Error: {type(error).__name__}"
        return answer.status, answer.text

    def _schedule(self, app: Application, webhook: Webhook, message: Message, number: int, due: datetime) -> None:
        self._serial += 1
        heapq.heappush(self._due, _Job(due, self._serial, app, webhook, message, number))

    def recent(self) -> Sequence[DeliveredAttempt]:
        """The latest ten thousand attempts, oldest first."""
        return tuple(self.attempts)


def _nothing() -> None:
    pass
