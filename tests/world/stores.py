"""The stores of inboxes, and the lines to them: away, slow, read-only, deaf; backed up, restored, flushed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import functools
import inspect
import json
import queue
import random
import shutil
import sqlite3
import tempfile
import types
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

from basiq_async import InboxError
from basiq_async._storage import sqlite
from basiq_async.receiver import MemoryInbox, SQLiteInbox
from basiq_async.receiver.protocol import ClaimStatus

from .machines import BEGINNING, SKEW, Machine
from .model import EVENT_ID, Model

READS = {"known", "note", "known_since", "entries", "waiting"}
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
"""A file system in memory: a world is not a test of the disk."""


class Place:
    """Where a store is, and how it is there: a database has those of several services."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="basiq-world-", dir=MEMORY), "service.db")
        self.state, self.since = "well", BEGINNING
        self.skew = 0.0
        """Seconds by which the clock of its machine is ahead."""

    def close(self) -> None:
        shutil.rmtree(self.path.parent, ignore_errors=True)


class Store:
    """One store, which all machines of a service share. ``first``: a store on the same database."""

    def __init__(self, model: Model, chance: random.Random, first: Store | None) -> None:
        self.model, self.chance = model, chance
        self.place: Place = Place() if first is None else first.place
        self.path = str(self.place.path)

    @property
    def state(self) -> str:
        """``well``, or ``away``, ``slow``, ``read-only``, ``full`` (no COMMIT), ``deaf``: its answers are lost."""
        return self.place.state

    @state.setter
    def state(self, state: str) -> None:
        self.place.state, self.place.since = state, self.model.now()
        self.note_state()

    def note_state(self) -> None:
        """The state has changed."""

    @property
    def since(self) -> datetime:
        """Since when it is as it is."""
        return self.place.since

    unwritable: tuple[str, ...] = ("read-only", "full")
    """The states in which this class refuses what writes; otherwise the store does that itself."""

    def is_well_since(self, moment: datetime) -> bool:
        """Whether nothing has happened to it since a moment, at which it was well."""
        return self.state == "well" and self.since == moment

    def size(self) -> dict[str, int]:
        """Return how many entries it has in each of its tables."""
        raise NotImplementedError

    def entries(self) -> Iterable[tuple[str, bool, str]]:
        """Return the key of each delivery that it keeps, whether that waits, and its body with its error's text."""
        raise NotImplementedError

    def naming(self, user_id: str) -> tuple[set[str], set[str]]:
        """Return the keys of what names a user in the quarantine, and of what waits."""
        found = [(key, bool(waits)) for key, waits, text in self.entries() if user_id in text]
        return {key for key, waits in found if not waits}, {key for key, waits in found if waits}

    def open(self, machine: Machine) -> Any:
        """Return an inbox for one machine."""
        machine.has_waiting = self.has_waiting
        return line_to(self, self.connect(machine), machine)

    def connect(self, machine: Machine) -> Any:
        raise NotImplementedError

    def has_waiting(self) -> bool:
        """Return whether something may wait in it."""
        return True

    def snapshot(self) -> Any:
        raise NotImplementedError

    def restore(self, snapshot: Any) -> None:
        raise NotImplementedError

    def effects(self) -> Iterable[tuple[str, int]]:
        """Return how often each event has taken effect in it, in the transaction of its record."""
        return ()

    def copy_half(self) -> Any:
        """Return a copy that lacks what is in the log beside the file; None for a store without one."""

    async def wait_for_locks(self) -> None:
        """Wait until no machine is in the middle of a transaction: a copy would wait for it, and the loop with it."""

    def flush(self) -> None:
        """Empty it: somebody else's FLUSHALL, or a new volume."""
        raise NotImplementedError

    def close(self) -> None:
        self.place.close()


