"""``basiq-async mock``: the fake Basiq over HTTP, for programs in any language.

``mock wait`` waits until a mock is ready.
"""

from __future__ import annotations

import json as json_module
import os
import secrets
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

import attrs
import typer

from .._redaction.text import amount, shell_line
from .._storage.private_files import replace_private
from ..errors import ConfigurationError
from ._command import command
from ._mock_control import TOKEN, MockError, MockPlace, call_mock
from ._mock_control import mock_app as mock_app  # with its commands, and those of this module
from ._options import explain
from ._output import flush, say, write
from ._results import Output, View
from ._run import on_signals

if TYPE_CHECKING:
    from ..testing import FakeBasiq, Quirks


World = Literal["documented", "engine"]
_BETWEEN = 0.05
_HEALTH_TIMEOUT = 5.0
# The line for a shell if no mock is ready. It fails, and later commands do not reach the real API by mistake.
_NO_MOCK = "export BASIQ_BASE_URL=http://no-mock.invalid BASIQ_API_KEY=no-mock; false"


@mock_app.add(shows=View("base_url api_key"))
async def wait(
    output: Output,
    ready_file: Path | None = None,
    timeout: Annotated[float, typer.Option(min=0)] = 30.0,
) -> None:
    """Wait until a mock is ready, then print a line for a shell that exports its URL and API key.

    Waits for the mock of --ready-file, or at BASIQ_BASE_URL with the key BASIQ_API_KEY. If it is not ready in time, the
    exit code is 1, and the printed line fails in the shell too.

    ready_file FILE: The file that 'mock --ready-file FILE' writes.
    timeout: Maximum seconds to wait.
    """
    try:
        found = await _wait(ready_file, timeout)
    except BaseException:  # also after a signal
        if output.json is None:
            write(_NO_MOCK)
        raise
    if output.json is not None:
        output.one(found)
    else:
        write(export_line(found["base_url"], found["api_key"]))


def export_line(base_url: str, api_key: str) -> str:
    """Return a line for a shell that exports the URL and API key of a mock."""
    return shell_line(["export", f"BASIQ_BASE_URL={base_url}", f"BASIQ_API_KEY={api_key}"])


async def _wait(ready_file: Path | None, timeout: float) -> dict[str, Any]:
    import asyncio

    place = None if ready_file is not None else MockPlace.find()
    until = asyncio.get_running_loop().time() + timeout
    while True:
        try:
            ready = attrs.asdict(place) if place is not None else _read_ready(ready_file or Path())
            await call_mock(
                "GET", "/health", place=MockPlace(ready["base_url"], ready["api_key"]), timeout=_HEALTH_TIMEOUT
            )
        except MockError as exc:
            if ready_file is None and exc.code == "another-mock":
                raise
            why = exc
        else:
            return ready
        if asyncio.get_running_loop().time() >= until:
            raise MockError(f"no mock was ready within {timeout:g} s: {why}", status=why.status, code=why.code)
        await asyncio.sleep(_BETWEEN)


def _read_ready(file: Path) -> dict[str, Any]:
    """Read a ready file. Raises ``MockError`` if it does not exist yet, or is not a ready file."""
    try:
        found = json_module.loads(file.read_bytes())
    except FileNotFoundError:
        raise MockError(f"{file} does not exist yet") from None
    except (OSError, ValueError) as exc:
        raise MockError(f"{file} cannot be read: {getattr(exc, 'strerror', None) or 'it is not JSON'}") from None
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in ("base_url", "api_key")):
        raise MockError(f"{file} is not a ready file of a mock")
    return found


@attrs.frozen(kw_only=True)
class MockOptions:
    """The options of a mock.

    host: The address to listen on.
    port: The port to listen on; 0 for any free port.
    api_key: The API key that it accepts. By default it makes a new one.
    seed_messages N: Begin with a webhook that has a history of N messages.
    failed: The share of these messages that were not delivered, 0 to 1.
    seed: Make ids, and what is random, from this seed. The same seed repeats them; secrets and tokens are always new.
    event_type: Add an event type to Basiq's; may be repeated.
    world: What it does where Basiq's documents say nothing.
    quirk NAME=FORM: One form or rule that differs from the world; may be repeated.
    latency: The seconds that every response takes.
    speed: How many times faster than real time its clock runs.
    cool_off: The seconds until a new webhook is active.
    ready_file FILE: Write the URL and API key to this file once it is ready.
    deliver_to HOST: Deliver to this host; may be repeated. By default only to this machine.
    deliver_anywhere: Deliver to endpoints on other machines too.
    allow_host NAME: Allow this name in the Host header too; may be repeated.
    """

    context: typer.Context
    host: str = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535)] = 4010
    api_key: str | None = attrs.field(default=None, repr=False)
    seed_messages: Annotated[int, typer.Option(min=0)] = 0
    failed: Annotated[float, typer.Option(min=0, max=1)] = 0.0
    seed: str | None = None
    event_type: list[str] | None = None
    world: World = "documented"
    quirk: list[str] | None = None
    latency: Annotated[float, typer.Option(min=0)] = 0.0
    speed: float = 1.0
    cool_off: Annotated[float, typer.Option(min=0)] = 900.0
    ready_file: Path | None = None
    deliver_to: list[str] | None = None
    deliver_anywhere: bool = False
    allow_host: list[str] | None = None


