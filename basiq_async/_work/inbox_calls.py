"""An inbox with the time limit of its calls, and what a receiver and a job do with one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from types import EllipsisType

from ..errors import ConfigurationError, InboxError
from .keys import split_key
from .limits import inbox_is_slow, limit
from .noted import HANDLED, JOBS, NOTE, Account, Noted, add_handled, add_job, read_handled, read_jobs, refusal
from .personal_data import names_user
from .protocol import Claim, ClaimedEntry, ClaimStatus, Inbox, InboxEntry, Waiting, WaitingInbox

ALL = "*"
"""In place of a job: the entries of all jobs, and those of the service."""
_PAGE = 100
_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""How long to wait before each attempt to drop what another worker has, in seconds."""
_TRIES = 100
_CONTENDED = "other programs change the inbox's note of its webhooks again and again"


class InboxCalls:
    """An inbox, each call of which takes at most ``seconds``; then it raises ``InboxError``.

    ``job``, of the calls that read the quarantine, is whose entries are meant: None for those of the service, the id of
    a job that posts, or ``ALL``.
    """

    def __init__(self, inbox: Inbox, seconds: float) -> None:
        self.inbox = inbox
        self.seconds = seconds
        self._limit = partial(limit, seconds, partial(inbox_is_slow, seconds))
        self._waiting_inbox = inbox if isinstance(inbox, WaitingInbox) else None  # asked once: it takes a while

    # --- single calls: see ``Inbox`` and ``WaitingInbox`` ---

    async def check(self) -> None:
        """See ``Inbox``."""
        async with self._limit():
            await self.inbox.check()

    async def known(self, keys: Sequence[str]) -> Collection[str]:
        """See ``Record``."""
        async with self._limit():
            return await self.inbox.known(keys)

    async def note(self, name: str) -> str | None:
        """See ``Record``."""
        async with self._limit():
            return await self.inbox.note(name)

    async def set_note(self, name: str, text: str, *, expected: str | EllipsisType | None = ...) -> bool:
        """See ``Record``."""
        async with self._limit():
            return await self.inbox.set_note(name, text, expected=expected)

    async def known_since(self) -> datetime:
        """See ``Inbox``."""
        async with self._limit():
            return await self.inbox.known_since()

    async def last_recorded(self) -> datetime | None:
        """Return when the inbox last recorded something; None if it has nothing, and for one that does not tell."""
        read = getattr(self.inbox, "last_recorded", None)
        if read is None:
            return None
        async with self._limit():
            found: datetime | None = await read()
            return found

    async def unended(self, keys: Sequence[str]) -> Mapping[str, int]:
        """Return how many attempts of these events, which are not handled, had no end, if the inbox tells that."""
        read = getattr(self.inbox, "unended", None)
        if read is None or not keys:
            return {}
        async with self._limit():
            found: Mapping[str, int] = await read(keys)
            return found

    async def claim(self, key: str, token: str, *, lease: float, quarantined: bool = False) -> Claim:
        """See ``Inbox``."""
        async with self._limit():
            return await self.inbox.claim(key, token, lease=lease, quarantined=quarantined)

    async def complete(self, key: str, token: str) -> bool:
        """See ``Inbox``."""
        async with self._limit():
            return await self.inbox.complete(key, token)

    async def quarantine(self, key: str, token: str, entry: InboxEntry) -> bool:
        """See ``Inbox``."""
        async with self._limit():
            return await self.inbox.quarantine(key, token, entry)

    @property
    def can_wait(self) -> bool:
        """Whether the inbox keeps deliveries that wait to be handled."""
        return self._waiting_inbox is not None

    @property
    def waiting_inbox(self) -> WaitingInbox:
        """The inbox. Raises ``ConfigurationError`` for one that keeps no deliveries that wait."""
        if self._waiting_inbox is None:
            raise ConfigurationError("this inbox keeps no deliveries that wait: see WaitingInbox")
        return self._waiting_inbox

    async def store(self, entry: InboxEntry, *, now: datetime | None) -> bool:
        """See ``WaitingInbox``."""
        async with self._limit():
            return await self.waiting_inbox.store(entry, now=now)

    async def claim_due(
        self, token: str, *, limit: int, retries: int, lease: float, without: Collection[str], now: datetime | None
    ) -> Sequence[ClaimedEntry]:
        """See ``WaitingInbox``."""
        async with self._limit():
            return await self.waiting_inbox.claim_due(
                token, limit=limit, retries=retries, lease=lease, without=without, now=now
            )

    async def put_off(self, entry: InboxEntry, token: str, *, seconds: float, now: datetime | None) -> bool:
        """See ``WaitingInbox``."""
        async with self._limit():
            return await self.waiting_inbox.put_off(entry, token, seconds=seconds, now=now)

    async def count_waiting(self) -> Waiting:
        """Return what waits to be handled. An inbox that keeps no such deliveries has none."""
        if self._waiting_inbox is None:
            return Waiting()
        async with self._limit():
            return await self._waiting_inbox.waiting()

    # --- what the inbox has noted about itself ---

    async def noted(self) -> Noted:
        """Return the webhooks that the inbox has noted. Raises ``InboxError`` for a damaged note."""
        return Noted.read(await self.note(NOTE))

    async def admit(
        self,
        webhook_ids: Collection[str],
        *,
        live: datetime | None = None,
        names: Mapping[str, str | None] = {},
        account: Account | None = None,
        seen: Noted | None = None,
    ) -> Noted:
        """Note webhooks of one service that the inbox admits, and return its note. See ``Noted.add``.

        ``seen``: what ``look`` has just returned for them. Raises ``ConfigurationError`` if the inbox is that of other
        webhooks.
        """
        for _ in range(_TRIES):
            known = await self.look(webhook_ids) if seen is None else seen
            seen, changed = None, known.add(webhook_ids, live=live, names=names, account=account)
            if changed == known or await self.set_note(NOTE, changed.write(), expected=known.text):
                return changed
        raise InboxError(_CONTENDED)

    async def look(self, webhook_ids: Collection[str]) -> Noted:
        """Return the note of an inbox that admits webhooks. Raises ``ConfigurationError`` as ``admit`` does."""
        known = Noted.read(await self.note(NOTE))
        if not known.admits(webhook_ids):
            raise refusal(known, webhook_ids)
        return known

    async def join(self, webhook_id: str, name: str | None, account: Account) -> Noted:
        """Note a webhook because a person says that it is of this service. A damaged note is made again."""
        for _ in range(_TRIES):
            text = await self.note(NOTE)
            try:
                known = Noted.read(text)
            except InboxError:
                known = Noted()
            changed = known.add([webhook_id], names={webhook_id: name}, account=account)
            if await self.set_note(NOTE, changed.write(), expected=text):
                return changed
        raise InboxError(_CONTENDED)

    async def join_proven(
        self, webhook_id: str, name: str | None, *, listed: Collection[str], account: Account
    ) -> bool:
        """Note a webhook that Basiq has just shown, where nobody need be asked. Return whether the inbox has it now.

        That is: the inbox is empty, or has noted it before; or the webhook took the place of those that it has noted.
        Then it has the name of one of them, none of them is among the ``listed`` ids of the account's webhooks any
        more, and ``account`` is of an API key with which Basiq has shown one of them. Raises ``InboxError``, and
        changes nothing at Basiq.
        """
        for _ in range(_TRIES):
            known = await self.noted()
            if not known.admits([webhook_id]) and not known.is_replaced_by(name, listed, account):
                return False
            changed = known.add([webhook_id], names={webhook_id: name}, account=account)
            if changed == known or await self.set_note(NOTE, changed.write(), expected=known.text):
                return True
        raise InboxError(_CONTENDED)

    async def jobs(self) -> Sequence[str]:
        """Return the jobs that have posted with this inbox."""
        return read_jobs(await self.note(JOBS))

    async def note_job(self, job: str) -> None:
        """Note a job that posts, which keeps keys of its own in the inbox."""
        for _ in range(_TRIES):
            text = await self.note(JOBS)
            if job in read_jobs(text) or await self.set_note(JOBS, add_job(text, job), expected=text):
                return

    async def handled_types(self) -> tuple[str, ...]:
        """Return the patterns of event types for which receivers have noted that they have handlers."""
        return read_handled(await self.note(HANDLED))

    async def note_handled_types(self, patterns: Collection[str]) -> None:
        """Note the patterns of a receiver, which tell a look at the inbox alone what the service handles."""
        for _ in range(_TRIES):
            text = await self.note(HANDLED)
            if {*patterns} <= {*read_handled(text)}:
                return
            if await self.set_note(HANDLED, add_handled(text, patterns), expected=text):
                return

    # --- what is in the quarantine, and what waits ---

    async def read_quarantine(
        self, job: str | None = None, *, after: InboxEntry | None = None
    ) -> AsyncGenerator[InboxEntry]:
        """Yield each quarantined delivery once, oldest first: only those after ``after``, if it is given.

        Raises the inbox's errors, and ``InboxError`` for an inbox whose pages do not advance: other programs may write
        to its storage.
        """
        async with aclosing(self._read(after, waiting=False)) as found:
            async for entry in found:
                if job == ALL or split_key(entry.key)[0] == job:
                    yield entry

    async def read_waiting(self) -> AsyncGenerator[InboxEntry]:
        """Yield each delivery that waits to be handled, oldest first. See ``read_quarantine``."""
        if self.can_wait:
            async with aclosing(self._read(None, waiting=True)) as found:
                async for entry in found:
                    yield entry

    async def _read(self, after: InboxEntry | None, *, waiting: bool) -> AsyncGenerator[InboxEntry]:
        seen: set[str] = set()
        while True:
            async with self._limit():
                page = await self.inbox.entries(waiting=waiting, after=after, limit=_PAGE)
            if not page:
                return
            last = max(page, key=_place)
            if after is not None and _place(last) <= _place(after):
                raise InboxError(
                    "the quarantine cannot be read further: a delivery in it is older than the page that it is on"
                )
            for delivery in page:
                if delivery.key not in seen:  # one that failed again has moved to the end
                    seen.add(delivery.key)
                    yield delivery
            after = last

    async def read_pages(
        self, job: str | None = None, *, ids: Collection[str] | None = None
    ) -> AsyncGenerator[Sequence[InboxEntry]]:
        """Yield the entries of the quarantine, or those with these ids, some at once. See ``read_quarantine``."""
        page: list[InboxEntry] = []
        async with aclosing(self.read_quarantine(job)) as found:
            async for entry in found:
                if ids is None or has_id(entry, ids):
                    page.append(entry)
                if len(page) == _PAGE:
                    yield page
                    page = []
        if page:
            yield page

    async def first_quarantined(
        self, limit: int, job: str | None = None, *, after: InboxEntry | None = None
    ) -> Sequence[InboxEntry]:
        """Return the oldest ``limit`` entries, or the next ones after ``after``. See ``read_quarantine``."""
        entries: list[InboxEntry] = []
        async with aclosing(self.read_quarantine(job, after=after)) as found:
            async for entry in found:
                entries.append(entry)
                if len(entries) == limit:
                    break
        return entries

    async def count_quarantined(self, job: str | None = None) -> int:
        """Return how many entries are in the quarantine. See ``read_quarantine``."""
        return (await self.sum_up_quarantine(job))[0]

    async def sum_up_quarantine(self, *jobs: str | None) -> tuple[int, datetime | None]:
        """Return how many entries of these jobs are in the quarantine, and when the oldest was quarantined."""
        count, oldest = 0, None
        async with aclosing(self.read_quarantine(ALL)) as found:
            async for entry in found:
                if ALL in jobs or split_key(entry.key)[0] in jobs:
                    count, oldest = count + 1, oldest or entry.quarantined_at
        return count, oldest

    # --- the quarantine's end ---

    async def drop(self, key: str) -> bool:
        """Remove an entry from the quarantine; its key is then handled. Return False if it was not there.

        Raises what ``try_to_drop`` raises, and ``InboxError`` if another worker does not end its claim in some seconds.
        """
        for pause in _PAUSES:
            await asyncio.sleep(pause)
            status = await self.try_to_drop(key)
            if status is not ClaimStatus.BUSY:
                return status is ClaimStatus.CLAIMED
        raise InboxError(
            "another worker is handling the delivery, which cannot be dropped until that has ended: try again later"
        )

    async def try_to_drop(self, key: str) -> ClaimStatus:
        """Remove an entry from the quarantine, if it can be claimed; its key is then handled.

        Return CLAIMED if it was removed, DONE if it was not there, and BUSY if another worker has the key: then it
        stays. Raises the inbox's errors.
        """
        token = f"drop/{secrets.token_hex(16)}"
        claim = await self.claim(key, token, lease=2 * self.seconds, quarantined=True)
        if claim.status is ClaimStatus.CLAIMED:
            await self.complete(key, token)
        return claim.status

    async def drop_ids(self, ids: Collection[str], job: str | None = None) -> int:
        """Remove the entries with these ids; they count as handled. Return the number removed. See ``drop``."""
        keys = [entry.key async for page in self.read_pages(job, ids=ids) for entry in page]
        return await self._drop_all(keys)

    async def forget(self, user_id: str) -> int:
        """Remove the entries that name a user; they count as handled. Return the number removed.

        Raises ``ConfigurationError`` for an empty id, the errors of ``drop``, and ``InboxError`` if a delivery that
        waits names the user.
        """
        is_named = names_user(user_id)
        async with aclosing(self.read_quarantine(ALL)) as entries:
            keys = [entry.key async for entry in entries if is_named(entry)]
        dropped = await self._drop_all(keys)
        async with aclosing(self.read_waiting()) as entries:
            waiting = len([entry.key async for entry in entries if is_named(entry)])
        if waiting:
            raise InboxError(
                f"deliveries that name the user and wait to be handled: {waiting:,} (removed from the quarantine: "
                f"{dropped:,}). They are kept until they are handled: let `basiq-async work --receiver RECEIVER` run "
                "until `basiq-async inbox waiting --receiver RECEIVER` shows none, then call forget again"
            )
        return dropped

    async def _drop_all(self, keys: Iterable[str]) -> int:
        dropped = 0
        for key in keys:
            dropped += await self.drop(key)
        return dropped


def has_id(entry: InboxEntry, ids: Collection[str]) -> bool:
    """Return whether the id of an entry's delivery, message or event is one of these."""
    return entry.delivery_id in ids or entry.event_id in ids


def _place(entry: InboxEntry) -> tuple[float, str]:
    return entry.quarantined_at.timestamp(), entry.key
