"""``basiq-async demo``: a service has an outage, and then gets everything that it missed."""

from __future__ import annotations

import runpy
import time
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BasiqError
from ._command import command
from ._output import Styled, write, write_lines

if TYPE_CHECKING:
    from aiohttp import web

    from ..receiver import Delivery
    from ..testing import FakeBasiq


# Slow modules are imported only when the demo runs, so that --help is fast.
@command()
async def demo() -> None:
    """Show a service's outage and recovery over real HTTP: no event is lost or handled twice.

    Each step is checked. If one fails, the demo ends with the exit code 1. Nothing leaves this machine.
    """
    import tempfile

    from aiohttp import web

    from .._web.serving import listening
    from ..client import BasiqClient
    from ..receiver import SecretFile, SQLiteInbox, WebhookReceiver
    from ..replay import recover
    from ..testing import FakeBasiq, ManualClock, serve

    activate = runpy.run_path(str(_example_file()))["activate"]
    began = time.perf_counter()
    handled: Counter[str] = Counter()
    """How often each event was handled, by its id."""

    async def receive(request: web.Request) -> web.StreamResponse:
        return await receiver.aiohttp_handler(request)

    def make_service() -> web.Application:
        app = web.Application()
        app.router.add_post("/basiq", receive)
        return app

    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # The demo begins 4 days ago, so that its events are within the last 7 days, which the event list covers.
        fake = FakeBasiq(clock=ManualClock((datetime.now(UTC) - timedelta(days=4)).replace(microsecond=0)))
        steps = Steps(fake)
        base_url = await stack.enter_async_context(serve(fake))
        basiq = await stack.enter_async_context(BasiqClient(fake.api_key, base_url=base_url))
        inbox = await stack.enter_async_context(SQLiteInbox(folder / "inbox.db"))

        async with listening(make_service()) as address:
            url = f"{address}/basiq"
            write(f"An embedded Basiq is at {base_url}, a service at {url}.")
            steps.chapter("Subscribe")
            webhook = await basiq.webhooks.ensure(url=url, subscribed_events=_EVENTS, name="demo")
            shown = f"webhook {webhook.id} is {webhook.status}; its secret shows as {webhook.secret}"
            steps.confirm(shown, true=bool(webhook.secret))
            receiver = WebhookReceiver(webhook.secret or "", webhook_id=webhook.id, inbox=inbox)
            await stack.enter_async_context(receiver)

            @receiver.on("*")
            async def handle(delivery: Delivery) -> None:
                handled[delivery.event_id] += 1

            await fake.advance(minutes=15)
            active = await basiq.webhooks.wait_until_active(webhook.id, timeout=5)
            steps.confirm(f"after the cool-off of 15 minutes it is {active.status}")
            _happen(fake, _BEFORE)
            await fake.deliver()
            steps.confirm(f"{_BEFORE} events happen, each is delivered and handled", true=len(handled) == _BEFORE)
            steps.chapter("The service goes down")
            await fake.advance(hours=1)

        _happen(fake, _DURING)
        steps.narrate(f"{_DURING} events happen; connections to the service are refused")
        before, attempt = fake.now(), 1
        await fake.deliver()
        steps.narrate(f"attempt {attempt} of each fails at once")
        while (due := fake.next_due) is not None:
            waited, before = due - before, due
            await fake.advance(due - fake.now())
            attempt += 1
            steps.narrate(f"attempt {attempt} of each fails, {_length(waited)} later")
        steps.confirm("that was the documented schedule, to its end", true=attempt == 8)
        status = (await basiq.webhooks.get(webhook.id)).status
        steps.confirm(f"Basiq has disabled the endpoint: the webhook is {status}", true=status == "disabled")
        await fake.advance(hours=1)
        emitted = _happen(fake, _DISABLED)
        steps.confirm(f"{_DISABLED} more events happen; Basiq makes no messages of them", true=emitted == 0)

        steps.chapter("The service comes back")
        await fake.advance(hours=2)
        async with listening(make_service(), port=address.port):
            every = _BEFORE + _DURING + _DISABLED
            steps.narrate(f"{every - len(handled)} events never reached it")
            await activate(basiq, url, SecretFile(folder / "basiq.secret"), receiver.inbox, _EVENTS)
            recovery = await recover(basiq, webhook.id, receiver)
            status = (await basiq.webhooks.get(webhook.id)).status
            steps.confirm(f"ensure: the webhook is {status} again", true=status == "active")
            done, known = recovery.messages.handled, recovery.messages.skipped.get("handled-before", 0)
            text = f"recover, from its messages: {done} are handled, {known} were known"
            steps.confirm(text, true=done == _DURING)
            done = 0 if recovery.events is None else recovery.events.handled
            text = f"recover, from the events of 7 days: {done} that never became a message are handled"
            steps.confirm(text, true=done == _DISABLED and recovery.finished)
            found = await basiq.webhooks.diagnose(webhook.id, receiver=receiver)
            steps.confirm("diagnose: no problem is left, nothing is missing", true=found.healthy)
            total = handled.total()
            steps.confirm(f"{every} events, {total} times handled", true=len(handled) == total == every)
            tokens = sum(request.url.endswith("/token") for request in fake.requests)
            steps.confirm(
                f"{len(fake.requests)} requests, {tokens} tokens (each lives an hour), no misuse of the API",
                true=not fake.misuses,
            )

    write("")
    took = time.perf_counter() - began
    write(Styled("All of it came true", "bold"), f", in {took:.1f} s. The program that recovers,")
    write("examples/recover_after_outage.py:")
    write("")
    write_lines(_example_file().read_text(encoding="utf-8").rstrip().splitlines())


_EVENTS = ("consent.revoked", "consent.expired", "account.updated")
_BEFORE, _DURING, _DISABLED = 12, 20, 9


class Steps:
    """Prints each step with the fake's time, and raises ``BasiqError`` for a statement that is not true."""

    def __init__(self, fake: FakeBasiq) -> None:
        self._fake = fake
        self._began = fake.now()

    def chapter(self, title: str) -> None:
        """Print the title of a part."""
        write("")
        write(Styled(title, "bold"))

    def confirm(self, text: str, *, true: bool = True) -> None:
        """Print a statement as ``ok``. Raises ``BasiqError`` if it is not true."""
        if not true:
            raise BasiqError(f"this did not come true: {text}")
        write(Styled(self._clock(), "dim"), "  ", Styled("ok", "green"), f"  {text}")

    def narrate(self, text: str) -> None:
        """Print a statement that is not checked."""
        write(Styled(self._clock(), "dim"), f"      {text}")

    def _clock(self) -> str:
        passed = self._fake.now() - self._began
        return f"day {passed.days + 1} {(datetime.min + passed):%H:%M:%S}"


def _happen(fake: FakeBasiq, count: int) -> int:
    """Make the fake emit events, and return how many messages it made of them."""
    emissions = [fake.emit(_EVENTS[number % len(_EVENTS)]) for number in range(count)]
    return sum(len(emission.message_ids) for emission in emissions)


def _length(span: timedelta) -> str:
    seconds = round(span.total_seconds())
    size, name = next(
        (size, name) for size, name in ((3600, "hour"), (60, "minute"), (1, "second")) if not seconds % size
    )
    return f"{seconds // size} {name}{'s' if seconds != size else ''}"


def _example_file() -> Path:
    """Return the path of the example program: beside this file in a wheel, in examples/ of the sources."""
    name = "recover_after_outage.py"
    packaged = Path(__file__).with_name(f"_example_{name}")
    return packaged if packaged.exists() else Path(__file__).parents[2] / "examples" / name
