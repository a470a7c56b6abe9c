"""The connection to a fleet's Redis: its settings are checked, and calls are repeated while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, ReadOnlyError, RedisError, ResponseError

from .._redaction.tracebacks import drop_tracebacks
from .._wire.hosts import is_readable_url
from .._work.tasks import run_cancel_once
from ..errors import ConfigurationError
from ._record_types import RecordUnavailableError

T = TypeVar("T")

_LOST_AFTER = 0.05
"""Seconds after which a cancelled call to Redis that still runs is cancelled again: the first one was lost."""
_SCRIPTS = (
    *("claim", "create", "drop_quarantined", "finish", "forget", "heartbeat", "pause", "progress", "quarantined"),
    *("rate_slots", "reclaim_expired", "record_page", "release", "retry_quarantined", "save", "set_state", "take"),
)


class Connection:
    """A connection to Redis 7 or newer, or Valkey.

    While the server is away, a call is repeated for up to ``patience`` seconds. Then ``RecordUnavailableError`` is
    raised, as for a call that the server refuses.
    """

    def __init__(self, url: str, *, patience: float) -> None:
        client = _connect(url)
        del url  # error reporters show local variables, and it may hold a password
        if client is None:
            raise ConfigurationError(
                "url must be that of a Redis server, such as redis://host:6379/0 or rediss://… with TLS. A '/', '@', "
                "'?' or '#' in its password must be percent-encoded"
            )
        self._redis = client
        self._patience = patience
        self._scripts = {name: client.register_script(_source(name)) for name in _SCRIPTS}

    async def check(self) -> Sequence[str]:
        """Check the server's settings. Return warnings; raise ``ConfigurationError`` if messages could be lost.

        A Redis Cluster is refused: one script changes keys that a cluster may keep on different nodes.
        """
        try:
            info: dict[str, Any] = await self.call(lambda redis: redis.info("everything"))
        except RecordUnavailableError as exc:
            if not isinstance(exc.__cause__, ResponseError):
                raise
            return (
                f"Redis does not report its settings ({exc.__cause__}): make sure that it is not a cluster, and has "
                "maxmemory-policy noeviction and appendonly yes",
            )
        if info.get("cluster_enabled"):
            raise ConfigurationError(
                "this Redis is a node of a Redis Cluster, which a fleet cannot use: its record has to be on one "
                "server. Pass the url of a Redis with cluster-enabled no, with a replica and Sentinel or a managed "
                "failover if it must survive the loss of a machine"
            )
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise ConfigurationError(
                f"Redis may drop keys when its memory is full (maxmemory-policy {policy}), and messages would be lost "
                "with the keys: set maxmemory-policy noeviction"
            )
        if not info.get("aof_enabled"):
            return (
                "Redis writes no append-only file: when it is killed, all messages since its last snapshot are handled "
                "again, and jobs submitted since then are lost. Set appendonly yes",
            )
        return ()

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run a script of ``lua/``."""
        return await self.call(lambda redis: self._scripts[script](keys=keys, args=arguments))

    async def call(self, call: Callable[[Redis], Any]) -> Any:
        """Make a call of the client, and return the response as text and numbers."""

        async def work() -> Any:
            return _decode(await call(self._redis))

        try:
            async with asyncio.timeout(self._patience):
                return await run_cancel_once(work(), again=_LOST_AFTER)
        except TimeoutError:
            raise RecordUnavailableError(
                f"the fleet's Redis did not respond for {self._patience:g} s: check that it runs and can be reached"
            ) from None
        except RedisError as exc:
            raise RecordUnavailableError(f"the fleet's Redis refused a command: {exc}") from drop_tracebacks(exc)

    async def aclose(self) -> None:
        """Close the connections. May be called twice."""
        await self._redis.aclose()


class _Retry(Retry):
    """Repeats a call while the server is away, but not if the server refuses the password."""

    async def call_with_retry(self, do: Callable[[], Awaitable[T]], *arguments: Any, **more: Any) -> T:
        async def attempt() -> T:
            try:
                return await do()
            except (AuthenticationError, AuthorizationError) as exc:
                raise RedisError(str(exc)) from None

        return await super().call_with_retry(attempt, *arguments, **more)


def _connect(url: str) -> Redis | None:
    """Return a Redis client, or None if ``url`` is not a Redis URL."""
    if not isinstance(url, str) or not is_readable_url(url):  # a part of the password would be taken for the host
        return None
    try:
        return Redis.from_url(
            url,
            socket_timeout=5.0,
            socket_connect_timeout=5.0,
            socket_keepalive=True,
            retry=_Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.02), -1),
            retry_on_error=[ReadOnlyError],
            encoding_errors="surrogatepass",  # ids and errors may hold any text
        )
    except (ValueError, TypeError, AttributeError):
        return None


def _decode(value: Any) -> Any:
    """Decode the bytes in a response. Bytes that another program wrote, and that are no text, raise no error."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return value.decode("utf-8", "replace")
    if isinstance(value, (list, set)):
        return [_decode(each) for each in value]
    if isinstance(value, dict):
        return {_decode(name): _decode(each) for name, each in value.items()}
    return value


def _source(name: str) -> str:
    folder = files("basiq_async.distributed") / "lua"
    body = (folder / f"{name}.lua").read_text("utf-8")
    prelude = (folder / "_prelude.lua").read_text("utf-8")
    flags, _, rest = body.partition("\n")
    return f"{flags}\n{prelude}{rest}" if flags.startswith("#!") else f"#!lua\n{prelude}{body}"
