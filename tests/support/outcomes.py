"""Run a scenario: it must have one outcome, in limited time, show no credential, and leave no task or connection."""

from __future__ import annotations

import asyncio
import gc
import traceback
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from basiq_async import BasiqClient, BasiqError, RetryPolicy
from tests.support.frames import chain, leaks
from tests.support.wire import KEY, MARK, Wire

ONCE = RetryPolicy(max_retries=0)
QUICK = RetryPolicy(max_retries=3, base=0.001, max_wait=0.02)
TIMEOUT = 0.25


@asynccontextmanager
async def client_of(wire: Wire | str, **options: Any) -> AsyncIterator[BasiqClient]:
    """Yield a client. At the end, close it and check that no task, connection or warning is left."""
    options.setdefault("retry", ONCE)
    options.setdefault("timeout", TIMEOUT)
    url = wire if isinstance(wire, str) else wire.url
    before = asyncio.all_tasks()
    client = BasiqClient(KEY, base_url=url, allow_http=True, **options)
    try:
        yield client
    finally:
        await client.aclose()
        if isinstance(wire, Wire):
            await wire.quiet()
        # A task of the server's side, such as a TLS handshake that is being refused, ends a moment later.
        left = [task for task in asyncio.all_tasks() - before if not task.done()]
        if left:
            await asyncio.wait(left, timeout=5.0)
        assert all(task.done() for task in left), f"tasks left behind: {left}"
        del client
        gc.collect()
        gc.freeze()  # what is left is no garbage: the next collection need not look through it


async def outcome(work: Awaitable[Any], *, within: float = TIMEOUT + 1.0) -> Any:
    """Return the result of ``work``, or its ``BasiqError``. Any other error, or a late result, fails the test."""
    clock = asyncio.get_running_loop().time
    began = clock()
    got: Any
    try:
        got = await work
    except BasiqError as exc:
        got = exc
    took = clock() - began
    assert took < within, f"took {took:.2f} s"
    if isinstance(got, BaseException):
        assert_hidden(got)
    return got


def assert_hidden(exc: BaseException) -> None:
    """Check that an error, its causes, their tracebacks and the variables of their frames show no credential."""
    for text in texts_of(exc):
        assert MARK not in text, text
    assert not leaks(exc), leaks(exc)


def texts_of(exc: BaseException) -> Iterator[str]:
    yield "".join(traceback.format_exception(exc))
    for one in chain(exc):
        yield from (str(one), repr(one), repr(one.args), repr(getattr(one, "__dict__", None)))
