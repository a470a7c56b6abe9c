"""The promises about the storage: it may be away, and other processes use it."""

from __future__ import annotations

import asyncio
import multiprocessing
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import Any

from ..._inbox.protocol import Inbox
from ...errors import InboxError
from ._inbox_probe import CLAIMED, DONE, LONG, MakeInbox, Probe, made, make_letter
from ._runner import hold

Outage = Callable[[], AbstractAsyncContextManager[object]]


async def away(make_inbox: MakeInbox, outage: Outage) -> None:
    """While the storage is away every call raises InboxError, and afterwards it is as it was"""
    async with made(make_inbox) as inbox:
        probe = Probe(inbox, inbox, None)
        handled, new = f"{probe.key}-handled", f"{probe.key}-new"
        await inbox.complete(handled, "token")
        await probe.claim_a(CLAIMED, "the first claim")
        letter = await probe.quarantine_a()
        async with outage():
            calls: dict[str, Coroutine[Any, Any, object]] = {
                "check": inbox.check(),
                "claim": inbox.claim(f"{new}-claim", "token", lease=LONG),
                "complete": inbox.complete(f"{new}-complete", "token"),
                "seen": inbox.seen(f"{new}-seen"),
                "known_since": inbox.known_since(),
                "pinned": inbox.pinned(f"{new}-pin"),
                "pin": inbox.pin(f"{new}-pin", "text"),
                "fail": inbox.fail(f"{new}-fail", "token"),
                "quarantine": inbox.quarantine(f"{new}-quarantine", "token", make_letter(f"{new}-quarantine")),
                "quarantined": inbox.quarantined(),
                "claim_quarantined": inbox.claim_quarantined(probe.key, "token", lease=LONG),
                "drop_quarantined": inbox.drop_quarantined(probe.key),
            }
            found = await asyncio.gather(*calls.values(), return_exceptions=True)
        for name, result in zip(calls, found, strict=True):
            hold(isinstance(result, InboxError), f"{name}() came to {result!r}, without the storage")
        claim = await inbox.claim(handled, "another token", lease=LONG)
        hold(claim.status is DONE, f"afterwards a claim of what was handled was {claim.status.name}, not DONE")
        hold(await probe.letters() == [letter], "afterwards the quarantine was another one")
        claim = await inbox.claim(new, "another token", lease=LONG)
        hold(claim.status is CLAIMED, f"afterwards a claim of a new key was {claim.status.name}, not CLAIMED")
        hold(await inbox.complete(new, "another token"), "afterwards complete() was not True")


async def raced(make_inbox: MakeInbox) -> None:
    """Of two processes that take the same keys at once, one gets each"""
    keys = [f"{uuid.uuid4()}-{number}" for number in range(50)]
    loop = asyncio.get_running_loop()
    # New processes, not forks: an open connection cannot be used on both sides of a fork.
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        taken = await asyncio.gather(*(loop.run_in_executor(pool, _take_all, make_inbox, keys) for _ in range(2)))
    everything = [key for one in taken for key in one]
    hold(len(set(everything)) == len(keys), f"{len(keys) - len(set(everything))} of {len(keys)} got nobody")
    hold(len(everything) == len(keys), f"{len(everything) - len(keys)} of {len(keys)} got both")


def _take_all(make_inbox: MakeInbox, keys: list[str]) -> list[str]:
    """Handle, in a process of its own, every key that nobody else handles; return them."""

    async def take(inbox: Inbox, key: str) -> list[str]:
        token = uuid.uuid4().hex
        for _ in range(1000):
            claim = await inbox.claim(key, token, lease=LONG)
            if claim.status is CLAIMED:
                hold(await inbox.complete(key, token), "complete() by the holder was not True")
                return [key]
            if claim.status is DONE:
                return []
            await asyncio.sleep(0.002)
        raise AssertionError("a claim was BUSY for ever")

    async def run() -> list[str]:
        async with made(make_inbox) as inbox:
            return [key for wanted in keys for key in await take(inbox, wanted)]

    return asyncio.run(run())