@mock_app.callback()
@command(shows=View("base_url api_key seed webhook_id page control_token"))
def mock(output: Output, options: MockOptions) -> Awaitable[None] | None:
    """Serve a fake Basiq over HTTP until SIGINT or SIGTERM. The command 'mock call' controls a mock that runs.

    When the mock is ready, it prints a line for a shell that exports BASIQ_BASE_URL and BASIQ_API_KEY, or one JSON
    object with --json. Its page shows each request and each delivery.
    """
    return None if options.context.invoked_subcommand is not None else _serve(options, output)


def _make_fake(options: MockOptions) -> FakeBasiq:
    from ..testing import FakeBasiq, SystemClock

    if options.api_key == "":
        raise ConfigurationError("--api-key is empty; omit it to have a new key at every start")
    return FakeBasiq(
        clock=SystemClock(options.speed),
        api_keys=[options.api_key or FakeBasiq.make_api_key()],
        seed=options.seed,
        cool_off=options.cool_off,
        latency=options.latency,
        quirks=_quirks(options.world, options.quirk or ()),
        event_types=dict.fromkeys(options.event_type or (), "an event type of this mock"),
    )


async def _serve(options: MockOptions, output: Output) -> None:
    """Serve until a signal. The ready file exists only while the mock serves."""
    import asyncio

    from ..testing import serve

    fake = _make_fake(options)
    seeded = options.seed_messages
    webhook_id = fake.seed_messages(seeded, failed=options.failed) if seeded else None
    token = os.environ.get(TOKEN) or secrets.token_urlsafe(16)
    serving = serve(
        fake,
        options.host,
        options.port,
        control_token=token,
        deliver_to=options.deliver_to,
        deliver_anywhere=options.deliver_anywhere,
        allowed_hosts=options.allow_host or (),
    )
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(on_signals(lambda _: stop.set()))
        try:
            base_url = await stack.enter_async_context(serving)
        except OSError as exc:
            address = f"{options.host}:{options.port}"
            raise ConfigurationError(f"cannot listen on {address}: {exc.strerror or exc}") from exc
        page = f"{base_url}/_fake/~{quote(token, safe='')}/"
        ready = {
            "base_url": base_url,
            "api_key": fake.api_key,
            "seed": str(fake.seed),
            "webhook_id": webhook_id,
            "page": page,
            "control_token": token,
        }
        if options.ready_file is not None:
            _write_ready(options.ready_file, ready)
            stack.callback(options.ready_file.unlink, missing_ok=True)
        if output.json is not None:
            output.one(ready)
        else:
            write(export_line(base_url, fake.api_key))
            flush()
        say(f"ready at {base_url}; its page is at {page}")
        say(f"its ids are made from the seed {fake.seed}; --seed repeats them", seed=str(fake.seed))
        if webhook_id is not None:
            count = amount(fake.count_messages(webhook_id), "message", "messages")
            say(f"webhook {webhook_id} has {count}", webhook_id=webhook_id)
        await stop.wait()


def _write_ready(file: Path, ready: Mapping[str, object]) -> None:
    try:
        replace_private(file, json_module.dumps(ready).encode())
    except OSError as exc:
        raise ConfigurationError(f"the ready file {file} cannot be written: {explain(exc)}") from None


def _quirks(world: World, given: Sequence[str]) -> Quirks:
    from ..testing import Quirks

    known = Quirks.forms()
    chosen: dict[str, str | int] = {}
    for each in given:
        name, _, form = each.partition("=")
        name = name.replace("-", "_")
        if name == "concurrency" and form.isdecimal():
            chosen[name] = int(form)
            continue
        if form not in known.get(name, ()):
            forms = "; ".join(f"{name.replace('_', '-')}={'|'.join(forms)}" for name, forms in known.items())
            forms += "; concurrency=N"
            raise ConfigurationError(f"--quirk must be one of {forms}, not {each!r}")
        chosen[name] = form
    base = Quirks.engine() if world == "engine" else Quirks()
    return attrs.evolve(base, **chosen)  # type: ignore[arg-type]  # the forms were checked above
