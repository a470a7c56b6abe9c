"""Start and close a receiver, and check its inbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from weakref import WeakKeyDictionary

import attrs

from .._work.deaths import Deaths
from .._work.failures import reason_text
from .._work.gate import Gate
from .._work.inbox_calls import InboxCalls
from .._work.protocol import Inbox, Record, TransactionalInbox
from .._work.store_use import may_work
from ..errors import ConfigurationError
from ._secrets import Secrets
from .inboxes._memory import MemoryInbox

logger = logging.getLogger("basiq_async.receiver")

_SECRETS: WeakKeyDictionary[MemoryInbox, Secrets] = WeakKeyDictionary()
"""The secrets of the first receiver without a ``webhook_id`` that used an inbox."""


@attrs.define
class _Shared:
    """An inbox, the receivers that have it open, and what closes it, if one of them owns it."""

    inbox: Inbox
    receivers: set[int] = attrs.Factory(set[int])
    close: Callable[[], Awaitable[object]] | None = None


_SHARED: dict[int, _Shared] = {}
"""The inboxes of the receivers that are open, by their ids: an inbox of the user's own need not be hashable."""


class Lifecycle:
    """Counts how often a receiver was entered with ``async with``; knows its event loop, and whether it is closed."""

    def __init__(self, calls: InboxCalls, gate: Gate, leave_traces: Callable[[], None]) -> None:
        """``leave_traces`` is called if a process of this machine was killed."""
        self._calls = calls
        self._leave_traces = leave_traces
        self._deaths = Deaths(calls) if isinstance(calls.inbox, TransactionalInbox) else None
        self.has_begun = self._deaths is None
        """Whether the inbox has noted that this process uses it, where that matters."""
        self._inbox = calls.inbox
        self._gate = gate
        self._close_inbox: Callable[[], Awaitable[object]] | None = None
        self._entered = 0
        self._warned: set[str] = set()
        self.closed = False
        self.works = False
        """Whether this process handles what waits: the receiver was entered, and not only to be looked at."""
        self.loop: asyncio.AbstractEventLoop | None = None

    def join_loop(self) -> None:
        """Begin to serve the running loop. Raises ``ConfigurationError`` while another one is served."""
        loop = asyncio.get_running_loop()
        if self.loop is not loop and self.loop is not None and self.loop.is_running():
            raise ConfigurationError(
                "another thread's event loop uses this receiver: make one receiver for each loop, and share the inbox"
            )
        self.loop = loop

    async def enter(self) -> None:
        """Count one entry. With the first, log an error if the inbox cannot be used.

        Raises ``ConfigurationError`` if the receiver was closed.
        """
        if self.closed:
            raise ConfigurationError(
                "this receiver was closed, and cannot be started again. Make a new receiver and application for each "
                "start, in a function such as make_app(). A TestClient that is entered twice starts them twice"
            )
        self._entered += 1
        if self._entered == 1:
            self._share()
            try:
                await self._look_at_inbox()
            except BaseException:
                self._entered -= 1
                self._leave_inbox()
                raise
        self.works = self.works or may_work.get()

    def leave(self) -> bool:
        """Count one exit. Return whether it was the last."""
        self._entered -= 1
        return self._entered <= 0

    def own_inbox(self, is_own: bool) -> None:
        """Let the receiver close its inbox, if ``is_own``. Raises ``ConfigurationError`` for one without ``aclose``."""
        if not is_own or type(self._inbox) is MemoryInbox:
            return
        self._close_inbox = getattr(self._inbox, "aclose", None)
        if self._close_inbox is None:
            raise ConfigurationError(f"own_inbox needs an inbox with aclose(); {type(self._inbox).__name__} has none")

    async def close_own_inbox(self) -> None:
        """Close the inbox, if this receiver or another one owns it, and this was the last one that was open."""
        if self._deaths is not None:
            await self._deaths.end()
        self._share()
        if (close := self._leave_inbox()) is not None:
            await close()

    def _share(self) -> None:
        """Count this receiver among the open ones of its inbox."""
        shared = _SHARED.setdefault(id(self._inbox), _Shared(self._inbox))
        shared.receivers.add(id(self))
        shared.close = shared.close or self._close_inbox

    def _leave_inbox(self) -> Callable[[], Awaitable[object]] | None:
        """Return what closes the inbox if no receiver has it open any more, and one of them owns it."""
        shared = _SHARED[id(self._inbox)]
        shared.receivers.discard(id(self))
        if shared.receivers:
            return None
        del _SHARED[id(self._inbox)]
        return shared.close

    def log_closed(self) -> None:
        """Log, once, that a delivery came to a closed receiver."""
        self._warn(
            "a delivery was refused with 503: this receiver is closed. Unless the service is shutting down, the "
            "receiver was closed too early, or used again after it was closed: make a new one for each start"
        )

    def log_unhandled(self) -> None:
        """Log, once, that a delivery was deferred by a receiver that handles nothing of what waits."""
        if not self.works:
            self._warn(
                "a delivery was deferred, and this process does not handle it: enter the receiver (`async with "
                "receiver`, setup, a lifespan), unless another process calls receiver.work()"
            )

    async def begin_use(self) -> None:
        """Note, once, that this process handles what the inbox has, and leave traces if one before was killed.

        A receiver that nobody enters never says that it ended, so that the next start leaves traces in any case.
        """
        if self._deaths is None or self.has_begun:
            return
        if await self._deaths.begin(may_end=self._entered > 0):
            self._leave_traces()
        self.has_begun = True  # no delivery is handled before that

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            logger.warning(text)

    async def _look_at_inbox(self) -> None:
        # The receiver starts all the same: the database may come back, or a deployment may make the tables later.
        try:
            await self._calls.check()
            if may_work.get():  # a command that only looks is refused when it uses the inbox
                await self._gate.ask(live=True)
                await self.begin_use()
        except ConfigurationError:
            raise
        except Exception as exc:
            text = reason_text(exc)
            logger.error(
                "the receiver has started, but its inbox cannot be used, so each delivery gets a 503: %s", text
            )


def check_inbox(inbox: Inbox, secrets: Secrets, webhook_ids: Sequence[str]) -> None:
    """Raise ``ConfigurationError`` for an object that is not an inbox, and for a receiver that needs a webhook's id.

    It needs one so that each event has one key.
    """
    if isinstance(inbox, type):
        raise ConfigurationError(
            f"inbox is the class {inbox.__name__}: pass an instance, such as {inbox.__name__}(...)"
        )
    if not isinstance(inbox, Inbox):
        methods = [name for name in vars(Record) | vars(Inbox) if not name.startswith("_")]
        missing = ", ".join(name for name in methods if not callable(getattr(inbox, name, None)))
        raise ConfigurationError(
            f"inbox must have the methods of the Inbox protocol; {type(inbox).__name__} lacks {missing}"
        )
    if webhook_ids:
        return
    if not isinstance(inbox, MemoryInbox):
        raise ConfigurationError(
            f"a receiver with a {type(inbox).__name__} needs webhook_id=, the id of the webhook whose events it "
            "handles. `basiq-async webhooks list` shows it, `await client.webhooks.ensure(...)` returns it as .id, and "
            "the examples read it from BASIQ_WEBHOOK_ID"
        )
    if not secrets.belong_to_the_same(_SECRETS.setdefault(inbox, secrets)):
        raise ConfigurationError(
            "two receivers with different secrets, and without a webhook_id, share this inbox: each would skip events "
            "that the other has handled; pass webhook_id to both"
        )
