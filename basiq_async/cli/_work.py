"""``basiq-async work`` and ``basiq-async inbox list``: work off deferred deliveries, and show which of them wait."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ._command import command
from ._inboxes import INBOX_TIMEOUT, Receiver, open_receiver
from ._options import LogLevel
from ._output import live, note, show_logs
from ._run import stopping

if TYPE_CHECKING:
    from ..receiver import WebhookReceiver

_COUNT_EVERY = 30
_PAGE = 100


@command()
def work(
    receiver: Receiver = None,
    log_level: LogLevel = "INFO",
) -> Awaitable[None]:
    """Work off the deferred deliveries of a receiver until SIGTERM or Ctrl-C.

    A service that has the receiver open does so itself; this is for a process of its own, any number of them. After the
    first signal nothing new begins, and handlers that run have the receiver's handler_timeout to end. What they do not
    end waits in the inbox, as after a second signal, which ends them at once.

    """
    if receiver is None:
        raise ConfigurationError("name the receiver with --receiver MODULE:RECEIVER")
    show_logs(log_level, "%(asctime)s %(levelname)s %(name)s %(message)s")
    return _work(receiver)


async def _work(place: str) -> None:
    """Work until the first signal, and let what runs end. A second signal cancels it."""
    import asyncio

    from .._work.limits import inbox_limit

    counts = Counter[str]()
    end = asyncio.Event()

    def stop() -> bool:
        end.set()
        return True

    async with open_receiver(place) as receiver:
        async with inbox_limit(INBOX_TIMEOUT):
            await receiver.inbox.check()
        receiver._add_hook(lambda event: counts.update([event.result]))
        with stopping(stop):
            tasks = [asyncio.create_task(each) for each in (receiver.work(), _show(receiver, counts), end.wait())]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                await receiver.aclose()
            finally:
                for each in tasks[1:]:
                    each.cancel()
                await asyncio.wait(tasks)
                live(None)
        await tasks[0]
    note(_status(counts), **counts)


def _status(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "nothing was handled"


async def _show(receiver: WebhookReceiver, counts: Counter[str]) -> None:
    import asyncio

    left = ""
    for second in itertools.count():
        if second % _COUNT_EVERY == 0:
            left = await _describe_waiting(receiver)
        live(f"{_status(counts)}; {left}; Ctrl-C ends")
        await asyncio.sleep(1)


async def _describe_waiting(receiver: WebhookReceiver) -> str:
    try:
        waiting = await receiver.waiting()
    except ConfigurationError:
        raise
    except Exception as exc:
        return f"the inbox cannot be read: {exc}"
    return f"{waiting.count:,} waiting" + ("" if waiting.age is None else f", the oldest for {waiting.age:.0f} s")