class Memory(Store):
    """A ``MemoryInbox`` that the machines share, and that outlives them."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.inbox = MemoryInbox(remember=30 * 86_400.0)

    def connect(self, machine: Machine) -> Any:
        return self.inbox

    def has_waiting(self) -> bool:
        return bool(self.inbox._waiting)

    def snapshot(self) -> Any:
        return copy.deepcopy({name: value for name, value in vars(self.inbox).items() if isinstance(value, dict)})

    def restore(self, snapshot: Any) -> None:
        vars(self.inbox).update(copy.deepcopy(snapshot))

    def size(self) -> dict[str, int]:
        return {name: len(value) for name, value in vars(self.inbox).items() if isinstance(value, dict)}

    def entries(self) -> Iterable[tuple[str, bool, str]]:
        found = [(each, False) for each in self.inbox._quarantined.values()]
        found += [(each.entry, True) for each in self.inbox._waiting.values()]
        return [(each.key, waits, f"{each.body.decode()} {each.error}") for each, waits in found]

    def flush(self) -> None:
        vars(self.inbox).update(vars(MemoryInbox(remember=30 * 86_400.0)))


class SQLite(Store):
    """A file of a ``SQLiteInbox``. Each machine opens it; what the package does in a thread is done in the loop."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._opened: list[SQLiteInbox] = []
        self._look: sqlite3.Connection | None = None

    unwritable = ("read-only",)

    def note_state(self) -> None:
        """Let each COMMIT fail while the disk is full."""
        for inbox in self._opened:
            if (connection := inbox._store._connection) is not None:
                connection.set_authorizer(_refuse_commit if self.state == "full" else None)

    def connect(self, machine: Machine) -> Any:
        self._opened.append(inbox := SQLiteInbox(self.path))
        return inbox

    def has_waiting(self) -> bool:
        self._look = self._look or sqlite3.connect(self.path)
        return self._look.execute("SELECT 1 FROM inbox WHERE due IS NOT NULL LIMIT 1").fetchone() is not None

    def snapshot(self) -> Any:
        with contextlib.closing(sqlite3.connect(self.path)) as found:
            return found.serialize()

    def restore(self, snapshot: Any) -> None:
        with (
            contextlib.closing(sqlite3.connect(":memory:")) as kept,
            contextlib.closing(sqlite3.connect(self.path)) as there,
        ):
            # A copy of a database in WAL mode cannot be opened in memory: two bytes of its head say which mode it is.
            kept.deserialize(snapshot[:18] + b"\x01\x01" + snapshot[20:])
            kept.backup(there)

    def size(self) -> dict[str, int]:
        return count_rows(self.path)

    def entries(self) -> Iterable[tuple[str, bool, str]]:
        with contextlib.closing(sqlite3.connect(self.path)) as found:
            kept = "SELECT key, due IS NOT NULL, entry_json FROM inbox WHERE entry_json IS NOT NULL"
            return [(key, waits, unpack(text)) for key, waits, text in found.execute(kept)]

    def copy_half(self) -> Any:
        kept = Path(self.path).read_bytes()
        return kept if len(kept) > 4_096 else None  # else it is no database yet

    def flush(self) -> None:
        empty = str(self.place.path.with_name("empty.db"))
        connection = SQLiteInbox(empty)._store._open()
        kept = connection.serialize()
        connection.close()
        Path(empty).unlink()
        self.restore(kept)

    def close(self) -> None:
        for connection in (self._look, *(each._store._connection for each in self._opened)):
            if connection is not None:
                connection.close()
        super().close()


def _refuse_commit(action: int, name: str | None, *_: object) -> int:
    refused = action == sqlite3.SQLITE_TRANSACTION and name == "COMMIT"
    return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK


def unpack(entry_json: str) -> str:
    entry = json.loads(entry_json)
    return f"{base64.b64decode(entry['body']).decode()} {entry['error']}"


def count_rows(path: str) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(path)) as found:
        tables = [name for (name,) in found.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: found.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}


class _Inline:
    """The queue of a SQLite store, in place of its thread: what is put in is done at once."""

    def __init__(self, store: sqlite.SQLiteStore) -> None:
        self._store = store

    def put(self, calls: Any) -> None:
        store = self._store
        if calls is None:
            if store._connection is not None:
                store.file.close(store._connection)
                store._connection = None
            store._ended.set_result(None)
            return
        try:
            store._commit(calls)
        except BaseException as exc:
            failure = store.file.translate(exc)
            for each in calls:
                each.result = failure
        asyncio.get_running_loop().call_soon(sqlite._resolve, calls)


