"""``--ui``: the page of a replay, for as long as there is something to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ._output import note
from ._signals import on_signals

if TYPE_CHECKING:
    from ..replay import Replay

_LEFT = 1


async def run_with_page(job: Replay, run: Callable[[], Awaitable[int]], *, wanted: bool) -> int:
    """Run a job, with its page if that is wanted; returns the exit code.

    Where messages failed, the page stays until a signal, so that they can be retried and dropped there.
    """
    if not wanted:
        return await run()
    from ..replay import serve_page

    async with serve_page(job) as url:
        note(f"the page is at {url}")
        code = await run()
        if code != _LEFT or not await job.dead_letters(limit=1):
            return code
        note(f"messages failed: retry or drop them at {url}; Ctrl-C ends it")
        stop = asyncio.Event()
        with on_signals(lambda _: stop.set()):
            await stop.wait()
        return _LEFT if await job.dead_letters(limit=1) else 0
