"""``basiq-async work`` and ``basiq-async inbox list``: work off deferred deliveries, and show which of them wait."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigurationError
from ._exit_codes import DONE, WRONG
from ._inboxes import INBOX_TIMEOUT, InboxPlace, Receiver, open_inbox, open_receiver
from ._options import Json, option
from ._output import live, note, show_logs
from ._quarantine import Webhook, inbox_app
from ._results import Column, Output, Row, View
from ._run import stopping

if TYPE_CHECKING:
    from ..receiver import DeliveryEvent, Inbox, QuarantinedDelivery, WebhookReceiver

_COUNT_EVERY = 30.0
_PAGE = 100


def work(
    receiver: Receiver = None,
    log_level: Annotated[
        str, typer.Option(help="The lowest level that is logged; DEBUG is for this package alone.")
    ] = "INFO",
) -> Awaitable[None]:
    """Work off the deferred deliveries of a receiver until SIGTERM or Ctrl-C.

    A service that has the receiver open does so itself; this is for a process of its own, any number of them. After the
    first signal nothing new begins, and handlers that run have the receiver's handler_timeout to end. What they do not
    end waits in the inbox, as after a second signal, which ends them at once.
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


# --- what waits ---


_ENTRY: View[Row] = View(
    "state delivery_id event_type_id event_id since due failures error signed_at",
    Column("ID", "delivery_id"),
    Column("EVENT TYPE", "event_type_id", flexible=16),
    Column("STATE", "state"),
    Column("SINCE", "since", optional=True),
    Column("DUE", "due", optional=True),
    Column("FAILURES", "failures", optional=True),
    Column("ERROR", "error", flexible=24),
)


@inbox_app.command("list")
async def list_(
    receiver: Receiver = None,
    inbox: InboxPlace = None,
    webhook: Webhook = None,
    waiting: Annotated[bool, option("Only deferred deliveries that wait to be handled.", "--waiting")] = False,
    json: Json = None,
) -> int:
    """Show what an inbox keeps: the deferred deliveries that wait to be handled, then the quarantine, oldest first.

    The exit code is 1 if there is anything, and 3 if the inbox gave no usable response.
    """
    from .._work.quarantine import ANY_WEBHOOK

    if (receiver is None) == (inbox is None):
        raise ConfigurationError("name the inbox with either --inbox or --receiver")
    output, count = Output(json), 0
    async with AsyncExitStack() as stack:
        if receiver is not None:
            opened = await stack.enter_async_context(open_receiver(receiver, webhook))
            found, owner = opened.inbox, opened.webhook_id
        else:
            found, owner = await stack.enter_async_context(open_inbox(inbox or "")), webhook or ANY_WEBHOOK
        rows = await stack.enter_async_context(aclosing(_read(found, owner, quarantine=not waiting)))
        page: list[Row] = []
        async for row in rows:
            page.append(row)
            count += 1
            if len(page) == _PAGE:
                output.rows(page, _ENTRY)
                page = []
        output.rows(page, _ENTRY)
    if count:
        return WRONG
    note("nothing waits" if waiting else "nothing waits, and the quarantine is empty")
    return DONE


async def _read(inbox: Inbox, owner: str | None, *, quarantine: bool) -> AsyncGenerator[Row]:
    from .._work.quarantine import read_quarantine, read_waiting

    sources = [("waiting", read_waiting(inbox, owner, timeout=INBOX_TIMEOUT))]
    if quarantine:
        sources.append(("quarantined", read_quarantine(inbox, owner, timeout=INBOX_TIMEOUT)))
    for state, entries in sources:
        async with aclosing(entries):
            async for entry in entries:
                yield _row(state, entry)


def _row(state: str, entry: QuarantinedDelivery) -> Row:
    return {
        "state": state,
        "delivery_id": entry.delivery_id,
        "event_type_id": entry.event_type_id,
        "event_id": entry.event_id,
        "since": entry.quarantined_at,
        "due": entry.due,
        "failures": entry.failures,
        "error": entry.error or None,
        "signed_at": entry.signed_at,
    }
