"""``basiq-async mock``: the fake Basiq over HTTP, for programs in any language."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from ..errors import ConfigurationError
from ._options import Json
from ._output import Output, Shape, flush, note, write
from ._run import guarded
from ._signals import on_signals

mock_app = typer.Typer(invoke_without_command=True)

_READY: Shape[dict[str, Any]] = Shape(("base_url", "api_key", "webhook_id"), lambda row: row)


@mock_app.callback()
def mock(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")] = 4010,
    seed_messages: Annotated[
        int, typer.Option(min=0, metavar="N", help="Begin with a webhook that has a history of N messages.")
    ] = 0,
    speed: Annotated[
        float, typer.Option(help="How many times as fast time goes by for it: cool-off, retries, tokens.")
    ] = 1.0,
    cool_off: Annotated[float, typer.Option(min=0, help="Seconds until a new webhook is active.")] = 900.0,
    deliver_anywhere: Annotated[
        bool, typer.Option("--deliver-anywhere", help="Deliver to endpoints outside this machine too.")
    ] = False,
    json: Json = None,
) -> None:
    """Serve a fake Basiq over HTTP until SIGINT or SIGTERM.

    Prints what a shell can evaluate, BASIQ_BASE_URL and BASIQ_API_KEY, when it can be called.
    """
    if context.invoked_subcommand is None:
        guarded(lambda: _serve(Output(json), host, port, seed_messages, speed, cool_off, deliver_anywhere))


async def _serve(
    output: Output, host: str, port: int, seed_messages: int, speed: float, cool_off: float, deliver_anywhere: bool
) -> None:
    from ..testing import FakeBasiq, SystemClock, serve

    try:
        clock = SystemClock(speed)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc
    fake = FakeBasiq(clock=clock, cool_off=cool_off)
    webhook_id = fake.seed_messages(seed_messages) if seed_messages else None
    stop = asyncio.Event()
    with on_signals(lambda _: stop.set()):
        try:
            async with serve(fake, host, port, deliver_anywhere=deliver_anywhere) as base_url:
                if output.json is not None:
                    output.one({"base_url": base_url, "api_key": fake.api_key, "webhook_id": webhook_id}, _READY)
                else:
                    write(f"export BASIQ_BASE_URL={base_url} BASIQ_API_KEY={fake.api_key}")
                    flush()
                note(f"ready at {base_url}", base_url=base_url)
                if webhook_id is not None:
                    note(f"webhook {webhook_id} has {seed_messages:,} messages")
                await stop.wait()
        except OSError as exc:
            raise ConfigurationError(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
