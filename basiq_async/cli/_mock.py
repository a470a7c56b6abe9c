"""``basiq-async mock``: the fake Basiq over HTTP, for programs in any language."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from ..errors import ConfigurationError
from ._run import guarded


def mock(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")] = 4010,
    seed_messages: Annotated[
        int, typer.Option(min=0, help="Begin with a webhook that has a history of so many messages.")
    ] = 0,
    speed: Annotated[
        float, typer.Option(help="How many times as fast time goes by for it: cool-off, retries, tokens.")
    ] = 1.0,
    cool_off: Annotated[float, typer.Option(min=0, help="Seconds until a new webhook is active.")] = 900.0,
    deliver_anywhere: Annotated[
        bool, typer.Option("--deliver-anywhere", help="Deliver to endpoints outside this machine too.")
    ] = False,
) -> None:
    """Serve a fake Basiq over HTTP until it is interrupted or terminated.

    Prints one line that begins with "ready" and the base URL when it can be called, and the API key to use.
    """
    guarded(lambda: _serve(host, port, seed_messages, speed, cool_off, deliver_anywhere))


async def _serve(
    host: str, port: int, seed_messages: int, speed: float, cool_off: float, deliver_anywhere: bool
) -> None:
    from ..testing import FakeBasiq, SystemClock, serve

    try:
        clock = SystemClock(speed)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc
    fake = FakeBasiq(clock=clock, cool_off=cool_off)
    told = [f"api key {fake.api_key}"]
    if seed_messages:
        told.append(f"webhook {fake.seed_messages(seed_messages)} with {seed_messages} messages")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        async with serve(fake, host, port, deliver_anywhere=deliver_anywhere) as base_url:
            typer.echo(", ".join([f"ready {base_url}", *told]))
            await stop.wait()
    except OSError as exc:
        raise ConfigurationError(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
