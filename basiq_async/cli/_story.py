"""``basiq-async demo``: the main job, run as a user would."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..client import BasiqClient
from ..errors import BasiqError, ConfigurationError, NotFoundError
from ..models import Message
from ..pagination import Paginator
from ..testing import FakeBasiq
from ._run import guarded, make_client

_ENDPOINT = "https://example.com/basiq"
_EVENTS = ("consent.revoked", "consent.expired", "account.updated")
_REPORT_EVERY = 5_000

_PROGRAM = """\
from basiq_async import BasiqClient, NotFoundError
async with BasiqClient() as basiq:
    webhook = await basiq.webhooks.create(url=url, subscribed_events=["consent.revoked"])
    types = await basiq.event_types.list().collect()
    await basiq.messages.send_test("consent.revoked")
    async for message in basiq.messages.list(webhook.id):
        print(message.id, message.event_type_id, message.delivered)
    try: await basiq.messages.get(webhook.id, unknown_id)
    except NotFoundError as error: print(error)
    await basiq.webhooks.delete(webhook.id)
"""


def console(*, stderr: bool = False) -> Console:
    """A console that sends control characters to a terminal alone."""
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    width = None if terminal else 120
    return Console(file=stream, force_terminal=terminal, no_color=not terminal, width=width, highlight=False)


class _Untrue(Exception):
    """Something that the demo says did not come true."""


class _Steps:
    """Shows each step, and refuses to go on where what it says is not so."""

    def __init__(self, out: Console) -> None:
        self.out = out
        self.count = 0

    def done(self, text: str, *, true: bool = True) -> None:
        if not true:
            raise _Untrue(text)
        self.count += 1
        self.out.print(f"[green]{self.count:>2}.[/] {escape(text)}", soft_wrap=True)


def tell(*, in_memory: bool, live: bool, messages: int) -> None:
    """Run the demo; a step that does not come true ends it with 1."""
    out = console()

    async def main() -> None:
        if live and in_memory:
            raise ConfigurationError("--live and --in-memory exclude each other")
        if live:
            await _read_live(_Steps(out), messages)
        else:
            await _embedded(_Steps(out), in_memory, messages)

    try:
        guarded(main)
    except _Untrue as exc:
        console(stderr=True).print(f"[bold red]not true:[/] {escape(str(exc))}")
        raise typer.Exit(1) from None


@asynccontextmanager
async def _client(fake: FakeBasiq, in_memory: bool) -> AsyncIterator[tuple[BasiqClient, str]]:
    if in_memory:
        from ..transports.memory import InMemoryTransport

        async with BasiqClient(fake.DEFAULT_API_KEY, transport=InMemoryTransport(fake)) as basiq:
            yield basiq, "in memory, without a socket"
    else:
        from ..testing.server import serve

        async with serve(fake) as base_url, BasiqClient(fake.DEFAULT_API_KEY, base_url=base_url) as basiq:
            yield basiq, f"over HTTP at {base_url}"


async def _embedded(steps: _Steps, in_memory: bool, count: int) -> None:
    began = time.perf_counter()
    fake = FakeBasiq()

    async def endpoint(headers: object, body: bytes) -> int:
        return 204

    fake.route(_ENDPOINT, endpoint)
    async with _client(fake, in_memory) as (basiq, where):
        steps.done(f"an embedded Basiq answers {where}")
        webhook = await basiq.webhooks.create(url=_ENDPOINT, subscribed_events=_EVENTS, name="demo")
        steps.done(
            f"created webhook {webhook.id}: {webhook.status}, its secret shows as {webhook.secret}",
            true=webhook.secret is not None and webhook.subscribed_events == _EVENTS,
        )
        await fake.advance(minutes=15)
        active = await basiq.webhooks.wait_until_active(webhook.id, timeout=5)
        steps.done(f"after the cool-off of 15 minutes (on its own clock) it is {active.status}")
        kinds = [kind.id async for kind in basiq.event_types.list()]
        steps.done(f"{len(kinds)} types of event: {', '.join(kinds[:3])}, …", true=set(_EVENTS) <= set(kinds))
        await basiq.messages.send_test("consent.revoked", text="hello")
        await fake.deliver()
        test = await basiq.messages.list(webhook.id).first()
        steps.done(
            f"sent a test message, and its delivery was answered with {test.attempts[0].status_code}"
            if test is not None and test.delivered
            else "the test message is in the history, and was delivered",
            true=test is not None and test.delivered,
        )
        fake.seed_messages(count, webhook.id)
        streamed = await _stream(steps.out, basiq.messages.list(webhook.id), count + 1)
        steps.done(streamed.text, true=streamed.seen == count + 1 == streamed.distinct)
        try:
            await basiq.messages.get(webhook.id, "00000000-0000-4000-8000-000000000000")
        except NotFoundError as exc:
            steps.done(f"an error as you see it:\n    {type(exc).__name__}: {exc}", true=exc.status == 404)
        else:
            raise _Untrue("a message that does not exist is a NotFoundError")
        await basiq.webhooks.delete(webhook.id)
        steps.done("deleted the webhook", true=await basiq.webhooks.list().collect() == [])
        tokens = sum(request.url.endswith("/token") for request in fake.requests)
        steps.done(
            f"{len(fake.requests)} requests on {tokens} token, no misuse of the API",
            true=tokens == 1 and not fake.violations,
        )
    steps.out.print(f"\n[bold]All of it true[/], in {time.perf_counter() - began:.1f} s. The same in ten lines:\n")
    steps.out.print(escape(_PROGRAM))


async def _read_live(steps: _Steps, most: int) -> None:
    async with make_client() as basiq:
        kinds = [kind.id async for kind in basiq.event_types.list()]
        steps.done(f"{len(kinds)} types of event: {', '.join(kinds[:3])}, …", true=bool(kinds))
        webhooks = await basiq.webhooks.list().collect()
        steps.done(f"{len(webhooks)} webhooks")
        for webhook in webhooks:
            streamed = await _stream(steps.out, basiq.messages.list(webhook.id), most, stop=most)
            steps.done(f"webhook {webhook.id} ({webhook.status}): {streamed.text}")
        try:
            await basiq.webhooks.get("00000000-0000-4000-8000-000000000000")
        except BasiqError as exc:
            steps.done(f"an error as you see it:\n    {type(exc).__name__}: {exc}")
    steps.out.print("\n[bold]Nothing was changed[/]: every request was a GET, but for the token.")


class _Streamed:
    """What came of streaming a history."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seen = 0
        self._ids: set[str] = set()

    def add(self, message: Message) -> None:
        self.seen += 1
        self._ids.add(message.id)

    @property
    def distinct(self) -> int:
        return len(self._ids)

    @property
    def text(self) -> str:
        took = time.perf_counter() - self.began
        return f"streamed {self.seen:,} messages in {took:.2f} s: {self.seen / took:,.0f} a second, {_peak()}"


def _peak() -> str:
    try:
        import resource
    except ImportError:  # there is no such module on Windows
        return "peak memory unknown"
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mebibytes = used / 2**20 if sys.platform == "darwin" else used / 2**10
    return f"peak memory {mebibytes:.0f} MiB"


async def _stream(out: Console, paginator: Paginator[Message], total: int, stop: int | None = None) -> _Streamed:
    streamed = _Streamed()
    columns = (TextColumn("    {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
        bar = progress.add_task("streaming", total=total)
        async for message in paginator:
            streamed.add(message)
            if streamed.seen % _REPORT_EVERY == 0 and not out.is_terminal:
                out.print(f"    {streamed.seen:,} messages")
            if streamed.seen % 100 == 0:
                progress.update(bar, completed=streamed.seen, description=streamed.text.partition(": ")[2])
            if streamed.seen == stop:
                break
    return streamed
