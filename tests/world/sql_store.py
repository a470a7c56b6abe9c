"""A ``SQLInbox`` on SQLite: what aiosqlite does in threads is done in the loop, and its clock is the world's."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import aiosqlite.core
from sqlalchemy.ext.asyncio import create_async_engine

from basiq_async.receiver import SQLInbox

from .machines import MACHINE, SKEW, Machine
from .model import Model
from .stores import Store, count_rows, unpack

_BUSY_FOR, _LOOK_EVERY = 4.0, 0.05
"""Seconds for which a statement waits for another connection's transaction, and between two tries."""


class SQL(Store):
    """A SQLite database, which each machine opens with an engine of its own. Several services share it."""

    def __init__(self, model: Model, chance: random.Random, first: Store | None) -> None:
        super().__init__(model, chance, first)
        self.service = f"service{model.letter and '-'}{model.letter}"
        with contextlib.closing(sqlite3.connect(self.path)) as made:
            made.execute("CREATE TABLE IF NOT EXISTS effects (service TEXT, event_id TEXT)")

    def connect(self, machine: Machine) -> Any:
        return SQLInbox(create_async_engine(f"sqlite+aiosqlite:///{self.path}"), service=self.service)

    def snapshot(self) -> Any:
        with contextlib.closing(sqlite3.connect(self.path)) as found:
            return found.serialize()

    def restore(self, snapshot: Any) -> None:
        with contextlib.closing(sqlite3.connect(":memory:")) as kept:
            kept.deserialize(snapshot[:18] + b"\x01\x01" + snapshot[20:])
            with contextlib.closing(sqlite3.connect(self.path)) as there:
                kept.backup(there)

    def flush(self) -> None:
        """Empty each table but that of the versions: somebody's DELETE."""
        with contextlib.closing(sqlite3.connect(self.path)) as there, there:
            names = [name for (name,) in there.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for name in names:
                there.execute(f'DELETE FROM "{name}"')

    def size(self) -> dict[str, int]:
        return count_rows(self.path)

    def entries(self) -> Iterable[tuple[str, bool, str]]:
        with contextlib.closing(sqlite3.connect(self.path)) as found:
            kept = "SELECT key, queue = 'waiting', entry_json FROM basiq_inbox WHERE service = ? AND queue IS NOT NULL"
            return [(key, waits, unpack(text)) for key, waits, text in found.execute(kept, (self.service,))]

    def effects(self) -> Iterable[tuple[str, int]]:
        with contextlib.closing(sqlite3.connect(self.path)) as found:
            counted = "SELECT event_id, count(*) FROM effects WHERE service = ? GROUP BY event_id"
            return found.execute(counted, (self.service,)).fetchall()

    async def wait_for_locks(self) -> None:
        while True:
            with contextlib.closing(sqlite3.connect(self.path, timeout=0)) as there, suppress(sqlite3.Error):
                there.execute("BEGIN EXCLUSIVE")
                return
            await asyncio.sleep(_LOOK_EVERY)


class _Inline:
    """The queue of an aiosqlite connection, in place of its thread."""

    def __init__(self) -> None:
        self.cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()

    def put_nowait(self, call: tuple[asyncio.Future[Any] | None, Callable[[], Any]]) -> None:
        loop = asyncio.get_running_loop()
        self._do(call, loop, loop.time() + _BUSY_FOR)

    def _do(self, call: Any, loop: asyncio.AbstractEventLoop, until: float) -> None:
        future, function = call
        try:
            result = function()
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode == sqlite3.SQLITE_BUSY and loop.time() < until:
                loop.call_later(_LOOK_EVERY, self._do, call, loop, until)
            elif future is not None:
                loop.call_soon(aiosqlite.core.set_exception, future, exc)
            return
        except BaseException as exc:
            if future is not None:
                loop.call_soon(aiosqlite.core.set_exception, future, exc)
            return
        if isinstance(result, sqlite3.Connection):
            _prepare(result, self.cursors)
        elif isinstance(result, sqlite3.Cursor):
            self.cursors.add(result)
        if future is not None:
            loop.call_soon(aiosqlite.core.set_result, future, result)


def _prepare(connection: sqlite3.Connection, cursors: Iterable[sqlite3.Cursor]) -> None:
    """Let a connection have the world's time, wait for nothing, and end with its machine."""
    connection.execute("PRAGMA busy_timeout=0")
    connection.create_function("julianday", 1, lambda _: _now() / 86_400 + 2_440_587.5)
    connection.create_function(
        "current_timestamp", 0, lambda: f"{datetime.fromtimestamp(_now(), UTC):%Y-%m-%d %H:%M:%S}"
    )
    if (machine := MACHINE.get()) is not None:
        machine.on_death.append(partial(_drop, connection, cursors))


def _drop(connection: sqlite3.Connection, cursors: Iterable[sqlite3.Cursor]) -> None:
    """End a connection and its locks, as the end of its process does, whatever statement it was in."""
    for each in list(cursors):
        with suppress(sqlite3.Error):
            each.close()
    with suppress(sqlite3.Error):
        connection.rollback()
        connection.close()


def _show_now() -> str:
    return f"{datetime.fromtimestamp(_now(), UTC):%Y-%m-%d %H:%M:%S}"


def _now() -> float:
    skewed = SKEW.set(None)
    try:
        return time.time()
    finally:
        SKEW.reset(skewed)


@contextlib.contextmanager
def without_threads() -> Iterator[None]:
    idle = SimpleNamespace(start=lambda: None, daemon=True, name="")
    with (
        patch.object(aiosqlite.core, "SimpleQueue", _Inline),
        patch.object(aiosqlite.core, "Thread", lambda **_: idle),
        patch.object(aiosqlite.core.Connection, "__del__", lambda self: None),
    ):
        yield
