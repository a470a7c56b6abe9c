"""The claim of an exclusive run: one for the whole run, so that no other run of the job begins."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import attrs

from .._redaction.text import printable
from .._work.calls import HOST
from .._work.keys import run_key
from .._work.limits import inbox_limit, wait_for_event
from .._work.protocol import Claim, ClaimStatus, Inbox
from ..errors import JobInUseError, ReplayError
from ..models import Message
from .targets._base import Target

LEASE = 30.0
"""Seconds for which a run that has died keeps the next one out, if nothing shows that it has died."""
_CALL = 5.0
_clock: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Monotonic seconds; on Linux they also count the time for which the machine is suspended."""


class RunClaim:
    """The claim of a run on a job, in the inbox that records what the job has handled.

    It is renewed while the run lasts. A run that was frozen for longer than the lease finds that out before it delivers
    or records anything: ``check`` raises. If its holder is a process of this machine that has ended, the claim is taken
    over at once.
    """

    def __init__(self, inbox: Inbox, name: str) -> None:
        self._inbox = inbox
        self._name = name
        self._key = run_key(name)
        self.token = f"{_process()}/{secrets.token_hex(8)}"
        self._until = float("-inf")
        self._renewing: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    async def take(self) -> None:
        """Claim the job. Raises ``JobInUseError`` if another run has it, and the inbox's errors."""
        while (found := await self._claim()) is not None:
            if not _is_dead(found.holder):
                machine, _, rest = (found.holder or "").partition("/")
                number = rest.split("/")[1] if "/" in rest else "?"
                holder = "" if found.holder is None else f" ({printable(f'process {number} on {machine}')})"
                raise JobInUseError(
                    f"another run of this job is alive{holder}: wait for it or stop it. If it was killed on another "
                    f"machine, its claim ends within {max(1.0, found.retry_after):.0f} s"
                )
            async with inbox_limit(_CALL):
                await self._inbox.release(self._key, found.holder or "")
        async with inbox_limit(_CALL):
            await self._inbox.set_note(self._key, self.token)
        self._renewing = asyncio.get_running_loop().create_task(self._renew())

    async def check(self) -> None:
        """Raise ``ReplayError`` if another run may have taken the job over."""
        if _clock() < self._until:
            return
        if await self._claim() is None:
            async with inbox_limit(_CALL):
                if await self._inbox.note(self._key) == self.token:  # no other run took the job, and has ended since
                    return
        self._until = float("-inf")
        raise ReplayError(
            "another run has taken the job over, because this one was stopped for longer than its lease: it delivers "
            "and records nothing more"
        )

    async def release(self) -> None:
        """End the claim. Safe to repeat."""
        self._ending.set()
        if self._renewing is not None:
            await asyncio.wait((self._renewing,))
        with suppress(Exception):  # its lease runs out
            async with inbox_limit(_CALL):
                await self._inbox.release(self._key, self.token)

    async def _claim(self) -> Claim | None:
        """Claim the job, or renew the claim. Return the claim of another run; None if this run has the job."""
        asked = _clock()
        async with inbox_limit(_CALL):
            found = await self._inbox.claim(self._key, self.token, lease=LEASE)
        if found.status is ClaimStatus.CLAIMED:
            self._until = asked + LEASE
            return None
        return found

    async def _renew(self) -> None:
        while True:
            if await wait_for_event(self._ending, LEASE / 3):
                return
            with suppress(Exception):  # ``check`` tries again, and raises
                if _clock() < self._until:  # what lapsed is for ``check`` to judge
                    await self._claim()


@attrs.frozen
class ClaimedTarget:
    """A target that accepts messages only while the run has its claim."""

    _inner: Target
    _claim: RunClaim

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        await self._claim.check()
        return await self._inner.deliver(message)


def _process() -> str:
    """Return the name of this process: the machine, its boot, its space of process ids, and its id."""
    boot, space = "", 0
    with suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()[:8]
        space = os.stat("/proc/self/ns/pid").st_ino
    return f"{HOST}/{boot}.{space}/{os.getpid()}"


def _is_dead(holder: str | None) -> bool:
    """Return whether a claim's holder is known to have ended: a process of this boot of this machine that is gone."""
    place, _, number = (holder or "").rpartition("/")[0].rpartition("/")
    if not number.isdecimal() or place != _process().rpartition("/")[0] or place.endswith("/.0"):
        return False
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass
    return False
