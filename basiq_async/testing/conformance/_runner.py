"""Run a conformance suite: check each promise separately, and report all broken ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

P = TypeVar("P")


class BrokenPromisesError(AssertionError):
    """An implementation breaks promises of its protocol.

    ``broken`` maps each promise to what happened instead.
    """

    def __init__(self, subject: str, broken: Mapping[str, str]) -> None:
        lines = "".join(f"\n- {promise}: {what}" for promise, what in broken.items())
        super().__init__(f"{subject} breaks {len(broken)} of its promises:{lines}")
        self.broken = dict(broken)


class Promises(Generic[P]):
    """The functions that each check one promise. The promise is the function's docstring."""

    def __init__(self) -> None:
        self.checks: dict[str, Callable[[P], Awaitable[None]]] = {}

    def __call__(self, check: Callable[[P], Awaitable[None]]) -> Callable[[P], Awaitable[None]]:
        self.checks[promise_of(check)] = check
        return check


def promise_of(check: Callable[..., object]) -> str:
    return (check.__doc__ or check.__name__).strip().rstrip(".")


def hold(kept: bool, otherwise: str) -> None:
    """Raise ``AssertionError`` with the text ``otherwise``, unless ``kept`` is true."""
    if not kept:
        raise AssertionError(otherwise)


async def keep(subject: str, promises: Mapping[str, Callable[[], Awaitable[None]]], *, seconds: float) -> None:
    """Check each promise, for at most ``seconds``. Raises ``BrokenPromisesError`` if any is broken."""
    broken: dict[str, str] = {}
    for promise, attempt in promises.items():
        try:
            async with asyncio.timeout(seconds):
                await attempt()
        except AssertionError as error:
            broken[promise] = str(error) or "an assertion failed"
        except TimeoutError as error:
            broken[promise] = str(error) or f"nothing happened for {seconds:g} s"
        except Exception as error:
            broken[promise] = f"it raised {type(error).__name__}: {error}"
    if broken:
        raise BrokenPromisesError(subject, broken)
