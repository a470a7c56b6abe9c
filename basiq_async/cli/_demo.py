"""``basiq-async demo``: an outage, and how everything that was missed is brought."""

from __future__ import annotations

from typing import Annotated

import typer

from ._run import run, run_until_signal


def demo(
    live: Annotated[
        bool, typer.Option("--live", help="Read, and only read, the real API; needs a key.", show_default=False)
    ] = False,
    messages: Annotated[int, typer.Option(min=1, metavar="N", help="How many messages to stream.")] = 200_000,
) -> None:
    """Tell a story over real HTTP: subscribe, an outage, recovery, nothing lost, nothing twice; then stream a history.

    Every step is checked; the first that does not come true ends the demo with 1. Nothing leaves this machine.
    """
    from ._story import read_live, tell

    if live:
        run(lambda basiq: read_live(basiq, messages))
    else:
        run_until_signal(lambda: tell(messages))
