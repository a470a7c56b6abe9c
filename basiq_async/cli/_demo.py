"""``basiq-async demo``: a service has an outage, and then gets everything that it missed."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BasiqError, ConfigurationError, ServerError
from ..models import Secret
from ._completion import option
from ._output import Styled, is_terminal, live, write, write_lines
from ._run import run, run_until_signal

if TYPE_CHECKING:
    from aiohttp import web

    from ..client import BasiqClient
    from ..models import Message
    from ..pagination import Paginator
    from ..receiver import Delivery, WebhookReceiver
    from ..replay import Recovery
    from ..testing import FakeBasiq


# Slow modules are imported only when the demo runs, so that --help is fast.
def demo(
    live: Annotated[bool, option("Read the real API, without changes; needs an API key.", "--live")] = False,
    messages: Annotated[int, typer.Option(min=1, metavar="N", help="How many messages to stream.")] = 200_000,
) -> None:
    """Show a service's outage and recovery over real HTTP: no event is lost or handled twice. Then stream a history.

    Each step is checked. If one fails, the demo ends with the exit code 1. Without --live, nothing leaves this machine.
    """

    if live:
        run(lambda basiq: read_live(basiq, messages))
    else:
        run_until_signal(lambda: tell(messages))


_EVENTS = ("consent.revoked", "consent.expired", "account.updated")
_BEFORE, _DURING, _DISABLED = 12, 20, 9
_REPORT_EVERY = 50_000
_START = 60.0
"""Seconds that the mock may take to start."""


class UntrueError(BasiqError):
    """A statement of the demo did not come true."""


class Steps:
    """Prints each step with the fake's time, and raises ``UntrueError`` for a statement that is not true."""

    def __init__(self, fake: FakeBasiq | None = None) -> None:
        self._fake = fake
        self._began = None if fake is None else fake.now()

    def chapter(self, title: str) -> None:
        """Print the title of a part."""
        write("")
        write(Styled(title, "bold"))

    def confirm(self, text: str, *, true: bool = True) -> None:
        """Print a statement as ``ok``. Raises ``UntrueError`` if it is not true."""
        if not true:
            raise UntrueError(f"this did not come true: {text}")
        write(Styled(self._clock(), "dim"), "  ", Styled("ok", "green"), f"  {text}")

    def narrate(self, text: str) -> None:
        """Print a statement that is not checked."""
        write(Styled(self._clock(), "dim"), f"      {text}")

    def _clock(self) -> str:
        if self._fake is None or self._began is None:
            return "live"
        passed = self._fake.now() - self._began
        return f"day {passed.days + 1} {(datetime.min + passed):%H:%M:%S}"


async def tell(messages: int) -> None:
    """Run the demo over real HTTP, on the fake's clock. Raises ``UntrueError`` if a statement is not true."""
    import tempfile

    from ..client import BasiqClient
    from ..testing import FakeBasiq, ManualClock, serve

    began = time.perf_counter()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # The demo begins 4 days ago, so that its events are within the last 7 days, which the event list covers.
        fake = FakeBasiq(clock=ManualClock((datetime.now(UTC) - timedelta(days=4)).replace(microsecond=0)))
        steps = Steps(fake)
        service = Service(folder)
        stack.push_async_callback(service.aclose)
        base_url = await stack.enter_async_context(serve(fake))
        basiq = await stack.enter_async_context(BasiqClient(fake.api_key, base_url=base_url))
        await service.start()
        write(f"An embedded Basiq is at {base_url}, a service at {service.url}.")
        webhook_id = await _subscribe(steps, fake, basiq, service)
        await _go_down(steps, fake, service)
        await _come_back(steps, fake, basiq, service, folder, webhook_id)
        await _stream_history(steps, messages)
    write("")
    took = time.perf_counter() - began
    write(Styled("All of it came true", "bold"), f", in {took:.1f} s. The program that recovers,")
    write("examples/recover_after_outage.py:")
    write("")
    write_lines(example_source().splitlines())


async def _subscribe(steps: Steps, fake: FakeBasiq, basiq: BasiqClient, service: Service) -> str:
    steps.chapter("Subscribe")
    webhook = await basiq.webhooks.ensure(url=service.url, subscribed_events=_EVENTS, name="demo")
    steps.confirm(
        f"webhook {webhook.id} is {webhook.status}; its secret shows as {webhook.secret}", true=bool(webhook.secret)
    )
    assert webhook.secret is not None  # noqa: S101  # the step above checked it
    service.subscribe(webhook.id, webhook.secret)
    await fake.advance(minutes=15)
    active = await basiq.webhooks.wait_until_active(webhook.id, timeout=5)
    steps.confirm(f"after the cool-off of 15 minutes it is {active.status}")
    _happen(fake, _BEFORE)
    await fake.deliver()
    steps.confirm(f"{_BEFORE} events happen, each is delivered and handled", true=len(service.handled) == _BEFORE)
    return webhook.id


