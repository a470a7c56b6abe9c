"""The command line in a process of its own that polls, and tries a message again, after a hundredth of the time."""

from __future__ import annotations

from functools import partial
from typing import Any


def main() -> None:
    from basiq_async import cli
    from basiq_async.cli import _polling, _run  # private: no option polls faster than each second
    from basiq_async.transports import retry

    follow_up = _polling.follow_up

    async def hurry(poll: Any, *, first: float, **more: Any) -> None:
        await follow_up(poll, first=first / 100, **more)

    _polling.follow_up, _run._FIRST_WAIT = hurry, 0.02
    retry.RetryPolicy = partial(retry.RetryPolicy, base=0.005)  # type: ignore[assignment,misc]
    cli.main()
