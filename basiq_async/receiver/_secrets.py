"""The signing secrets of a receiver: those it was given, or those of a store, read again when no signature fits."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from pathlib import Path

from .._redaction.tracebacks import hide_arguments
from .._signing.secret_file import SecretFile
from .._signing.secret_store import ReadSecrets, SecretStore, find_reader, name_store, read_store
from .._signing.secrets import SecretLike
from .._signing.signature import SigningKeys
from .._work.tasks import TaskOwner
from ..errors import ConfigurationError

logger = logging.getLogger("basiq_async.receiver")

AnySecrets = SecretLike | SecretStore | ReadSecrets
"""Secrets, or a store of them, or an async function that returns them."""

_EVERY = 1.0
"""Seconds between two readings because of a signature."""
_LONGEST_USE = 3600.0
"""Seconds for which secrets are used without a look at the store: one of them may be replaced by now."""
_AFTER_FAILURE = 60.0
"""Seconds until the next look if the store has failed."""


class Secrets:
    """The keys of one receiver. Several callers who want a reading at once await the same one.

    clock: seconds since 1970.
    """

    @hide_arguments
    def __init__(self, secret: AnySecrets, *, clock: Callable[[], float]) -> None:
        read = find_reader(secret)
        self._read = read
        self.can_change = read is not None
        """Whether they come from a store."""
        self._store: object = None if read is None else secret
        self._name = name_store(secret)
        self._clock = clock
        self.keys = SigningKeys.read(secret, for_many=True) if read is None else SigningKeys()  # type: ignore[arg-type]
        self._look_at = math.inf
        self._last = -math.inf
        self._reading: asyncio.Task[None] | None = None
        self._tasks = TaskOwner()

    def belong_to_the_same(self, other: Secrets) -> bool:
        """Return whether two receivers have one webhook, as far as their secrets show."""
        return (self._store is not None and self._store == other._store) or self.keys.has_key_of(other.keys)

    def keys_to_sign(self) -> SigningKeys:
        """Return the keys. Raises ``ConfigurationError`` if there are none, and says where there should be."""
        if not self.keys and self.file is not None:
            raise ConfigurationError(f"there is no signing secret at {str(self.file)!r}")
        return self.keys

    @property
    def file(self) -> Path | None:
        """The file that has the secrets; None if a ``SecretFile`` does not."""
        return self._store.path if isinstance(self._store, SecretFile) else None

    async def begin(self) -> None:
        """Read the store, unless it was read before. A failure is logged."""
        if self._read is not None and not self.keys:
            await self._join_reading(self._read)

    def are_due(self) -> bool:
        """Return whether to read the store before the next delivery, whatever its signature: an hour has passed."""
        return not 0 < self._look_at - self._clock() <= _LONGEST_USE

    async def read_again(self) -> bool:
        """Read the store, at most once a second. Return whether there are other secrets than before."""
        if self._read is None:
            return False
        before = self.keys
        if not self._is_reading():
            now = self._clock()
            if abs(now - self._last) < _EVERY:  # the clock may have been set back
                return False
            self._last = now
        await self._join_reading(self._read)
        return self.keys is not before

    async def aclose(self) -> None:
        """Cancel a reading that is under way."""
        await self._tasks.aclose()

    def _is_reading(self) -> bool:
        task = self._reading
        return task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop()

    async def _join_reading(self, read: ReadSecrets) -> None:
        if self._reading is None or not self._is_reading():
            self._reading = self._tasks.spawn(self._read_store(read))
        await asyncio.wait({self._reading})

    async def _read_store(self, read: ReadSecrets) -> None:
        now = self._clock()
        try:
            found = await read_store(read)
            if not found:
                raise ConfigurationError(
                    "there is none yet: `webhooks.ensure(..., secret=...)` stores it when Basiq returns it, and "
                    "`basiq-async webhooks secret ID --secret-file FILE` asks for it again"
                )
            keys = SigningKeys.read(found, for_many=True)
        except ConfigurationError as exc:
            self._look_at = now + _AFTER_FAILURE
            kept = "those read before stay in use" if self.keys else "each delivery is refused until then"
            logger.error("the signing secret cannot be read from %s, and %s: %s", self._name, kept, exc)
            return
        self._look_at = now + _LONGEST_USE
        if not self.keys.has_same_keys(keys):
            if self.keys:
                logger.info("the signing secret has changed: %s was read again", self._name)
            else:
                self._last = -math.inf  # what was read first may be replaced at once
            self.keys = keys
