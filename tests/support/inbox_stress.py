"""What the suite of inboxes cannot see in one process: an outage of the storage, a race of processes, and a kill."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from functools import partial

from basiq_async import InboxError
from basiq_async._work.limits import limit
from basiq_async.receiver import Inbox
from basiq_async.testing.conformance._inbox import (  # private: no caller of the suite makes its calls
    MakeSharedInbox,
    made,
)
from basiq_async.testing.conformance._inbox_model import (  # private: a stress test calls an inbox as the model does
    BUSY,
    CALLS,
    CLAIMED,
    LONG,
    Call,
    make_delivery,
)
from basiq_async.testing.conformance._inbox_workers import Workers  # private: as the suite has two workers
from basiq_async.testing.conformance._runner import hold  # private: a stress test reports as the suite does

Outage = Callable[[], AbstractAsyncContextManager[object]]
_RACE = 60.0
INTERRUPTED = (
    "claim a; complete a; ...; known b; claim b",
    "fail a; ...; fail b",
    "quarantine a; give_up a 1; ...; quarantined b; known b; claim b; claim b 1",
    "set_note a; ...; note b",
    "store a; ...; waiting b; list_waiting b; known b; claim_due b",
    "store a; store a 1; claim_due a; put_off_for_long a; ...; waiting b; list_waiting b; known b; claim_due b",
)
"""What is recorded before something happens to the storage or to the process, and is there afterwards."""


async def away(make_inbox: MakeSharedInbox, outage: Outage) -> None:
    """While the storage is away, every call raises InboxError; afterwards all records are unchanged"""
    async with AsyncExitStack() as stack:
        scripts, all_workers = [script.split("; ...; ") for script in INTERRUPTED], list[Workers[Inbox]]()
        for number, (before, _) in enumerate(scripts):
            inbox = await stack.enter_async_context(made(partial(make_inbox, f"stress_{number}")))
            all_workers.append(Workers(inbox, inbox))
            await all_workers[-1].follow(before, name=f"{number}", goes_on=True)
        workers, inbox = all_workers[0], all_workers[0].inbox
        async with outage():
            key = f"{workers.key}-0-1"
            of = Call([key, f"{key}-2"], key, workers.b, make_delivery(key))
            calls = {name: call(inbox, of) for name, call in CALLS.items() if workers.makes(name)}
            calls["known_since"] = inbox.known_since()
            found = await asyncio.gather(*calls.values(), return_exceptions=True)
        for name, result in zip(calls, found, strict=True):
            hold(isinstance(result, InboxError), f"while the storage was away, {name} was {result!r}, not InboxError")
        for number, (before, after) in enumerate(scripts):
            await all_workers[number].follow(after, made=before, name=f"{number}")
        await workers.follow("claim a; complete a")


async def raced(make_inbox: MakeSharedInbox) -> None:
    """If two processes claim the same keys at once, each key is handled by one of them"""
    keys = [f"{uuid.uuid4()}-{number}" for number in range(50)]
    loop = asyncio.get_running_loop()
    # Spawned, not forked: two processes cannot use the same open connection.
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        taken = await asyncio.gather(*(loop.run_in_executor(pool, _take_all, make_inbox, keys) for _ in range(2)))
    by_none, by_both = set(keys).difference(*taken), set(taken[0]).intersection(taken[1])
    hold(not by_none, f"{len(by_none)} of {len(keys)} keys were handled by no process")
    hold(not by_both, f"{len(by_both)} of {len(keys)} keys were handled by both processes")


def _take_all(make_inbox: MakeSharedInbox, keys: Sequence[str]) -> list[str]:
    """Claim and complete each key that is free, in a separate process. Return the completed keys."""

    async def run() -> list[str]:
        completed: list[str] = []
        async with limit(_RACE), made(partial(make_inbox, "race")) as inbox:
            for key in keys:
                token = uuid.uuid4().hex
                while (claim := await inbox.claim(key, token, lease=LONG)).status is BUSY:  # the other process has it
                    await asyncio.sleep(0.002)
                if claim.status is CLAIMED:
                    hold(await inbox.complete(key, token), "complete() by the holder was not True")
                    completed.append(key)
        return completed

    return asyncio.run(run())


async def killed(make_inbox: MakeSharedInbox, seconds: float) -> None:
    """What a process recorded is there after it was killed"""
    name = str(uuid.uuid4())
    loop = asyncio.get_running_loop()
    # The pool is broken when its process was killed.
    with suppress(BrokenProcessPool), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        await loop.run_in_executor(pool, _record_and_die, make_inbox, name, seconds)
    for number, script in enumerate(INTERRUPTED):
        before, after = script.split("; ...; ")
        async with made(partial(make_inbox, f"stress_{number}")) as inbox:
            await Workers(inbox, inbox).follow(after, made=before, name=f"{name}-{number}")


def _record_and_die(make_inbox: MakeSharedInbox, name: str, seconds: float) -> None:
    """Record with one inbox for each script, in a separate process, and be killed before they are closed."""

    async def run() -> None:
        async with limit(seconds), AsyncExitStack() as stack:
            for number, script in enumerate(INTERRUPTED):
                inbox = await stack.enter_async_context(made(partial(make_inbox, f"stress_{number}")))
                await Workers(inbox, inbox).follow(
                    script.partition("; ...; ")[0], name=f"{name}-{number}", goes_on=True
                )
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows both end it at once

    asyncio.run(run())
