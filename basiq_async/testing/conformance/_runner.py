"""Run a conformance suite: check each promise separately, and report all broken ones."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from inspect import iscoroutinefunction
from typing import Any, TypeVar, cast

from ..._work.failures import failure_text
from ..._work.limits import limit

T = TypeVar("T")
Check = Callable[[Any], Awaitable[None]]
"""Checks one promise of what it is called with."""


class BrokenPromisesError(AssertionError):
    """An implementation breaks promises of its protocol.

    ``broken`` maps each promise to what happened instead.
    """

    def __init__(self, subject: str, broken: Mapping[str, str]) -> None:
        lines = "".join(f"\n- {promise}: {what}" for promise, what in broken.items())
        super().__init__(f"{subject} breaks {len(broken)} of its promises:{lines}")
        self.broken = dict(broken)


@asynccontextmanager
async def made(make: Callable[[], T | Awaitable[T] | AbstractAsyncContextManager[T]]) -> AsyncGenerator[T]:
    """Make what is checked, and close it at the end: it, or an awaitable of it, or an async context manager."""
    made = make()
    # An inbox may itself be an async context manager, which opens and closes it.
    if isinstance(made, AbstractAsyncContextManager):
        async with made as entered:
            yield cast("T", entered)
        return
    subject = cast("T", await made if isinstance(made, Awaitable) else made)
    try:
        yield subject
    finally:
        close = getattr(subject, "aclose", None)
        if close is not None:
            await close()


def promises_of(kind: type[Any]) -> dict[str, Check]:
    """Return the public methods of a class, each of which checks the promise that its docstring is.

    Under ``python -OO``, which has no docstrings, the promise is the method's name.
    """
    checks = {name: check for name, check in vars(kind).items() if iscoroutinefunction(check)}
    return {check.__doc__ or name: check for name, check in checks.items() if name[0] != "_"}


def hold(kept: bool, otherwise: str) -> None:
    """Raise ``AssertionError`` with the text ``otherwise``, unless ``kept`` is true."""
    if not kept:
        raise AssertionError(otherwise)


async def keep(subject: str, promises: Mapping[str, Callable[[], Awaitable[None]]], *, seconds: float) -> None:
    """Check each promise, for at most ``seconds``. Raises ``BrokenPromisesError`` if any is broken."""
    broken: dict[str, str] = {}
    for promise, attempt in promises.items():
        try:
            async with limit(seconds, AssertionError(f"nothing happened for {seconds:g} s")):
                await attempt()
        except (AssertionError, TimeoutError) as error:
            broken[promise] = str(error) or "an assertion failed"
        except Exception as error:
            broken[promise] = f"it raised {failure_text(error)}"
    if broken:
        raise BrokenPromisesError(subject, broken)
