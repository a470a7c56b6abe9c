"""The conformance suite for a ``SecretStore``."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial

from ..._signing.secret_store import KEEP_FORMER, SecretStore, read_store
from ...errors import ConfigurationError
from ...models import Secret
from ..fake._clock import ManualClock
from ._runner import Check, hold, keep, made, promises_of

MakeStore = Callable[[], SecretStore | Awaitable[SecretStore] | AbstractAsyncContextManager[SecretStore]]
Damage = Callable[[SecretStore], Awaitable[object]]
_SOON = timedelta(minutes=1)
_LATE = timedelta(hours=1)
_STEP = timedelta(hours=20)


async def check_secret_store(
    make_store: MakeStore, *, clock: ManualClock, damage: Damage | None = None, seconds: float = 20.0
) -> None:
    """Check that a store of signing secrets keeps the promises of ``SecretStore``.

    make_store: called for each promise, and returns a store that has no secrets yet; or an awaitable of it, or an async
        context manager.
    clock: the clock of all stores. The suite moves it.
    damage: an async function that makes a store unreadable, such as one that renames its table.
    seconds: the time limit of each promise.

    Raises ``BrokenPromisesError``, an ``AssertionError`` that names each broken promise and what happened instead. It
    shows no secret; those of the suite are made up.
    """
    checks = promises_of(SecretPromises)
    promises = {promise: partial(_try, make_store, check, clock, damage) for promise, check in checks.items()}
    await keep("the store of secrets", promises, seconds=seconds)


async def _try(make_store: MakeStore, check: Check, clock: ManualClock, damage: Damage | None) -> None:
    async with made(make_store) as store:
        await check(SecretPromises(store, clock, damage))


class SecretPromises:
    """The promises of a ``SecretStore``."""

    def __init__(self, store: SecretStore, clock: ManualClock, damage: Damage | None) -> None:
        self.store, self.clock, self.damage = store, clock, damage
        self.a, self.b, self.c = (_new_secret() for _ in range(3))

    async def _names(self) -> str:
        """Return what the store has, the newest first, as letters."""
        names = {self.a: "A", self.b: "B", self.c: "C"}
        found = await read_store(self.store.read)
        return " ".join([names.get(each, "?") if isinstance(each, Secret) else "?" for each in found])

    async def _expect(self, expected: str, when: str) -> None:
        found = await self._names()
        hold(found == expected, f"{when}, read() had {found or 'nothing'}, and not {expected or 'nothing'}")

    async def begin_empty(self) -> None:
        """read() of a store without a secret returns None, or nothing"""
        await self._expect("", "before the first write")

    async def keep_the_one_before(self) -> None:
        """A replaced secret is read after the newest one for 28 hours, and then no more"""
        await self.store.write(self.a)
        await self._expect("A", "after one write")
        await self.store.write(self.b)
        await self._expect("B A", "after a second one")
        self.clock.advance(KEEP_FORMER - _SOON)
        await self._expect("B A", "27 h 59 min after that")
        self.clock.advance(_SOON + _LATE)
        await self._expect("B", "29 hours after that")
        self.clock.advance(timedelta(days=365))
        await self._expect("B", "a year after that")

    async def end_each_by_its_own_time(self) -> None:
        """Each replaced secret ends 28 hours after it was replaced, whatever was written since"""
        await self.store.write(self.a)
        await self.store.write(self.b)
        self.clock.advance(_STEP)
        await self.store.write(self.c)
        await self._expect("C B A", "after three writes")
        self.clock.advance(KEEP_FORMER - _STEP + _LATE)
        await self._expect("C B", "29 hours after the first was replaced")
        self.clock.advance(_STEP)
        await self._expect("C", "29 hours after the second was replaced")

    async def write_twice(self) -> None:
        """A secret that is written again stays the newest, has no end, and puts off the end of no other"""
        await self.store.write(self.a)
        await self.store.write(self.b)
        self.clock.advance(_STEP)
        await self.store.write(self.b)
        await self._expect("B A", "after the newest was written again")
        self.clock.advance(KEEP_FORMER - _STEP + _LATE)
        await self._expect("B", "29 hours after the other was replaced")

    async def write_a_former_one(self) -> None:
        """A replaced secret that is written again is the newest, and has no end any more"""
        for each in (self.a, self.b, self.a):
            await self.store.write(each)
        await self._expect("A B", "after the former one was written again")
        self.clock.advance(KEEP_FORMER + _LATE)
        await self._expect("A", "29 hours later")

    async def keep_both_of_two_writers(self) -> None:
        """Two writers at once keep the secret of each other, and one of them is the newest"""
        await self.store.write(self.c)
        await asyncio.gather(self.store.write(self.a), self.store.write(self.b))
        found = await self._names()
        hold(found in ("A B C", "B A C"), f"after both, read() had {found or 'nothing'}")
        self.clock.advance(KEEP_FORMER + _LATE)
        await self._expect(found[0], "29 hours later")

    async def raise_if_unreadable(self) -> None:
        """A store that cannot be read raises: it does not return that there is no secret"""
        if self.damage is None:
            return
        await self.store.write(self.a)
        await self.damage(self.store)
        try:
            found = await self._names()
        except ConfigurationError:
            return
        raise AssertionError(f"read() returned {found or 'nothing'}")


def _new_secret() -> Secret:
    return Secret(f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}")
