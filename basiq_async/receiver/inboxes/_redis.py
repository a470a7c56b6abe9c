"""The inbox in Redis, for a service on several machines."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Awaitable, Collection, Coroutine, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import chain
from typing import Any, Self, TypeVar, cast

import attrs
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)

from ..._arguments import Duration, check_remember, check_seconds
from ..._redaction.tracebacks import UnshownText, drop_tracebacks
from ..._work.calls import OneProcess
from ..._work.keys import in_parts
from ..._work.limits import limit
from ..._work.notes import read_note, write_note
from ..._work.protocol import Claim, ClaimStatus, QuarantinedDelivery, Waiting, unpack_entry
from ..._work.tasks import run_cancel_once
from ...errors import ConfigurationError, InboxError

logger = logging.getLogger("basiq_async.receiver")

T = TypeVar("T")

_LAYOUT = "5"
_SAFE_POLICY = "noeviction"
_DAY = 86_400_000
"""Milliseconds for which the inbox knows the last worker that had a quarantined delivery, or one that waits: it may
complete it."""
_LOST_AFTER = 0.05
"""Seconds after which a cancelled call to Redis that still runs is cancelled again."""


@attrs.frozen
class _Script:
    text: str
    digest: str

    @classmethod
    def load(cls, name: str) -> _Script:
        folder = files("basiq_async.receiver.inboxes") / "_redis_scripts"
        text = (folder / f"{name}.lua").read_text()
        if name != "known":
            text = (folder / "_prelude.lua").read_text() + text
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class RedisInbox:
    """An inbox in Redis, which any number of machines can share.

    .. code-block:: python

        inbox = RedisInbox(redis.asyncio.Redis.from_url("redis://..."))
        receiver = WebhookReceiver(secret, webhook_id=webhook_id, inbox=inbox)

    Each call that changes an entry is one script, so it is atomic. Leases are timed by the server's clock. A handler
    runs at least once. It runs twice if its worker dies after the handler's effect and before the record, or if Redis
    loses the entry. In a crash Redis loses the entries that were not in its append-only file (up to one second of
    entries with ``appendfsync everysec``); in a failover, the entries that no replica had. It also loses the entries
    that it evicts: set ``maxmemory-policy noeviction``. The inbox logs a warning for any other policy.

    client: the caller closes it. With or without ``decode_responses``; a ``RedisCluster`` works too.
    prefix: begins all keys, in braces. Inboxes with the same prefix are one inbox.
    remember: for how long to remember handled events; None is for ever.
    timeout: seconds for each call.

    Raises ``InboxError`` if Redis fails or does not respond, and in a child that was forked after the inbox was used:
    make client and inbox in each worker process. Raises ``ConfigurationError`` for invalid arguments.
    """

    may_lose = (
        "Redis answers before its disk has an entry: a crash loses about a second of them with appendfsync everysec, a "
        "failover may lose more, and a full memory may evict them"
    )

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
        self._client = client
        self._prefix = prefix
        seconds = check_remember(remember)
        self._remember = 0 if seconds == math.inf else _milliseconds(seconds)
        self._timeout = check_seconds("timeout", timeout)
        self._scripts: dict[str, _Script] = {}
        self._process = OneProcess(f"the inbox below {prefix!r} in Redis", InboxError)
        self._checked = False

    def __repr__(self) -> str:
        return f"<RedisInbox {self._prefix!r}>"

    async def check(self) -> None:
        """See ``Inbox``: writes a key that lives for a second, and runs a script that checks the quarantine's type.

        Refuses what an earlier version has stored.
        """

        async def look() -> None:
            await self._client.set(f"{{{self._prefix}}}:check", "1", px=1000)

        await self._within_limit(look())
        kinds = [_text(kind) for kind in await self._run("check", [""])]
        for kind, expected in zip(kinds, ("zset", "hash", "zset"), strict=True):
            if kind not in ("none", expected):
                raise InboxError(
                    f"another program has stored a {kind} in Redis under a key of this inbox: pass another prefix="
                )

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        """See ``Inbox``."""
        return _as_claim(await self._run("claim", [key], token, _milliseconds(lease), _DAY))

    async def complete(self, key: str | Sequence[str], token: str) -> bool:
        """See ``Inbox``."""
        parts = [[key]] if isinstance(key, str) else in_parts(key)
        recorded = [await self._run("complete", part, token, self._remember) == len(part) for part in parts]
        return all(recorded)

    async def release(self, key: str, token: str) -> None:
        """See ``Inbox``."""
        await self._run("release", [key], token)

    async def known(self, keys: Sequence[str]) -> Collection[str]:
        """See ``Record``."""
        found: set[str] = set()
        for part in in_parts(keys):
            places = chain.from_iterable(self._keys(key)[:2] for key in part)
            found.update(part[number] for number in await self._evaluate("known", list(places)))
        return found

    async def note(self, name: str) -> str | None:
        """See ``Record``."""

        async def read() -> Any:
            await self._open()
            return await cast(Awaitable[Any], self._client.hget(self._at("notes"), write_note(name)))

        stored = await self._within_limit(read())
        return None if stored is None else read_note(stored)

    async def set_note(self, name: str, text: str) -> None:
        """See ``Record``."""

        async def write() -> None:
            await self._open()
            await cast(Awaitable[Any], self._client.hset(self._at("notes"), write_note(name), write_note(text)))

        await self._within_limit(write())

    async def known_since(self) -> datetime:
        """See ``Inbox``."""

        async def read() -> datetime:
            facts = await self._begin()
            now = datetime.now(UTC)
            known = [datetime.fromisoformat(facts["began"])]
            if self._remember:
                known.append(now - timedelta(milliseconds=self._remember))
            for name, until in facts.items():  # entries of an inbox that remembered for a shorter time
                if name.startswith("kept:"):
                    ago = now - timedelta(milliseconds=int(name.removeprefix("kept:")))
                    known.append(min(ago, _EPOCH + timedelta(milliseconds=int(until))))
            return max(known)

        return await self._within_limit(read())

    async def fail(self, key: str, token: str) -> int:
        """See ``Inbox``."""
        return int(await self._run("fail", [key], token, self._remember))

    async def quarantine(self, key: str, token: str, delivery: QuarantinedDelivery) -> bool:
        """See ``Inbox``."""
        values = (token, _place(delivery), delivery.failures, int(delivery.acknowledged), delivery.pack(seal=True))
        return bool(await self._run("quarantine", [key], *values))

    async def quarantined(
        self, *, after: QuarantinedDelivery | None = None, limit: int = 100
    ) -> Sequence[QuarantinedDelivery]:
        """See ``Inbox``."""
        return await self._page("quarantine", "", "-" if after is None else "(" + _place(after), "+", limit)

    async def claim_quarantined(self, key: str, token: str, *, lease: float) -> Claim:
        """See ``Inbox``."""
        return _as_claim(await self._run("claim_quarantined", [key], token, _milliseconds(lease), _DAY))

    async def drop_quarantined(self, key: str) -> bool:
        """See ``Inbox``."""
        return bool(await self._run("drop_quarantined", [key], self._remember))

    async def store(self, delivery: QuarantinedDelivery, *, webhook_id: str | None) -> bool:
        """See ``WaitingInbox``."""
        values = (json.dumps(webhook_id), _place(delivery), delivery.failures, delivery.pack(seal=True), _DAY)
        return bool(await self._run("store", [delivery.key], *values))

    async def claim_due(
        self, webhook_id: str | None, token: str, *, limit: int, lease: float
    ) -> Sequence[QuarantinedDelivery]:
        """See ``WaitingInbox``. The lease runs by the server's clock."""
        webhook, last, claimed = json.dumps(webhook_id), "", list[QuarantinedDelivery]()
        while (wanted := limit - len(claimed)) > 0:
            due = [_text(each) for each in await self._run("due", [], webhook, last, limit)]
            if due:  # others may have claimed some of them, or all
                keys = [each[_DUE_LENGTH + _PLACE_LENGTH :] for each in due]
                values = (token, _milliseconds(lease), _DAY, webhook, wanted)
                found = await self._run("claim_due", keys, *values, *due)
                claimed += [
                    _read_entry(_text(each)[_DUE_LENGTH:], text, each)
                    for each, text in zip(found[::2], found[1::2], strict=True)
                ]
            if len(due) < limit:
                break
            last = due[-1]
        return claimed

    async def put_off(
        self, key: str, token: str, *, seconds: float, delivery: QuarantinedDelivery | None = None
    ) -> bool:
        """See ``WaitingInbox``."""
        changed: tuple[str | int, ...] = (
            () if delivery is None else (_place(delivery), delivery.failures, delivery.pack(seal=True))
        )
        return bool(await self._run("put_off", [key], token, round(seconds * 1_000_000), *changed))

    async def waiting(self, webhook_id: str | None) -> Waiting:
        """See ``WaitingInbox``."""
        count, fresh, size, age = await self._run("waiting", [], json.dumps(webhook_id))
        return Waiting(count=count, fresh=fresh, size=size, age=None if age < 0 else age / 1_000_000)

    async def list_waiting(
        self, *, after: QuarantinedDelivery | None = None, limit: int = 100
    ) -> Sequence[QuarantinedDelivery]:
        """See ``WaitingInbox``."""
        return await self._page("waiting", "a", "[a" if after is None else "(a" + _place(after), "(b", limit)

    async def __aenter__(self) -> Self:
        await self._within_limit(self._open())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    def _at(self, name: str) -> str:
        """Return a key in Redis. Its braces put the whole inbox into one slot of a cluster."""
        return f"{{{self._prefix}}}:{name}"

    def _keys(self, key: str) -> Sequence[str]:
        """Return the keys in Redis of an inbox key: its entry, letter, retry and failures."""
        return [self._at(f"{kind}:{key}") for kind in ("inbox", "delivery", "retry", "failures")]

    async def _page(self, order: str, begin: str, start: str, end: str, limit: int) -> list[QuarantinedDelivery]:
        """Return the entries whose places stand in an order, each after ``begin``, from ``start`` to ``end``."""

        async def read() -> list[QuarantinedDelivery]:
            await self._open()
            first, deliveries = start, list[QuarantinedDelivery]()
            while (wanted := limit - len(deliveries)) > 0:
                members = await self._client.zrangebylex(self._at(order), first, end, start=0, num=wanted)
                places = [_text(member).removeprefix(begin) for member in members]
                found = await self._read_letters(places)
                deliveries += found.values()
                if gone := [place for place in places if place not in found and order == "quarantine"]:
                    # It was removed meanwhile, or Redis has evicted it: the page gets another one.
                    await self._run("forget_evicted", [place[_PLACE_LENGTH:] for place in gone], *gone)
                if len(places) < wanted:
                    break
                first = f"({begin}{places[-1]}"
            return deliveries

        return await self._within_limit(read())

    async def _read_letters(self, places: Sequence[str]) -> dict[str, QuarantinedDelivery]:
        """Return for each of these places the entry of its letter, if it is there."""
        if not places:
            return {}
        reading = self._client.pipeline(transaction=False)
        for place in places:
            reading.hmget(self._keys(place[_PLACE_LENGTH:])[1], "text", "due")
        entries: dict[str, QuarantinedDelivery] = {}
        # An error is one of a single letter, in whose place another program has stored something else.
        for place, found in zip(places, await reading.execute(raise_on_error=False), strict=True):
            if isinstance(found, RedisError) and not str(found).startswith("WRONGTYPE"):
                raise found
            text, due = (found, None) if isinstance(found, RedisError) else found
            if text is not None:
                entries[place] = _read_entry(place, text, due)
        return entries

    async def _run(self, name: str, keys: Iterable[str], *values: str | int) -> Any:
        """Run a script about some keys of the inbox: see ``_prelude.lua``."""
        own = [self._at("quarantine"), self._at("meta"), self._at("waiting")]
        return await self._evaluate(name, [*own, *chain.from_iterable(map(self._keys, keys))], *values)

    async def _evaluate(self, name: str, keys: Sequence[str], *values: str | int) -> Any:
        """Run a script by its digest. Send its text if Redis does not have it yet."""
        script = self._scripts.get(name) or self._scripts.setdefault(name, _Script.load(name))

        async def run() -> Any:
            await self._open()
            try:
                return await self._client.evalsha(script.digest, len(keys), *keys, *values)
            except NoScriptError:
                return await self._client.eval(script.text, len(keys), *keys, *values)

        return await self._within_limit(run())

    async def _within_limit(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            self._process.check()
        except InboxError:
            work.close()
            raise
        try:
            async with limit(self._timeout, lambda: InboxError(f"Redis did not respond within {self._timeout:g} s")):
                return await run_cancel_once(work, again=_LOST_AFTER)
        except InboxError:
            raise
        except Exception as exc:  # a RedisError, an OSError, or a RuntimeError if another event loop has the client
            raise InboxError(_describe(exc)) from drop_tracebacks(exc)

    async def _open(self) -> None:
        """At the first call, check what is stored, and the eviction policy."""
        if not self._checked:
            await self._begin()
            await self._check_policy()
            self._checked = True

    async def _begin(self) -> dict[str, str]:
        """Note when the inbox was first used, and return its facts. Raises ``InboxError`` for another layout."""
        meta = self._at("meta")
        former = await self._client.exists(self._at("began"), self._at("pinned:began"))
        if not former:
            for name, value in (("layout", _LAYOUT), ("began", datetime.now(UTC).isoformat())):
                await cast(Awaitable[Any], self._client.hsetnx(meta, name, value))
        facts = await cast(Awaitable[dict[Any, Any]], self._client.hgetall(meta))
        found = {_text(name): _text(value) for name, value in facts.items()}
        if former or found.get("layout") != _LAYOUT:
            raise InboxError(
                f"the keys below {self._at('')} in Redis were written by another version of basiq-async: pass another "
                "prefix=, or delete them"
            )
        return found

    async def _check_policy(self) -> None:
        try:
            memory = await cast(Awaitable[Any], self._client.info("memory"))
        except ResponseError as exc:  # this user or this server has no INFO
            logger.debug("Redis did not tell its eviction policy: %s", exc)
            memory = {}
        nodes = memory.values() if memory and all(isinstance(node, dict) for node in memory.values()) else [memory]
        for node in nodes:
            policy = _text(node.get("maxmemory_policy", _SAFE_POLICY))
            if policy != _SAFE_POLICY:
                logger.warning(
                    "Redis evicts keys when its memory is full (maxmemory-policy %s), and events whose entries it "
                    "evicts are handled again. Set maxmemory-policy %s",
                    policy,
                    _SAFE_POLICY,
                )


_PLACE_LENGTH = 17
_TIME_LENGTH = 16
_DUE_LENGTH = _TIME_LENGTH + 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_NONE_FREE = "Too many connections"
"""The text of redis-py's error for a pool without a free connection. Before version 8 it is a ConnectionError."""
_MORE_CONNECTIONS = "each call uses one of the client's pool: raise its max_connections"

_WHAT_TO_DO: tuple[tuple[type[Exception], str], ...] = (
    (AuthenticationError, "check the client's user and password"),
    (NoPermissionError, "the Redis user needs access to the inbox's keys and scripts: see the page on inboxes"),
    (ReadOnlyError, "connect the client to the primary, not to a replica"),
    (RedisConnectionError, "is it running, and is the client's url right?"),
    (OSError, "is it running, and is the client's url right?"),
)


def _describe(exc: Exception) -> str:
    """Return why Redis failed, and the remedy if it is known."""
    said = str(exc) or "no reason given"
    if said == _NONE_FREE:
        return f"Redis failed: {type(exc).__name__}: {said} ({_MORE_CONNECTIONS})"
    advice = next((f" ({what})" for kind, what in _WHAT_TO_DO if isinstance(exc, kind)), "")
    return f"Redis failed: {type(exc).__name__}: {said}{advice}"


def _read_entry(place: str, text: Any, due: Any) -> QuarantinedDelivery:
    """Return the entry at a place in the order, with its text, and when it is due, if it waits.

    Other programs may write to Redis.
    """
    at = _time(place[:_PLACE_LENGTH])
    return unpack_entry(
        _unshown(text),
        key=place[_PLACE_LENGTH:],
        at=at or _EPOCH,
        trusted=False,
        due=None if due is None else _time(_text(due)[:_TIME_LENGTH]),
    )


def _time(digits: str) -> datetime | None:
    """Return the time of so many microseconds since 1970."""
    if digits.isascii() and digits.isdigit():
        with suppress(OverflowError):
            return _EPOCH + timedelta(microseconds=int(digits))
    return None


def _place(delivery: QuarantinedDelivery) -> str:
    """Return a text that sorts quarantined deliveries by time, in microseconds, then by key."""
    return f"{round(delivery.quarantined_at.timestamp() * 1_000_000):0{_PLACE_LENGTH}d}{delivery.key}"


def _unshown(text: Any) -> str:
    """Return a letter, which no ``repr`` shows, whether the client decodes responses or not."""
    return UnshownText(text.decode(errors="replace") if isinstance(text, bytes) else text)


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))


def _text(value: object) -> str:
    """Return a response as text, whether the client decodes responses or not."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _as_claim(result: Sequence[Any]) -> Claim:
    status, holder, remaining = ClaimStatus(_text(result[0])), _text(result[1]), int(result[2])
    if status is ClaimStatus.BUSY:
        return Claim(status, max(remaining, 1) / 1000, holder)
    return Claim(status)