async def _go_down(steps: Steps, fake: FakeBasiq, service: Service) -> None:
    steps.chapter("The service goes down")
    await fake.advance(hours=1)
    await service.stop()
    _happen(fake, _DURING)
    steps.narrate(f"{_DURING} events happen; connections to the service are refused")
    before = fake.now()
    await fake.deliver()
    attempt = 1
    steps.narrate(f"attempt {attempt} of each fails at once")
    while (due := fake.next_due) is not None:
        waited = due - before
        await fake.advance(due - fake.now())
        attempt += 1
        steps.narrate(f"attempt {attempt} of each fails, {_length(waited)} later")
        before = due
    steps.confirm("that was the documented schedule, to its end", true=attempt == 8)


async def _come_back(
    steps: Steps, fake: FakeBasiq, basiq: BasiqClient, service: Service, folder: Path, webhook_id: str
) -> None:
    webhook = await basiq.webhooks.get(webhook_id)
    steps.confirm(
        f"Basiq has disabled the endpoint: the webhook is {webhook.status}", true=webhook.status == "disabled"
    )
    await fake.advance(hours=1)
    emitted = _happen(fake, _DISABLED)
    steps.confirm(f"{_DISABLED} more events happen; Basiq makes no messages of them", true=emitted == 0)
    steps.chapter("The service comes back")
    await fake.advance(hours=2)
    await service.start()
    missing = _BEFORE + _DURING + _DISABLED - len(service.handled)
    steps.narrate(f"{missing} events never reached it")
    recovery = await catch_up(basiq, service.receiver, service.url, folder, _EVENTS)
    messages, events = recovery.messages, recovery.events
    webhook = await basiq.webhooks.get(webhook_id)
    steps.confirm(f"ensure: the webhook is {webhook.status} again", true=webhook.status == "active")
    known = messages.skipped.get("handled-before", 0)
    steps.confirm(
        f"recover, from its messages: {messages.handled} are handled, {known} were known",
        true=messages.handled == _DURING,
    )
    steps.confirm(
        f"recover, from the events of 7 days: {events.handled} that never became a message are handled",
        true=events.handled == _DISABLED and recovery.finished,
    )
    found = await _count_unreconciled(basiq, webhook_id, service)
    every = _BEFORE + _DURING + _DISABLED
    steps.confirm(f"reconcile: nothing is missing, and each of the {every} events was handled once", true=found == 0)
    steps.confirm(
        f"{every} events, {service.handled.total()} times handled",
        true=len(service.handled) == service.handled.total() == every,
    )
    tokens = sum(request.url.endswith("/token") for request in fake.requests)
    steps.confirm(
        f"{len(fake.requests)} requests, {tokens} tokens (each lives an hour), no misuse of the API",
        true=not fake.violations,
    )


async def _count_unreconciled(basiq: BasiqClient, webhook_id: str, service: Service) -> int:
    from ..replay import MemoryCheckpoint, Replay

    job = Replay(basiq, webhook_id, service.receiver, checkpoint=MemoryCheckpoint())
    found = await job.reconcile(service.inbox)
    return found.missing + found.undelivered


async def _stream_history(steps: Steps, count: int) -> None:
    from ..client import BasiqClient

    steps.chapter("A long history, from a mock in a process of its own")
    async with _mock(count) as ready, BasiqClient(ready["api_key"], base_url=ready["base_url"]) as basiq:
        streamed = await stream(basiq.messages.list(ready["webhook_id"]), count)
        steps.confirm(streamed.text, true=streamed.seen == count == streamed.distinct)


@asynccontextmanager
async def _mock(messages: int) -> AsyncIterator[dict[str, str]]:
    """Run ``basiq-async mock``, and yield the JSON object that it prints when it is ready."""
    import asyncio

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from basiq_async.cli import main; main()",
        "mock", "--port", "0", "--json", "--seed-messages", str(messages),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None  # noqa: S101  # because stdout is a pipe
        async with asyncio.timeout(_START):
            line = await process.stdout.readline()
        if not line:
            raise UntrueError("this did not come true: a mock starts in a process of its own")
        ready: dict[str, str] = json.loads(line)
        yield ready
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()


async def read_live(basiq: BasiqClient, most: int) -> None:
    """Read from the real API, without changing anything."""
    steps = Steps()
    kinds = [kind.id async for kind in basiq.event_types.list()]
    steps.confirm(f"{len(kinds)} types of event: {', '.join(kinds[:3])} and so on", true=bool(kinds))
    webhooks = await basiq.webhooks.list().collect()
    steps.confirm(f"{len(webhooks)} webhooks")
    for webhook in webhooks:
        streamed = await stream(basiq.messages.list(webhook.id), most, stop=most)
        steps.confirm(f"webhook {webhook.id} ({webhook.status}): {streamed.text}")
    try:
        await basiq.webhooks.get("00000000-0000-4000-8000-000000000000")
    except BasiqError as exc:
        if isinstance(exc, (ServerError, ConfigurationError)):
            raise
        steps.confirm(f"an error as you see it: {type(exc).__name__}: {exc}")
    write("")
    write(Styled("Nothing was changed", "bold"), ": every request except the token request was a GET.")


