"""Calls of an inbox in Redis: its scripts, their time limit, their errors, and what is checked first."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from itertools import chain
from typing import Any, TypeVar, cast

import attrs
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from ..._redaction.tracebacks import drop_tracebacks
from ..._work.calls import OneProcess
from ..._work.failures import failure_text
from ..._work.limits import limit
from ..._work.store_use import NO_INBOX, store_use
from ..._work.tasks import run_cancel_once, wait_uncancelled
from ...errors import InboxError

logger = logging.getLogger("basiq_async.receiver")

T = TypeVar("T")

_LAYOUT = "7"
_SAFE_POLICY = "noeviction"
_MOST_TOGETHER = 128
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


@attrs.frozen(eq=False)
class _ScriptCall:
    """A script with its keys and values, and the future of its result."""

    script: _Script
    keys: Sequence[str] = attrs.field(repr=False)
    values: Sequence[str | int] = attrs.field(repr=False)
    future: asyncio.Future[Any]

    def send(self, client: Any, *, text: bool = False) -> Any:
        """Run the script by its digest, or by its ``text``."""
        script, run = (self.script.text, client.eval) if text else (self.script.digest, client.evalsha)
        return run(script, len(self.keys), *self.keys, *self.values)


@attrs.define(eq=False)
class _Batch:
    """Calls that are sent together: by a task, if there are several."""

    calls: list[_ScriptCall] = attrs.field(repr=False)
    task: asyncio.Task[None] | None = None


class RedisCalls:
    """The scripts of one inbox in Redis, each within the time limit, and the facts that it notes at its first use.

    ``timeout`` is in seconds. All keys begin with ``prefix``, in braces.
    """

    def __init__(self, client: Redis | RedisCluster, prefix: str, *, timeout: float) -> None:
        self.client = client
        self.prefix = prefix
        self._timeout = timeout
        self._scripts: dict[str, _Script] = {}
        self._process = OneProcess(f"the inbox below {prefix!r} in Redis")
        self._checked = False
        self._collected: dict[asyncio.AbstractEventLoop, _Batch] = {}
        """What is sent together in the next turn of an event loop."""
        self._use = store_use.get()

    def at(self, name: str) -> str:
        """Return a key in Redis. Its braces put the whole inbox into one slot of a cluster."""
        return f"{{{self.prefix}}}:{name}"

    def keys(self, key: str) -> Sequence[str]:
        """Return the keys in Redis of an inbox key: its entry, delivery, retry and attempts."""
        return [self.at(f"{kind}:{key}") for kind in ("inbox", "delivery", "retry", "attempts")]

    async def run(self, name: str, keys: Iterable[str], *values: str | int) -> Any:
        """Run a script about some keys of the inbox: see ``_prelude.lua``."""
        own = [self.at("quarantine"), self.at("meta")]
        return await self.evaluate(name, [*own, *chain.from_iterable(map(self.keys, keys))], *values)

    async def run_together(self, name: str, key: str, *values: str | int) -> Any:
        """Run a script about one key, in one request with those that other tasks run in this turn of the event loop.

        If the tasks of all of them are cancelled, so is the request.
        """
        if isinstance(self.client, RedisCluster):
            return await self.run(name, [key], *values)
        loop = asyncio.get_running_loop()
        keys = [self.at("quarantine"), self.at("meta"), *self.keys(key)]
        call = _ScriptCall(self._script(name), keys, values, loop.create_future())
        batch = self._collected.get(loop)
        try:
            if batch is not None and len(batch.calls) < _MOST_TOGETHER:
                batch.calls.append(call)
            else:
                batch = self._collected[loop] = _Batch([call])
                try:
                    await asyncio.sleep(0)
                finally:
                    if self._collected.get(loop) is batch:
                        del self._collected[loop]
                    if len(batch.calls) > 1:
                        batch.task = loop.create_task(self._send(batch.calls))
                        batch.task.add_done_callback(partial(_end, batch.calls))
                if batch.task is None:  # it is alone, as most are that a service makes
                    return await self.evaluate(name, keys, *values)
            return await call.future
        except asyncio.CancelledError:
            call.future.cancel()
            if batch is not None and batch.task is not None and all(each.future.cancelled() for each in batch.calls):
                batch.task.cancel()
                await wait_uncancelled(batch.task)
            raise

    async def _send(self, calls: Sequence[_ScriptCall]) -> None:
        """Send calls together, and set their results."""
        calls = [each for each in calls if not each.future.done()]
        try:
            results = await self.ask(partial(_send_all, calls))
        except InboxError as exc:
            results = [exc] * len(calls)
        for call, result in zip(calls, results, strict=True):
            if call.future.done():  # it was cancelled
                continue
            if isinstance(result, Exception):
                call.future.set_exception(_failure_of(result))
            else:
                call.future.set_result(result)

    async def evaluate(self, name: str, keys: Sequence[str], *values: str | int | bytes) -> Any:
        """Run a script by its digest. Send its text if Redis does not have it yet."""
        script = self._script(name)

        async def run(client: Any) -> Any:
            try:
                return await client.evalsha(script.digest, len(keys), *keys, *values)
            except NoScriptError:
                return await client.eval(script.text, len(keys), *keys, *values)

        return await self.ask(run)

    def _script(self, name: str) -> _Script:
        return self._scripts.get(name) or self._scripts.setdefault(name, _Script.load(name))

    async def ask(self, command: Callable[[Any], Awaitable[T]]) -> T:
        """Await a command of the client, within the time limit."""

        async def run() -> T:
            await self.open()
            return await command(self.client)

        return await self.within_limit(run())

    async def within_limit(self, work: Coroutine[Any, Any, T]) -> T:
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
            raise _failure_of(exc) from exc

    async def open(self) -> None:
        """At the first call, check what is stored, and the eviction policy."""
        if not self._checked:
            await self.begin()
            await self._check_policy()
            self._checked = True

    async def begin(self) -> dict[str, str]:
        """Note when the inbox was first used, and return its facts. Raises ``InboxError`` for another layout."""
        client: Any = self.client
        former = await client.exists(self.at("began"), self.at("pinned:began"))
        found = await self._facts()
        if not former and not found.keys() >= {"layout", "began"}:  # a replica can be read
            if self._use != "make":
                raise InboxError(f"the keys below {self.at('')} in Redis cannot be used: {NO_INBOX}")
            for name, value in (("layout", _LAYOUT), ("began", (await self.server_time()).isoformat())):
                await client.hsetnx(self.at("meta"), name, value)
            found = await self._facts()
        if former or found.get("layout") != _LAYOUT:
            raise InboxError(
                f"the keys below {self.at('')} in Redis were written by another version of basiq-async: pass another "
                "prefix= once nothing is in their quarantine, or keep the version that wrote them"
            )
        return found

    async def server_time(self) -> datetime:
        """Return the time by the clock that decides when entries expire. The caller has a time limit."""
        client: Any = self.client
        ms = await client.eval(self._script("now").text, 2, self.at("quarantine"), self.at("meta"))
        return datetime.fromtimestamp(int(ms) / 1_000, UTC)

    async def _facts(self) -> dict[str, str]:
        facts = await cast(Awaitable[Any], self.client.hgetall(self.at("meta")))
        return {text_of(name): text_of(value) for name, value in facts.items()}

    async def _check_policy(self) -> None:
        try:
            memory = await cast(Awaitable[Any], self.client.info("memory"))
        except ResponseError as exc:  # this user or this server has no INFO
            logger.debug("Redis did not tell its eviction policy: %s", failure_text(exc))
            memory = {}
        nodes = memory.values() if memory and all(isinstance(node, dict) for node in memory.values()) else [memory]
        for node in nodes:
            policy = text_of(node.get("maxmemory_policy", _SAFE_POLICY))
            if policy != _SAFE_POLICY:
                logger.warning(
                    "Redis evicts keys when its memory is full (maxmemory-policy %s): events whose entries it evicts "
                    "are handled again, and what it evicts of the quarantine is lost. Set maxmemory-policy %s",
                    policy,
                    _SAFE_POLICY,
                )


def _end(calls: Sequence[_ScriptCall], task: asyncio.Task[None]) -> None:
    """Let nobody wait for a task that was cancelled."""
    for call in calls:
        call.future.cancel()


async def _send_all(calls: Sequence[_ScriptCall], client: Any) -> list[Any]:
    """Return the result of each call, or its error."""
    results = await _pipeline(calls, client)
    if unknown := [number for number, found in enumerate(results) if isinstance(found, NoScriptError)]:
        again = await _pipeline([calls[number] for number in unknown], client, text=True)
        for number, found in zip(unknown, again, strict=True):
            results[number] = found
    return results


async def _pipeline(calls: Sequence[_ScriptCall], client: Any, *, text: bool = False) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for call in calls:
        call.send(pipeline, text=text)
    found: list[Any] = await pipeline.execute(raise_on_error=False)
    return found


def _failure_of(exc: Exception) -> InboxError:
    """Return the error for one of redis-py; of our own, a new one with the same text, for one more caller."""
    if isinstance(exc, InboxError):
        failure = InboxError(*exc.args)
        failure.__cause__ = exc.__cause__
        return failure
    failure = InboxError(_describe(exc))
    failure.__cause__ = drop_tracebacks(exc)
    return failure


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
    said = failure_text(exc)
    if said.endswith(f": {_NONE_FREE}"):
        return f"Redis failed: {said} ({_MORE_CONNECTIONS})"
    advice = next((f" ({what})" for kind, what in _WHAT_TO_DO if isinstance(exc, kind)), "")
    return f"Redis failed: {said}{advice}"


def text_of(value: object) -> str:
    """Return a response as text, whether the client decodes responses or not."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
