"""Workers that follow a script, call by call, beside a model of what an inbox must do."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from ..._work.protocol import Claim, ClaimStatus, Inbox, QuarantinedDelivery, WaitingInbox
from ...errors import InboxError
from ..fake._clock import ManualClock
from ._inbox_model import (
    BUSY,
    CALLS,
    DYING,
    KEYS,
    LONG,
    PASSED,
    START,
    WAITING_CALLS,
    Call,
    Listing,
    Model,
    list_all,
    make_delivery,
)
from ._runner import hold

I = TypeVar("I", bound=Inbox)  # noqa: E741
_TRIES, _PAUSE = 100, 0.02


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


class Workers(Generic[I]):
    """Three workers with new keys. A and C use ``inbox``, B uses ``other``: the same one, or another of its storage."""

    needs: Any = Inbox

    def __init__(
        self,
        inbox: I,
        other: I,
        clock: ManualClock | None = None,
        *,
        leases: bool = True,
        write: Write | None = None,
    ) -> None:
        self.inbox = inbox
        self.other = other
        self.clock = clock
        self.leases = leases
        self.write = write
        self.key = f"check:{uuid.uuid4()}"
        self.a, self.b = f"{uuid.uuid4().hex}-a", f"{uuid.uuid4().hex}-b"

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

    async def list_own(self, listing: Listing) -> list[QuarantinedDelivery]:
        return await list_all(listing, self.key)

    def makes(self, action: str) -> bool:
        """Return whether the inbox has such a call: not all have leases, or keep what is to be handled later."""
        if action not in WAITING_CALLS:
            return self.leases or action not in {"claim_shortly", *DYING}
        return isinstance(self.inbox, WaitingInbox) and (self.leases or action not in DYING)

    async def follow(self, script: str, *, name: str | None = None, made: str = "", wait: float = 0.0) -> None:
        """Make the steps of a script on two new keys, whose names begin with ``name``.

        A step is a call of ``CALLS``, a worker and the number of a key, 0 by default, as in ``claim a; claim b 1``. It
        may be ``cancelled``, after ``wait``: then it was carried out or was not, and the later steps must agree about
        that. ``pass a`` lets a short lease run out. ``made`` has the steps that were made already.

        Raises ``AssertionError`` at the first step whose result differs from the model. A script with a call that this
        inbox does not have is left out.
        """
        keys = [f"{name or uuid.uuid4()}-{number}" for number in range(KEYS)]
        possible = [Model.of(keys)]
        before = made.split("; ") if made else []
        steps = [*before, *script.split("; ")]
        if not all(self.makes(action) for action in CALLS if f" {action} " in " ".join(["", *steps])):
            return
        for number, step in enumerate(steps):
            *cancelled, action, worker, index = step.split() if step[-1].isdigit() else [*step.split(), "0"]
            inbox, key = self.other if worker == "b" else self.inbox, keys[int(index)]
            delivery = make_delivery(key, failures=number % 3, at=START + timedelta(seconds=number))
            of = Call(keys, key, f"{keys[0]}-{worker}", delivery)
            others: list[Model] = []
            if cancelled:
                await cancel_after(wait, CALLS[action](inbox, of))
                others = await _after(possible, action, of)
            elif number < len(before):
                await CALLS[action](possible[0], of)
            elif action != "pass":
                done = "; ".join(steps[:number])
                # A database ends the transaction of a cancelled call when it notices that its connection is closed.
                tries = _TRIES if "cancelled" in done and not self.leases else 1
                possible = await self._make(action, inbox, of, possible, f"{step}, after {done}", tries)
                if action.startswith("put_off") and not self.leases:  # it may have ended the transaction
                    others = await _after(possible, "release", of)
            possible += [model for model in others if model not in possible]
            if action in {"pass", *DYING}:
                ended = [model.pass_time() for model in possible]
                if action == "pass" or any(ended):
                    await self.wait(PASSED)

    async def _make(
        self, action: str, inbox: Inbox, of: Call, possible: list[Model], step: str, tries: int = 1
    ) -> list[Model]:
        """Make a call. Return those of the models that have the same result."""
        try:
            found = await CALLS[action](inbox, of)
        except InboxError:
            if action == "store" and not self.leases and all(model.may_refuse(of.key) for model in possible):
                return possible
            raise
        if isinstance(found, Claim) and found.status is BUSY:
            seconds = found.retry_after
            hold(0 < seconds <= LONG, f"{step}: retry_after was {seconds}, with a lease of {LONG:g} s")
        models = copy.deepcopy(possible) if tries > 1 else possible
        expected = [await CALLS[action](model, of) for model in models]
        alike = [model for model, each in zip(models, expected, strict=True) if _is_same(found, each)]
        if not alike and tries > 1 and isinstance(found, Claim) and found.status is BUSY:
            await asyncio.sleep(_PAUSE)
            return await self._make(action, inbox, of, possible, step, tries - 1)
        wanted = " or ".join(dict.fromkeys(map(_show, expected)))
        hold(bool(alike), f"{step}: it was {_show(found)}, not {wanted}")
        return alike


async def _after(models: list[Model], action: str, of: Call) -> list[Model]:
    """Return copies of the models for which a call was made."""
    copies = copy.deepcopy(models)
    for model in copies:
        await CALLS[action](model, of)
    return copies


def _is_same(found: object, expected: object) -> bool:
    if isinstance(found, Claim) and isinstance(expected, Claim):
        return found.status is expected.status and found.holder in (None, expected.holder)
    return type(found) is type(expected) and found == expected


def _show(result: object) -> str:
    return result.status.name if isinstance(result, Claim) else repr(result)
