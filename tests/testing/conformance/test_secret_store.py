"""The suite for stores of secrets: ours and those that are shown pass, and each broken promise is found."""

from __future__ import annotations

import asyncio
import itertools
import runpy
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from basiq_async import Secret
from basiq_async.receiver import SecretFile
from basiq_async.testing import BrokenPromisesError, ManualClock, check_secret_store
from tests.support.servers import postgres_server

EXAMPLE = Path(__file__).parents[3] / "examples" / "service_parts.py"
KEPT = timedelta(hours=28)


class Store:
    """The least that a store has to be."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.ends: dict[str, datetime | None] = {}

    async def read(self) -> list[str]:
        now = self.clock()
        return [each for each, end in reversed(self.ends.items()) if end is None or now < end]

    async def write(self, secret: Secret) -> None:
        text, end = secret.reveal(), self.clock() + KEPT
        self.ends = {each: before or end for each, before in self.ends.items() if each != text} | {text: None}


async def test_a_file_keeps_the_promises(tmp_path: Path) -> None:
    clock, numbers = ManualClock(), itertools.count()

    async def damage(store: Any) -> None:
        store.path.unlink()
        store.path.mkdir()

    def make() -> SecretFile:
        return SecretFile(tmp_path / str(next(numbers)), clock=clock)

    await check_secret_store(make, clock=clock, damage=damage)


async def test_the_table_of_the_production_examples_keeps_the_promises() -> None:
    pytest.importorskip("asyncpg")
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    clock, parts = ManualClock(), runpy.run_path(str(EXAMPLE))
    with postgres_server() as server:
        engine = create_async_engine(server.url())

        async def damage(store: object) -> None:
            async with engine.begin() as connection:
                await connection.execute(text("DROP TABLE secret"))

        @asynccontextmanager
        async def make() -> AsyncGenerator[Any]:
            async with engine.begin() as connection:
                await connection.execute(text("DROP TABLE IF EXISTS secret"))
                await connection.execute(text(parts["TABLES"][0]))
            yield parts["SecretTable"](engine, clock)

        await check_secret_store(make, clock=clock, damage=damage)
        await engine.dispose()


class Endless(Store):
    """A list of two, as one may write it at first: the former one has no end, and one secret more drops it."""

    async def read(self) -> list[str]:
        return list(self.ends)[-2:][::-1]


class Short(Store):
    async def write(self, secret: Secret) -> None:
        self.ends = {secret.reveal(): None}


class PutsOff(Store):
    async def write(self, secret: Secret) -> None:
        await super().write(secret)
        self.ends = {each: end and self.clock() + KEPT for each, end in self.ends.items()}


class EndsTheNewest(Store):
    async def write(self, secret: Secret) -> None:
        before = self.ends.get(secret.reveal())
        await super().write(secret)
        self.ends[secret.reveal()] = before


class OldestFirst(Store):
    async def read(self) -> list[str]:
        return (await super().read())[::-1]


class Forgetful(Store):
    async def write(self, secret: Secret) -> None:
        before = dict(self.ends)
        await asyncio.sleep(0)
        self.ends = before
        await super().write(secret)


class Silent(Store):
    damaged = False

    async def read(self) -> list[str]:
        return [] if self.damaged else await super().read()


BEFORE = "A replaced secret is read after the newest one for 28 hours, and then no more"
EACH = "Each replaced secret ends 28 hours after it was replaced, whatever was written since"
TWICE = "A secret that is written again stays the newest, has no end, and puts off the end of no other"
FORMER = "A replaced secret that is written again is the newest, and has no end any more"
BOTH = "Two writers at once keep the secret of each other, and one of them is the newest"
RAISES = "A store that cannot be read raises: it does not return that there is no secret"


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (Store, set()),
        (Endless, {BEFORE, EACH, TWICE, FORMER, BOTH}),
        (Short, {BEFORE, EACH, TWICE, FORMER, BOTH}),
        (PutsOff, {EACH, TWICE}),
        (EndsTheNewest, {FORMER}),
        (OldestFirst, {BEFORE, EACH, TWICE, FORMER, BOTH}),
        (Forgetful, {BOTH}),
        (Silent, {RAISES}),
    ],
)
async def test_each_broken_promise_is_named_without_a_secret(kind: type[Store], broken: set[str]) -> None:
    clock, made = ManualClock(), list[Store]()

    def make() -> Store:
        made.append(kind(clock))
        return made[-1]

    async def damage(store: Any) -> None:
        store.damaged = True
        if kind is not Silent:
            store.ends = None

    try:
        await check_secret_store(make, clock=clock, damage=damage)
    except BrokenPromisesError as exc:
        found, text = set(exc.broken), str(exc)
    else:
        found, text = set(), ""
    assert found == broken
    assert "whsec_" not in text


async def test_a_store_with_a_secret_at_its_start_is_not_empty() -> None:
    clock = ManualClock()

    class Full(Store):
        async def read(self) -> list[str]:
            return [*await super().read(), "whsec_c29tZSBvdGhlciBzaWduaW5nIHNlY3JldA=="]

    with pytest.raises(BrokenPromisesError) as caught:
        await check_secret_store(lambda: Full(clock), clock=clock)
    assert len(caught.value.broken) == 6
    assert "read() had ?, and not nothing" in str(caught.value)
