"""The connection to a fleet's Redis: its settings are checked, and calls are repeated while it is away."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, ReadOnlyError, RedisError

from .._redaction.tracebacks import drop_tracebacks
from .._wire.hosts import is_readable_url
from .._work.limits import limit
from .._work.tasks import run_cancel_once
from ..errors import ConfigurationError
from ._record_types import RecordUnavailableError

logger = logging.getLogger("basiq_async.distributed")
T = TypeVar("T")

_LOST_AFTER = 0.05
"""Seconds after which a cancelled call to Redis that still runs is cancelled again: the first one was lost."""
_LUA = files("basiq_async.distributed") / "lua"


class Connection:
    """A connection to Redis 7 or newer, or Valkey.

    While the server is away, a call is repeated for up to ``patience`` seconds. Then ``RecordUnavailableError`` is
    raised, as for a call that the server refuses.
    """

    def __init__(self, url: str, *, patience: float) -> None:
        self._redis = client = _connect(url)
        self._patience = patience
        names = [path.name.removesuffix(".lua") for path in _LUA.iterdir() if not path.name.startswith("_")]
        self._scripts = {name: client.register_script(_source(name)) for name in names}

    async def check(self) -> None:
        """Check the server's settings. Raise ``ConfigurationError`` if messages could be lost. Warn of what may repeat.

        A Redis Cluster is refused: one script changes keys that a cluster may keep on different nodes.
        """
        info: dict[str, Any] = await self.call(lambda redis: redis.info("everything"))
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
            logger.warning(
                "Redis writes no append-only file: when it is killed, all messages since its last snapshot are handled "
                "again, and jobs submitted since then are lost. Set appendonly yes"
            )

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run a script of ``lua/``."""
        return await self.call(lambda redis: self._scripts[script](keys=keys, args=arguments))

    async def call(self, call: Callable[[Redis], Any]) -> Any:
        """Make a call of the client, and return the response as text and numbers."""

        def late() -> RecordUnavailableError:
            return RecordUnavailableError(
                f"the fleet's Redis did not respond for {self._patience:g} s: check that it runs and can be reached"
            )

        try:
            async with limit(self._patience, late):
                return await run_cancel_once(call(self._redis), again=_LOST_AFTER)
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


def _connect(url: str) -> Redis:
    if isinstance(url, str) and is_readable_url(url):  # else a part of the password would be taken for the host
        with suppress(ValueError, TypeError, AttributeError):
            return Redis.from_url(
                url,
                socket_timeout=5.0,
                socket_connect_timeout=5.0,
                socket_keepalive=True,
                retry=_Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.02), -1),
                retry_on_error=[ReadOnlyError],
                encoding_errors="backslashreplace",  # lone surrogates, and bytes of other programs that are no text
                decode_responses=True,
            )
    raise ConfigurationError(
        "url must be that of a Redis server, such as redis://host:6379/0 or rediss://… with TLS. A '/', '@', '?' or "
        "'#' in its password must be percent-encoded"
    )


def _source(name: str) -> str:
    body, prelude = ((_LUA / f"{each}.lua").read_text("utf-8") for each in (name, "_prelude"))
    flags, _, rest = body.partition("\n")
    return f"{flags}\n{prelude}{rest}" if flags.startswith("#!") else f"#!lua\n{prelude}{body}"
