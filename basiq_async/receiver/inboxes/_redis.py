"""The inbox in Redis, for a service on several machines."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from types import EllipsisType
from typing import Any, Self

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError

from ..._arguments import Duration, check_remember, check_seconds
from ..._redaction.tracebacks import UnshownText
from ..._wire.hosts import ENCODE, is_readable_url, show_url
from ..._work.keys import in_parts
from ..._work.notes import read_note, write_note
from ..._work.protocol import MOST_UNENDED, Claim, ClaimStatus, Inbox, InboxEntry, unpack_entry
from ...errors import ConfigurationError, InboxError
from ._redis_calls import RedisCalls, text_of

logger = logging.getLogger("basiq_async.receiver")

_DAY = 86_400_000
"""Milliseconds for which the inbox knows the last worker that had a quarantined delivery: it may complete it."""


class RedisInbox(Inbox):
    """An inbox in Redis, which any number of machines can share.

    .. code-block:: python

        inbox = RedisInbox(redis.asyncio.Redis.from_url("redis://..."))
        receiver = WebhookReceiver(secret, webhook_id=webhook_id, inbox=inbox)

    Each call that changes an entry is one script, so it is atomic. Leases are timed by the server's clock. A handler
    runs at least once: ``docs/guarantees.md`` lists when it runs twice. It does so too if Redis loses the entry.
    In a crash Redis loses the entries that were not in its append-only file (up to one second of
    entries with ``appendfsync everysec``); in a failover, the entries that no replica had. It also loses the entries
    that it evicts, also of the quarantine: set ``maxmemory-policy noeviction``. The inbox logs a warning for any
    other policy.

    client: the caller closes it. With or without ``decode_responses``; a ``RedisCluster`` works too.
    prefix: begins all keys, in braces. Inboxes with the same prefix are one inbox.
    remember: for how long to remember handled events; None is for ever.
    timeout: seconds for each call.

    Raises ``InboxError`` if Redis fails or does not respond, and in a child that was forked after the inbox was used:
    make client and inbox in each worker process. Raises ``ConfigurationError`` for invalid arguments.
    """

    def __init__(
        self,
        client: Redis | RedisCluster,
        *,
        prefix: str = "basiq",
        remember: Duration | None = 30 * 86_400.0,
        timeout: Duration = 5.0,
    ) -> None:
        if not isinstance(client, (Redis, RedisCluster)):
            raise ConfigurationError("RedisInbox needs a client of redis.asyncio: Redis.from_url(...)")
        if not prefix or "{" in prefix or "}" in prefix:
            raise ConfigurationError("prefix must be a non-empty text without braces")
        seconds = check_remember(remember)
        self._remember = 0 if seconds == math.inf else _milliseconds(seconds)
        self._calls = RedisCalls(client, prefix, timeout=check_seconds("timeout", timeout))

    def __repr__(self) -> str:
        return f"<RedisInbox {self._calls.prefix!r}>"

    async def check(self) -> None:
        """See ``Inbox``: writes a key that lives for a second, and runs a script that checks the quarantine's type.

        Refuses what an earlier version has stored.
        """

        async def look() -> None:
            await self._calls.client.set(f"{{{self._calls.prefix}}}:check", "1", px=1000)

        await self._calls.within_limit(look())
        kinds = [text_of(kind) for kind in await self._calls.run("check", [""])]
        for kind, expected in zip(kinds, ("zset", "hash"), strict=True):
            if kind not in ("none", expected):
                raise InboxError(
                    f"another program has stored a {kind} in Redis under a key of this inbox: pass another prefix="
                )

    async def claim(
        self, key: str, token: str, *, lease: float, quarantined: bool = False, transaction: bool = False
    ) -> Claim:
        script = "claim_quarantined" if quarantined else "claim"
        return _as_claim(await self._calls.run_together(script, key, token, _milliseconds(lease), _DAY, self._remember))

    async def complete(self, key: str, token: str) -> bool:
        return bool(await self._calls.run_together("complete", key, token, self._remember))

    async def release(self, key: str, token: str, *, failed: bool = False) -> int:
        return int(await self._calls.run_together("fail" if failed else "release", key, token, self._remember))

    async def known(self, keys: Sequence[str]) -> Collection[str]:
        found: set[str] = set()
        for part in in_parts(keys):
            places = chain.from_iterable(self._calls.keys(key)[:2] for key in part)
            found.update(part[number] for number in await self._calls.evaluate("known", list(places)))
        return found

    async def unended(self, keys: Sequence[str]) -> Mapping[str, int]:
        """Return how many attempts of events that are not handled had no end."""
        counts = {key: await self._count_unended(key) for key in keys}
        return {key: count for key, count in counts.items() if count}

    async def _count_unended(self, key: str) -> int:
        entry, _, _, attempts = self._calls.keys(key)
        ended, token = await self._calls.ask(lambda client: client.hmget(attempts, ["unended", "token"]))
        ran_out = token is not None and not await self._calls.ask(lambda client: client.exists(entry))
        return min(MOST_UNENDED, text_of(ended or b"").count("\n") // 2 + ran_out)

    async def note(self, name: str) -> str | None:
        stored = await self._calls.ask(lambda client: client.hget(self._calls.at("notes"), write_note(name)))
        return None if stored is None else read_note(stored)

    async def set_note(self, name: str, text: str, *, expected: str | EllipsisType | None = ...) -> bool:
        notes, field, new = self._calls.at("notes"), write_note(name), write_note(text)
        if expected is ...:
            await self._calls.ask(lambda client: client.hset(notes, field, new))
            return True
        stored = await self._calls.ask(lambda client: client.hget(notes, field))
        if (None if stored is None else read_note(stored)) != expected:
            return False
        return bool(await self._calls.evaluate("set_note", [notes], field, new, "" if stored is None else stored))

    async def known_since(self) -> datetime:
        async def read() -> datetime:
            facts = await self._calls.begin()
            now = await self._calls.server_time()
            known = [datetime.fromisoformat(facts["began"])]
            if self._remember:
                known.append(now - timedelta(milliseconds=self._remember))
            for name, until in facts.items():  # entries of an inbox that remembered for a shorter time
                if name.startswith("kept:"):
                    ago = now - timedelta(milliseconds=int(name.removeprefix("kept:")))
                    known.append(min(ago, _EPOCH + timedelta(milliseconds=int(until))))
            return max(known)

        return await self._calls.within_limit(read())

    async def last_recorded(self) -> datetime | None:
        """Return when it last recorded something, by the clock of Redis; None if it has nothing."""

        async def read() -> datetime | None:
            newest = (await self._calls.begin()).get("newest")
            return None if newest is None else _EPOCH + timedelta(milliseconds=int(newest))

        return await self._calls.within_limit(read())

    async def quarantine(self, key: str, token: str, entry: InboxEntry) -> bool:
        values = (token, *_facts(entry), int(entry.acknowledged))
        return bool(await self._calls.run("quarantine", [key], *values))

    async def entries(
        self, *, waiting: bool = False, after: InboxEntry | None = None, limit: int = 100
    ) -> Sequence[InboxEntry]:
        """See ``Inbox``. Nothing waits in Redis."""
        if waiting:
            return []

        async def read(client: Any) -> list[InboxEntry]:
            found, strange = list[InboxEntry](), 0
            first = b"-" if after is None else b"(" + _place(after).encode()
            while (wanted := limit - len(found)) > 0:
                range_of = ("ZRANGEBYLEX", self._calls.at("quarantine"), first, "+", "LIMIT", 0, wanted)
                members = await client.execute_command(*range_of, NEVER_DECODE=True)
                places = [place for place in map(_as_place, members) if place is not None]
                strange += len(members) - len(places)
                entries = await self._read_deliveries(places)
                found += entries.values()
                if gone := [place for place in places if place not in entries]:
                    # It was removed meanwhile, or Redis has evicted it: the page gets another one.
                    keys = [place[_PLACE_LENGTH:] for place in gone]
                    if evicted := await self._calls.run("forget_evicted", keys, *gone):
                        logger.error(
                            "Redis has evicted %d from the quarantine below %r: recover what Basiq still lists of it, "
                            "and set maxmemory-policy noeviction",
                            evicted,
                            self._calls.prefix,
                        )
                if len(members) < wanted:
                    break
                first = b"(" + members[-1]
            if strange:
                logger.warning(
                    "the quarantine below %r in Redis has %d members that no inbox has written: they are passed over",
                    self._calls.prefix,
                    strange,
                )
            return found

        return await self._calls.ask(read)

    async def __aenter__(self) -> Self:
        await self._calls.within_limit(self._calls.open())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    async def _read_deliveries(self, places: Sequence[str]) -> dict[str, InboxEntry]:
        """Return the entry of each of these places, if it is there."""
        if not places:
            return {}
        reading = self._calls.client.pipeline(transaction=False)
        for place in places:
            reading.execute_command("HGET", self._calls.keys(place[_PLACE_LENGTH:])[1], "text", NEVER_DECODE=True)
        entries: dict[str, InboxEntry] = {}
        # An error is about a single delivery, in whose place another program has stored something else.
        for place, text in zip(places, await reading.execute(raise_on_error=False), strict=True):
            if isinstance(text, RedisError) and not str(text).startswith("WRONGTYPE"):
                raise text
            if text is not None:
                entries[place] = _read_entry(place, text)
        return entries


def open_place(stack: AsyncExitStack, place: str, *, make: bool = False, **options: Any) -> RedisInbox:
    """See ``InboxKind.open``. There is nothing to create."""
    try:
        client = Redis.from_url(place) if is_readable_url(place) else None
    except (ValueError, TypeError):  # the error's text can hold the password
        client = None
    if client is None:
        raise ConfigurationError(f"the URL {show_url(place)!r} of Redis cannot be used: {ENCODE}")
    stack.push_async_callback(client.aclose)
    return RedisInbox(client, **options)


_PLACE_LENGTH = 17
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _read_entry(place: str, text: Any) -> InboxEntry:
    """Return the entry at a place in the order, with its text."""
    return unpack_entry(_unshown(text), key=place[_PLACE_LENGTH:], at=_time_of(place))


def _as_place(member: bytes) -> str | None:
    """Return a member of the order as a place; None for one that no inbox has written."""
    with suppress(UnicodeDecodeError, OverflowError):
        if member[:_PLACE_LENGTH].isdigit() and _time_of(place := member.decode()):
            return place
    return None


def _time_of(place: str) -> datetime:
    return _EPOCH + timedelta(microseconds=int(place[:_PLACE_LENGTH]))


def _place(entry: InboxEntry) -> str:
    """Return a text that sorts quarantined deliveries by time, in microseconds, then by key."""
    return f"{round(entry.quarantined_at.timestamp() * 1_000_000):0{_PLACE_LENGTH}d}{entry.key}"


def _facts(entry: InboxEntry) -> tuple[str | int, ...]:
    """Return the place of a delivery in its order, its failures, and its text."""
    return _place(entry), entry.failures, entry.pack()


def _unshown(text: Any) -> str:
    """Return a stored text, which no ``repr`` shows, whether the client decodes responses or not."""
    return UnshownText(text.decode(errors="replace") if isinstance(text, bytes) else text)


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))


def _as_claim(result: Sequence[Any]) -> Claim:
    status, holder, remaining = ClaimStatus(text_of(result[0])), text_of(result[1]), int(result[2])
    if status is ClaimStatus.BUSY:
        return Claim(status, max(remaining, 1) / 1000, holder)
    return Claim(status, unended=int(result[3])) if status is ClaimStatus.CLAIMED else Claim(status)
