"""``basiq-async work`` and ``basiq-async inbox list``: work off deferred deliveries, and show which of them wait."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ._command import command
from ._inboxes import INBOX_TIMEOUT, Receiver, open_receiver
from ._output import live, note, show_logs
from ._run import stopping

if TYPE_CHECKING:
    from ..receiver import DeliveryEvent, WebhookReceiver

_COUNT_EVERY = 30.0
_PAGE = 100


@command()
def work(
    receiver: Receiver = None,
    log_level: str = "INFO",
) -> Awaitable[None]:
    """Work off the deferred deliveries of a receiver until SIGTERM or Ctrl-C.

    A service that has the receiver open does so itself; this is for a process of its own, any number of them. After the
    first signal nothing new begins, and handlers that run have the receiver's handler_timeout to end. What they do not
    end waits in the inbox, as after a second signal, which ends them at once.

    log_level: The lowest level that is logged; DEBUG is for this package alone.
    """
    if receiver is None:
        raise ConfigurationError("name the receiver with --receiver MODULE:RECEIVER")
    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise ConfigurationError(f"--log-level must be DEBUG, INFO, WARNING or ERROR, not {log_level!r}")
    show_logs(level, "%(asctime)s %(levelname)s %(name)s %(message)s", others=logging.INFO)
    return _work(receiver)


async def _work(place: str) -> None:
    from .._work.limits import inbox_limit

    async with open_receiver(place) as receiver:
        async with inbox_limit(INBOX_TIMEOUT):
            await receiver.inbox.check()
        await _Worker(receiver).run()


class _Worker:
    """Works for one receiver until a signal, and shows how far it is."""

    def __init__(self, receiver: WebhookReceiver) -> None:
        import asyncio

        self._receiver = receiver
        self._counts = Counter[str]()
        self._end = asyncio.Event()
        receiver._add_hook(self._count)

    async def run(self) -> None:
        """Work until the first signal, and let what runs end. A second signal cancels it."""
        import asyncio

        with stopping(self._stop):
            tasks = [asyncio.create_task(each) for each in (self._receiver.work(), self._show(), self._end.wait())]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                await self._receiver.aclose()
            finally:
                for each in tasks[1:]:
                    each.cancel()
                await asyncio.wait(tasks)
                live(None)
        await tasks[0]
        note(self._status, **self._counts)

    def _stop(self) -> bool:
        self._end.set()
        return True

    def _count(self, event: DeliveryEvent) -> None:
        self._counts[event.result] += 1

    @property
    def _status(self) -> str:
        return ", ".join(f"{count:,} {name}" for name, count in self._counts.items()) or "nothing was handled"

    async def _show(self) -> None:
        import asyncio

        left = ""
        loop = asyncio.get_running_loop()
        count_at = loop.time()
        while True:
            if loop.time() >= count_at:
                count_at = loop.time() + _COUNT_EVERY
                left = await self._describe_waiting()
            live(f"{self._status}; {left}; Ctrl-C ends")
            await asyncio.sleep(1)

    async def _describe_waiting(self) -> str:
        try:
            waiting = await self._receiver.waiting()
        except ConfigurationError:
            raise
        except Exception as exc:
            return f"the inbox cannot be read: {exc}"
        return f"{waiting.count:,} waiting" + ("" if waiting.age is None else f", the oldest for {waiting.age:.0f} s")
