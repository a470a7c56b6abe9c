"""Job functions, each opened once in a process, and closed by the task that opened it."""

from __future__ import annotations

import asyncio

from ..errors import ConfigurationError
from ._work import JobFunction, Work


class WorkCache:
    """What the job functions of this process yielded. Several callers share one opening."""

    def __init__(self) -> None:
        self._works: dict[str, asyncio.Future[Work]] = {}
        self._holders: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()

    async def get(self, name: str, function: JobFunction) -> Work:
        """The work of a job function, which is opened if it is not yet. One that failed is opened anew."""
        known = self._works.get(name)
        if known is None or (known.done() and known.exception() is not None):
            known = self._works[name] = asyncio.get_running_loop().create_future()
            self._holders.append(asyncio.create_task(self._hold(name, function, known)))
        return await asyncio.shield(known)

    async def aclose(self) -> None:
        """Close all that was opened."""
        self._closing.set()
        if self._holders:
            await asyncio.wait(self._holders)

    async def _hold(self, name: str, function: JobFunction, opened: asyncio.Future[Work]) -> None:
        # Entered and left in one task: what a context manager opens may be bound to it.
        try:
            async with function() as work:
                if not isinstance(work, Work):
                    raise ConfigurationError(f"the job function {name!r} must yield a Work, not {type(work).__name__}")
                opened.set_result(work)
                await self._closing.wait()
        except Exception as exc:
            if opened.done():
                raise
            opened.set_exception(exc)
            opened.exception()
