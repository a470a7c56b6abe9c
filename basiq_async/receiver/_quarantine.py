"""Retry and drop the quarantined deliveries of one receiver."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing

import attrs

from .._wire.codec import Unreadable, read_message
from .._work.inbox_calls import InboxCalls, has_id
from .._work.keys import name_of_repeat
from .._work.protocol import InboxEntry
from ..errors import ConfigurationError
from ._delivery import Delivery, UnreadableBodyError, read_delivery
from ._outcome import Outcome
from ._results import Result


class Quarantine:
    """The quarantined deliveries of one receiver."""

    def __init__(self, calls: InboxCalls) -> None:
        self._calls = calls
        self.changed: Callable[[], Awaitable[None]] | None = None
        """Awaited after quarantined deliveries were retried or dropped."""

    async def drop(self, ids: Iterable[str]) -> int:
        """Remove the quarantined deliveries with these ids, and return the number removed."""
        dropped = await self._calls.drop_ids(check_ids(ids))
        await self._tell_changed()
        return dropped

    async def forget(self, user_id: str) -> int:
        """Remove the entries that name a user, and return the number removed."""
        try:
            return await self._calls.forget(user_id)
        finally:
            await self._tell_changed()

    async def retry(
        self,
        ids: Iterable[str] | None,
        handle: Callable[[InboxEntry], Awaitable[Outcome | None]],
        *,
        waiting: bool = False,
    ) -> Sequence[Outcome]:
        """Pass each quarantined delivery, or each that waits, to ``handle``, until that returns None.

        Return the outcomes.
        """
        wanted = None if ids is None else check_ids(ids)
        outcomes: list[Outcome] = []
        found = self._calls.read_waiting() if waiting else self._calls.read_quarantine()
        async with aclosing(found) as deliveries:
            async for delivery in deliveries:
                if wanted is None or has_id(delivery, wanted):
                    done = await handle(delivery)
                    if done is None:
                        break
                    outcomes.append(done)
        if not waiting:
            await self._tell_changed()
        return outcomes

    async def _tell_changed(self) -> None:
        if self.changed is not None:
            await self.changed()

    async def retry_one(
        self,
        entry: InboxEntry,
        dispatch: Callable[[Delivery], Awaitable[Outcome]],
        retry: Callable[[Delivery, InboxEntry], Awaitable[Outcome]],
    ) -> Outcome:
        """Pass a quarantined delivery to its handler again: with ``retry``, unless its event has another key."""
        delivery = self.read(entry)
        if isinstance(delivery, Outcome):
            return delivery
        delivery = attrs.evolve(delivery, again=name_of_repeat(entry.key))
        if delivery.key == entry.key:
            return await retry(delivery, entry)
        done = await dispatch(delivery)
        if done.result in (Result.HANDLED, Result.DUPLICATE):
            # It was handled under another key: what was unreadable has that of its event.
            await self._calls.try_to_drop(entry.key)
        return done

    def read(self, entry: InboxEntry) -> Delivery | Outcome:
        """Return what was quarantined as a delivery; the outcome of what still cannot be read."""
        if entry.kind == "delivery":
            try:
                return read_delivery(entry.delivery_id, int(entry.signed_at.timestamp()), entry.body)
            except UnreadableBodyError as exc:  # another program wrote it
                return Outcome(Result.UNREADABLE, self._by_its_ids(entry), error=exc)
        try:
            message = read_message(json.loads(entry.body))
            if entry.kind == "unreadable" and not (message.event_type_id or message.event_id):
                raise Unreadable(
                    "has neither an event type nor an event id"
                )  # an event of Basiq's list, and no message
            return Delivery.from_message(message, timestamp=entry.signed_at)
        except (Unreadable, ValueError, RecursionError) as exc:
            # No cause is attached: a JSONDecodeError holds the whole body.
            error = UnreadableBodyError(f"it still cannot be read: {exc if isinstance(exc, Unreadable) else 'no JSON'}")
            return Outcome(Result.UNREADABLE, self._by_its_ids(entry), error=error)

    def _by_its_ids(self, entry: InboxEntry) -> Delivery:
        return Delivery(
            entry.delivery_id,
            entry.event_type_id,
            entry.event_id,
            {},
            entry.body,
            {},
            entry.signed_at,
        )


def check_ids(ids: Iterable[str]) -> frozenset[str]:
    """Return delivery ids as a set. Raises ``ConfigurationError`` for a single str."""
    if isinstance(ids, (str, bytes)):
        raise ConfigurationError("ids must be a list of delivery ids, such as ['msg_1']")
    return frozenset(ids)