@contextlib.contextmanager
def without_threads() -> Iterator[None]:
    """Let SQLite stores do in the loop what they do in a thread."""
    usual = sqlite.SQLiteStore.__init__

    def begin(self: sqlite.SQLiteStore, *args: Any, **options: Any) -> None:
        usual(self, *args, **options)
        self._calls = _Inline(self)  # type: ignore[assignment]

    idle = types.SimpleNamespace(start=lambda: None, join=lambda: None)
    threads = types.SimpleNamespace(Thread=lambda **_: idle)
    queues = types.SimpleNamespace(SimpleQueue=queue.SimpleQueue, Empty=queue.Empty)
    with (
        patch.object(sqlite.SQLiteStore, "__init__", begin),
        patch.object(sqlite, "threading", threads),
        patch.object(sqlite, "queue", queues),
    ):
        yield


class Line:
    """A machine's connection to a store: each call takes a while, and may go wrong."""

    def __init__(self, store: Store, inbox: Any, machine: Machine) -> None:
        self._store, self._inner, self._machine = store, inbox, machine

    async def aclose(self) -> None:
        if not isinstance(self._inner, MemoryInbox):
            await self._inner.aclose()


def line_to(store: Store, inbox: object, machine: Machine) -> Any:
    """Return a line whose class has the methods of the inbox: the package looks which these are."""
    return _line_class(type(inbox))(store, inbox, machine)  # type: ignore[arg-type]


@functools.cache
def _line_class(kind: type) -> type[Line]:
    names = [
        name
        for name in dir(kind)
        if not name.startswith("_") and name != "aclose" and inspect.iscoroutinefunction(getattr(kind, name))
    ]
    methods: dict[str, Any] = {name: _call(name) for name in names}
    if hasattr(kind, "transaction"):
        methods["transaction"] = lambda line, key, token: line._inner.transaction(key, token)
    return type("Line", (Line,), methods)


def _call(name: str) -> Callable[..., Awaitable[Any]]:
    async def call(self: Line, *args: Any, **options: Any) -> Any:
        store, model, machine = self._store, self._store.model, self._machine.name
        handled = args[0] if name == "complete" else None
        recorded, is_claim = False, name in ("claim", "claim_due")
        if is_claim:
            model.asking.add(machine)
        try:
            await _travel(store)
            if store.state == "away" or (store.state in store.unwritable and name not in READS):
                raise InboxError("the store is away")
            if name in ("store", "quarantine"):
                model.send(args[0] if name == "quarantine" else args[0].key)
            skewed = SKEW.set(lambda: store.place.skew)  # the store has a clock of its own
            try:
                found = await getattr(self._inner, name)(*args, **options)
            finally:
                SKEW.reset(skewed)
            model.hold(_claimed(name, args, found), machine)
            if name in ("complete", "release", "put_off", "quarantine"):
                model.let_go(args[0].key if name == "put_off" else args[0], machine)
            if name == "put_off" and args[0].unended and options["seconds"] < 60:  # they are tried one by one
                self._machine.due_at = asyncio.get_running_loop().time() + options["seconds"]
            if name in ("claim", "store") and machine.startswith("pod"):
                model.began = model.began or model.now()
            if handled is not None and found:
                model.record(handled, machine)
                recorded = True
                is_dropped = args[1].startswith("drop/") and not args[0].startswith("post:")  # else of a job that posts
                if is_dropped and (event := EVENT_ID.search(args[0])):
                    model.events[event[0]].dropped = True
            if name in ("store", "quarantine") and found:
                entry = args[-1] if name == "quarantine" else args[0]
                model.keep(entry.key, waits=name == "store", acknowledged=entry.acknowledged)
            await _travel(store, back=True)
            if store.state == "deaf":
                raise InboxError("the answer of the store was lost")
            model.give_claims(_claimed(name, args, found), machine)
            return found
        finally:
            if is_claim:
                model.asking.discard(machine)
            if handled is not None and not recorded:
                model.fail_to_record(handled, machine)

    return call


def _claimed(name: str, args: Any, found: Any) -> Sequence[str]:
    if name == "claim_due":
        return [each.entry.key for each in found]
    return [args[0]] if name == "claim" and found.status is ClaimStatus.CLAIMED else ()


async def _travel(store: Store, *, back: bool = False) -> None:
    slow = store.state == "slow" and store.chance.random() < 0.5
    wait = 0.0 if back and store.chance.random() < 0.7 else store.chance.uniform(0.0005, 0.02)
    await asyncio.sleep(store.chance.uniform(1, 9) if slow else wait)
