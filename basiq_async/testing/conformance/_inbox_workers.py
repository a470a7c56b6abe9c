"""Workers that follow a script, call by call, beside a model of what an inbox must do."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Generic, TypeVar

import attrs

from ..._work.protocol import Claim, ClaimStatus, Inbox, InboxEntry, WaitingInbox
from ...errors import InboxError
from ..fake._clock import ManualClock
from ._inbox_model import (
    BUSY,
    CALLS,
    CLAIMED,
    DYING,
    KEYS,
    LEASED,
    LONG,
    PASSED,
    START,
    WAITING_CALLS,
    WORKERS,
    Call,
    ListEntries,
    Model,
    list_all,
    make_delivery,
)
from ._runner import hold

I = TypeVar("I", bound=Inbox)  # noqa: E741
_TRIES, _PAUSE = 100, 0.02
WAITS = (0, 1, 2, 3, 5, 8, 0.0005, 0.001, 0.002, 0.004)
"""The wait before a cancellation: a number of event loop cycles, or a fraction of a second."""


async def cancel_after(wait: float, call: Coroutine[Any, Any, object]) -> None:
    """Make a call, and cancel it after so many cycles of the event loop, or a fraction of a second."""
    task = asyncio.create_task(call)
    if wait >= 1:
        for _ in range(int(wait)):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep(wait)
    task.cancel()
    await asyncio.wait({task})


Write = Callable[[Any], Awaitable[int]]
"""Called with the session of a handler. Writes a row, and returns how many there were before."""


@attrs.define(eq=False)
class Workers(Generic[I]):
    """Three workers with new keys. A and C use ``inbox``, B uses ``other``: the same one, or another of its storage."""

    needs: ClassVar[Any] = Inbox

    inbox: I
    other: I
    clock: ManualClock | None = None
    leases: bool = attrs.field(default=True, kw_only=True)
    write: Write | None = attrs.field(default=None, kw_only=True)
    key: str = attrs.field(init=False, factory=lambda: f"check:{uuid.uuid4()}")
    a: str = attrs.field(init=False, factory=lambda: f"{uuid.uuid4().hex}-a")
    b: str = attrs.field(init=False, factory=lambda: f"{uuid.uuid4().hex}-b")

    async def wait(self, seconds: float) -> None:
        if self.clock is None:
            await asyncio.sleep(seconds)
        else:
            self.clock.advance(seconds=seconds)

    def now(self) -> datetime:
        return datetime.now(UTC) if self.clock is None else self.clock()

    async def claim(self, key: str, token: str, inbox: Inbox | None = None) -> ClaimStatus:
        """Claim a key with the first worker's inbox, or another one."""
        return (await (inbox or self.inbox).claim(key, token, lease=LONG)).status

    async def list_own(self, listing: ListEntries) -> list[InboxEntry]:
        return await list_all(listing, self.key)

    async def check_order(
        self,
        listing: ListEntries,
        stored: Sequence[InboxEntry],
        remove: Callable[[str], Awaitable[object]],
    ) -> None:
        """Check the pages of what was stored, and the page after a delivery that is removed."""
        expected = sorted(stored, key=lambda each: (each.quarantined_at, each.key))
        found = await self.list_own(listing)
        hold(found == expected, f"the order was {[each.key for each in found]}, or a delivery was changed")
        hold(len(await listing(limit=1)) == 1, "with a limit of 1, a page did not have 1")
        await remove(expected[1].key)
        rest = await listing(after=expected[1], limit=1000)
        keys = [each.key for each in rest if each.key.startswith(self.key)]
        hold(keys == [each.key for each in expected[2:]], f"the page after the second, which was removed, was {keys}")

    def makes(self, action: str) -> bool:
        """Return whether the inbox has such a call: not all have leases, or keep what is to be handled later."""
        if action not in WAITING_CALLS:
            return self.leases or action not in LEASED | DYING
        return isinstance(self.inbox, WaitingInbox) and (self.leases or action not in LEASED | DYING)

    async def follow(self, *scripts: str, name: str | None = None, made: str = "", goes_on: bool = False) -> None:
        """Make the steps of each script on two new keys, whose names begin with ``name``.

        A step is a call of ``CALLS``, a worker and the number of a key, 0 by default, as in ``claim a; claim b 1``. A
        step that begins with ``cancelled`` is cancelled after one of several waits. Then the inbox may have carried it
        out or not, and the later steps must all fit one of the two.

        ``pass a`` lets a short lease run out. ``made`` has the steps that were made already. ``goes_on``: more steps
        come later, so that what waits is left.

        Raises ``AssertionError`` at the first step whose result differs from the model. A script with a call that this
        inbox does not have is left out.
        """
        before = made.split("; ") if made else []
        for script in scripts:
            steps = [*before, *script.split("; ")]
            if all(self.makes(action) for action in CALLS if f" {action} " in " ".join(["", *steps])):
                for wait in WAITS if "cancelled" in script else WAITS[:1]:
                    name_of_keys = name or str(uuid.uuid4())
                    await self._follow(steps, len(before), name_of_keys, wait)
                    if not goes_on:
                        keys = [f"{name_of_keys}-{number}" for number in range(KEYS)]
                        await self.end_waits(keys, [f"{keys[0]}-{worker}" for worker in WORKERS])

    async def _follow(self, steps: Sequence[str], made: int, name: str, wait: float) -> None:
        keys = [f"{name}-{number}" for number in range(KEYS)]
        possible = [Model.of(keys)]
        for number, step in enumerate(steps):
            *cancelled, action, worker, index = step.split() if step[-1].isdigit() else [*step.split(), "0"]
            inbox, key = self.other if worker == "b" else self.inbox, keys[int(index)]
            delivery = make_delivery(key, failures=number % 3, at=START + timedelta(seconds=number))
            of = Call(keys, key, f"{keys[0]}-{worker}", delivery)
            others: list[Model] = []
            if cancelled:
                await cancel_after(wait, CALLS[action](inbox, of))
                others = _after(possible, action, of)
            elif number < made:
                possible[0].make(action, of)
            elif action != "pass":
                done = "; ".join(steps[:number])
                # A database ends the transaction of a cancelled call when it notices that its connection is closed.
                tries = _TRIES if "cancelled" in done and not self.leases else 1
                possible = await self._make(action, inbox, of, possible, f"{step}, after {done}", tries)
                if action.startswith("put_off") and not self.leases:  # it may have ended the transaction
                    others = _after(possible, "release", of)
            possible += [model for model in others if model not in possible]
            if action in {"pass", *DYING}:
                ended = [model.pass_time() for model in possible]
                if action == "pass" or any(ended):
                    await self.wait(PASSED)

    async def end_waits(self, keys: Sequence[str], tokens: Sequence[str]) -> None:
        """Complete what waits under these keys, so that the next script finds an inbox in which nothing waits.

        tokens: those with which it may be claimed.
        """
        for key in keys if isinstance(self.inbox, WaitingInbox) else ():
            for token in tokens:
                if (await self.inbox.claim(key, token, lease=LONG)).status is CLAIMED:
                    await self.inbox.complete(key, token)
                    break

    async def _make(
        self, action: str, inbox: Inbox, of: Call, possible: list[Model], step: str, tries: int
    ) -> list[Model]:
        """Make a call. Return those of the models that have the same result."""
        while True:
            tries -= 1
            try:
                found = await CALLS[action](inbox, of)
            except InboxError:
                if action == "store" and not self.leases and all(model.may_refuse(of.key) for model in possible):
                    return possible
                raise
            is_busy = action in ("claim_due", "claim_fresh") and found == []
            if isinstance(found, Claim) and found.status is BUSY:
                is_busy, seconds = True, found.retry_after
                hold(0 < seconds <= LONG, f"{step}: retry_after was {seconds}, with a lease of {LONG:g} s")
            made = [(model, model.make(action, of)) for model in [each.copy() for each in possible]]
            alike = [model for model, expected in made if _is_same(found, expected)]
            if alike or not is_busy or not tries:
                wanted = " or ".join(dict.fromkeys(_show(expected) for _, expected in made))
                hold(bool(alike), f"{step}: it was {_show(found)}, not {wanted}")
                return alike
            await asyncio.sleep(_PAUSE)


def _after(models: Sequence[Model], action: str, of: Call) -> list[Model]:
    """Return copies of the models for which a call was made."""
    copies = [model.copy() for model in models]
    for model in copies:
        model.make(action, of)
    return copies


def _is_same(found: object, expected: object) -> bool:
    if isinstance(found, Claim) and isinstance(expected, Claim):
        alike = found.status is expected.status and found.unended == expected.unended
        return alike and found.holder in (None, expected.holder)
    return type(found) is type(expected) and found == expected


def _show(result: object) -> str:
    if not isinstance(result, Claim):
        return repr(result)
    return result.status.name + (f" after {result.unended} attempts without an end" if result.unended else "")