class Streamed:
    """Counts the messages of a history that is streamed."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._ids: set[int] = set()
        self.seen = 0

    def add(self, message: Message) -> None:
        """Count a message."""
        self.seen += 1
        self._ids.add(hash(message.id))

    @property
    def distinct(self) -> int:
        """How many different messages there were."""
        return len(self._ids)

    @property
    def text(self) -> str:
        """The count, the rate and the peak memory, as a sentence."""
        took = time.perf_counter() - self._began
        rate = self.seen / took if took else 0.0
        return f"streamed {self.seen:,} messages in {took:.1f} s: {rate:,.0f} a second, {_peak()}"


async def stream(paginator: Paginator[Message], total: int, stop: int | None = None) -> Streamed:
    """Stream a history, with its progress on the screen."""
    from ._runs import draw_bar

    streamed = Streamed()
    terminal = is_terminal(sys.stderr)
    async for message in paginator:
        streamed.add(message)
        if streamed.seen % 2_000 == 0 and terminal:
            live(draw_bar(streamed.seen, total, streamed.text))
        if streamed.seen % _REPORT_EVERY == 0 and not terminal:
            write(f"    {streamed.seen:,} messages")
        if streamed.seen == stop:
            break
    live(None)
    return streamed


def _happen(fake: FakeBasiq, count: int) -> int:
    """Make the fake emit events, and return how many messages it made of them."""
    emissions = [fake.emit(_EVENTS[number % len(_EVENTS)]) for number in range(count)]
    return sum(len(emission.message_ids) for emission in emissions)


def _length(span: timedelta) -> str:
    seconds = round(span.total_seconds())
    for size, name in ((3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size and seconds % size == 0:
            count = seconds // size
            return f"{count} {name}{'s' if count != 1 else ''}"
    return f"{seconds} seconds"


def _peak() -> str:
    try:
        import resource
    except ImportError:  # Windows does not have this module
        return "peak memory unknown"
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mebibytes = used / 2**20 if sys.platform == "darwin" else used / 2**10
    return f"peak memory {mebibytes:.0f} MiB"


class Service:
    """A service with a receiver and an inbox. It can stop, and start again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.handled: Counter[str] = Counter()
        """How often each event was handled, by its id."""
        from ..receiver import SQLiteInbox

        self.inbox = SQLiteInbox(folder / "inbox.db")
        self._receiver: WebhookReceiver | None = None
        self._running = AsyncExitStack()
        self._port = 0

    @property
    def receiver(self) -> WebhookReceiver:
        """The receiver. Raises ``RuntimeError`` before ``subscribe``."""
        if self._receiver is None:
            raise RuntimeError("subscribe first")
        return self._receiver

    @property
    def url(self) -> str:
        """The URL that deliveries are posted to."""
        return f"http://127.0.0.1:{self._port}/basiq"

    def subscribe(self, webhook_id: str, secret: Secret) -> None:
        """Make the receiver with the id and the signing secret of a webhook."""
        from ..receiver import WebhookReceiver

        self._receiver = WebhookReceiver(secret, webhook_id=webhook_id, inbox=self.inbox)
        self._receiver.on("*")(self._handle)

    async def start(self) -> None:
        """Listen on a free port, or on the port of the last start."""
        from aiohttp import web

        from .._web.serving import listening

        app = web.Application()
        app.router.add_post("/basiq", self._receive)
        address = await self._running.enter_async_context(listening(app, port=self._port))
        self._port = address.port

    async def stop(self) -> None:
        """Stop listening: connections are refused."""
        running, self._running = self._running, AsyncExitStack()
        await running.aclose()

    async def aclose(self) -> None:
        """Stop, and close the receiver and its inbox."""
        await self.stop()
        if self._receiver is not None:
            await self._receiver.aclose()
        await self.inbox.aclose()

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        return await self.receiver.aiohttp_handler(request)

    async def _handle(self, delivery: Delivery) -> None:
        self.handled[delivery.event_id] += 1


_EXAMPLE = "recover_after_outage.py"


def example_file() -> Path:
    """Return the path of the example program: beside this file in a wheel, in examples/ of the sources."""
    packaged = Path(__file__).with_name(f"_example_{_EXAMPLE}")
    return packaged if packaged.exists() else Path(__file__).parents[2] / "examples" / _EXAMPLE


def example_source() -> str:
    """Return the text of the example program."""
    return example_file().read_text(encoding="utf-8").rstrip()


def catch_up(
    basiq: BasiqClient, receiver: WebhookReceiver, url: str, folder: Path, events: Sequence[str]
) -> Awaitable[Recovery]:
    """Run the function ``catch_up`` of the example program."""
    found: Awaitable[Recovery] = _load_example().catch_up(basiq, receiver, url, folder, events)
    return found


@cache
def _load_example() -> Any:
    spec = importlib.util.spec_from_file_location("basiq_async_demo_program", example_file())
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{example_file()} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
