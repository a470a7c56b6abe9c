"""The stores of inboxes, and the lines to them: away, slow, read-only; backed up, restored, flushed, copied."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Awaitable, Callable
from typing import Any

from basiq_async import InboxError
from basiq_async.receiver import MemoryInbox

from .machines import SKEW, Machine
from .model import EVENT_ID, Model

READS = {"known", "note", "known_since", "entries", "waiting"}


class Store:
    """One store, which all machines of a service share, and how it is now."""

    def __init__(self, model: Model, chance: random.Random) -> None:
        self.model, self.chance = model, chance
        self.state = "well"
        """Or ``away``, ``slow``, ``read-only``, ``deaf``: it does what is asked, and its answers are lost."""

    def open(self, machine: Machine) -> Any:
        """Return an inbox for one machine."""
        raise NotImplementedError

    def snapshot(self) -> Any:
        raise NotImplementedError

    def restore(self, snapshot: Any) -> None:
        raise NotImplementedError


class Memory(Store):
    """A ``MemoryInbox`` that the machines share, and that outlives them."""

    def __init__(self, model: Model, chance: random.Random) -> None:
        super().__init__(model, chance)
        self.inbox = MemoryInbox(remember=30 * 86_400.0)

    def open(self, machine: Machine) -> Any:
        return line_to(self, self.inbox, machine)

    def snapshot(self) -> Any:
        return copy.deepcopy({name: value for name, value in vars(self.inbox).items() if isinstance(value, dict)})

    def restore(self, snapshot: Any) -> None:
        vars(self.inbox).update(copy.deepcopy(snapshot))


class Line:
    """A machine's connection to a store: each call takes a while, and may go wrong."""

    def __init__(self, store: Store, inbox: Any, machine: Machine) -> None:
        self._store, self._inner, self._machine = store, inbox, machine

    async def aclose(self) -> None:
        if hasattr(self._inner, "aclose") and not isinstance(self._inner, MemoryInbox):
            await self._inner.aclose()


def line_to(store: Store, inbox: Any, machine: Machine) -> Any:
    """Return a line whose class has the methods of the inbox: the package looks which these are."""
    kind = type(inbox)
    names = [
        name
        for name in dir(kind)
        if not name.startswith("_") and name != "aclose" and asyncio.iscoroutinefunction(getattr(kind, name))
    ]
    return type("Line", (Line,), {name: _call(name) for name in names})(store, inbox, machine)


def _call(name: str) -> Callable[..., Awaitable[Any]]:
    async def call(self: Line, *args: Any, **options: Any) -> Any:
        store, model = self._store, self._store.model
        handled = args[0] if name == "complete" else None
        answered = False
        try:
            await asyncio.sleep(store.chance.uniform(0.0005, 0.02))
            if store.state == "slow":
                await asyncio.sleep(store.chance.uniform(1, 9))
            if store.state == "away" or (store.state == "read-only" and name not in READS):
                raise InboxError("the store is away")
            skewed = SKEW.set(None)  # the store has a clock of its own
            try:
                found = await getattr(self._inner, name)(*args, **options)
            finally:
                SKEW.reset(skewed)
            if handled is not None and found:
                model.record(handled, self._machine.name)
                answered = True
            if name == "complete" and args[1].startswith("drop/") and (event := EVENT_ID.search(args[0])):
                model.events[event[0]].dropped = True
            await asyncio.sleep(store.chance.uniform(0.0005, 0.02))
            if store.state == "deaf":
                raise InboxError("the answer of the store was lost")
            return found
        finally:
            if handled is not None and not answered:
                model.fail_to_record(handled, self._machine.name)

    return call
