"""``basiq-async demo``: the main job, run as a user would."""

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    in_memory: Annotated[bool, typer.Option("--in-memory", help="The same without a socket.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Read, and only read, the real API; needs BASIQ_API_KEY.")
    ] = False,
    messages: Annotated[int, typer.Option(min=1, help="How many messages to stream.")] = 20_000,
) -> None:
    """Run the main job: subscribe, test, stream a history, meet an error, unsubscribe."""
    from ._story import tell

    tell(in_memory=in_memory, live=live, messages=messages)
