"""Stories in which a person changed something, by the command line: what doctor says, and what its lines bring."""

from __future__ import annotations

import asyncio
import itertools
import shlex
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.receiver import SQLiteInbox, WebhookReceiver
from basiq_async.testing import FakeBasiq, ManualClock

from ..support.command_line import PROGRAM
from ..support.real_time import PATIENCE
from .conftest import SECRET, Endpoint, Run, Served, help_lines

_NUMBERS = itertools.count()
TYPES = ["consent.revoked"]


@pytest.fixture
def served() -> Iterator[Served]:
    """A fake whose clock begins now, as that of the service's inbox does."""
    with Served(FakeBasiq(clock=ManualClock(datetime.now(UTC)))) as running:
        yield running


def make_service(webhook_id: str) -> str:
    """Write the module of a service that writes the events that it handles to a file, and start it once."""
    name = f"a_story_{next(_NUMBERS)}"
    Path(f"{name}.py").write_text(
        "import asyncio\n"
        "from basiq_async.receiver import SQLiteInbox, WebhookReceiver\n"
        "def receiver():\n"
        f"    made = WebhookReceiver({SECRET!r}, webhook_id={webhook_id!r}, inbox=SQLiteInbox('inbox.db'))\n"
        "    @made.on('*')\n"
        "    async def handle(delivery):\n"
        "        await asyncio.sleep(0.01)\n"
        "        with open('handled', 'a') as file: file.write(delivery.event_id + '\\n')\n"
        "    return made\n"
    )

    async def begin() -> None:
        async with SQLiteInbox("inbox.db") as inbox, WebhookReceiver(SECRET, webhook_id=webhook_id, inbox=inbox):
            pass

    asyncio.run(begin())
    return f"{name}:receiver"


def handled() -> list[str]:
    file = Path("handled")
    return file.read_text().split() if file.exists() else []


async def emit(fake: FakeBasiq, count: int) -> None:
    for _ in range(count):
        await fake.emit("consent.revoked")


def help_for(run: Run, code: str, *doctor: str) -> list[str]:
    """The words of the line that doctor prints for a problem."""
    done = run("webhooks", "doctor", *doctor)
    assert done.exit_code == 1, done.output
    (line,) = [each["command"] for each in done.row["problems"] if each["code"] == code]
    return shlex.split(line)[1:]


def test_what_was_delivered_to_a_url_that_a_colleague_had_set_is_named_and_brought(
    run: Run, served: Served, endpoint: Endpoint
) -> None:
    """Basiq says of these messages that they were delivered; the service never had them."""
    fake = served.fake
    webhook_id = fake.add_webhook(endpoint.url, TYPES)
    endpoint.secret = fake.secret(webhook_id)
    place = make_service(webhook_id)

    async def elsewhere() -> None:
        await fake.advance(hours=1)
        await emit(fake, 3)
        await fake.advance(minutes=10)

    served.run(elsewhere())
    assert len(endpoint.ids) == 3
    line = help_for(run, "unrecorded", webhook_id, "--receiver", place)
    assert run(*line).exit_code == 0
    assert len(set(handled())) == len(handled()) == 3
    assert run("webhooks", "doctor", webhook_id, "--receiver", place).exit_code == 0


def test_a_webhook_that_was_deleted_and_made_again_repeats_nothing_of_the_former(
    run: Run, served: Served, endpoint: Endpoint
) -> None:
    fake = served.fake
    former = fake.add_webhook(endpoint.url, TYPES)
    place = make_service(former)

    async def away() -> None:
        fake.endpoint_down(endpoint.url)
        await fake.advance(hours=1)
        await emit(fake, 3)
        await fake.advance(minutes=10)

    async def replace() -> None:
        async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
            await basiq.webhooks.delete(former)
        await emit(fake, 2)  # nobody is subscribed
        await fake.advance(minutes=10)

    served.run(away())
    assert run("recover", former, "--receiver", place).exit_code == 0
    assert len(handled()) == 3
    served.run(replace())
    webhook_id = fake.add_webhook(endpoint.url, TYPES)
    now = make_service(webhook_id)
    assert run("recover", webhook_id, "--receiver", place).exit_code == 2
    found = run("recover", webhook_id, "--receiver", now, "--formerly", former)
    assert (found.exit_code, found.row["events"]["handled"]) == (0, 2), found.output
    assert len(set(handled())) == len(handled()) == 5


def test_two_recoveries_at_once_share_the_work_of_the_services_inbox(
    run: Run, served: Served, endpoint: Endpoint
) -> None:
    fake = served.fake
    webhook_id = fake.add_webhook(endpoint.url, TYPES)
    place = make_service(webhook_id)

    async def away() -> None:
        fake.endpoint_down(endpoint.url)
        await emit(fake, 40)
        await fake.advance(minutes=10)

    served.run(away())
    command = [*PROGRAM, "recover", webhook_id, "--receiver", place, "--concurrency", "2"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as first, subprocess.Popen(command, **pipes) as second:
        told = [each.communicate(timeout=PATIENCE) for each in (first, second)]
        assert (first.returncode, second.returncode) == (0, 0), told
    assert len(set(handled())) == len(handled()) == 40


def test_what_is_out_of_reach_is_told_until_it_is_acknowledged(run: Run, served: Served, endpoint: Endpoint) -> None:
    fake = served.fake
    webhook_id = fake.add_webhook(endpoint.url, TYPES)
    endpoint.secret = SECRET

    async def away() -> None:
        fake.endpoint_down(endpoint.url)
        await emit(fake, 1)
        await fake.advance(days=2)
        await emit(fake, 1)  # it makes no message, and leaves the event list
        await fake.advance(days=10)
        fake.endpoint_up(endpoint.url)

    served.run(away())
    assert run("webhooks", "reactivate", webhook_id).exit_code == 0
    line = ("recover", webhook_id, "--to", endpoint.url)
    first = run(*line)
    assert (first.exit_code, [each["code"] for each in first.row["problems"]]) == (1, ["out-of-reach"]), first.output
    assert run(*line).exit_code == 1
    assert "--acknowledged" in help_for(run, "out-of-reach", webhook_id)
    (words,) = help_lines(run(*line).stderr)
    served.run(fake.advance(minutes=1))  # a person reads the line
    done = run(*words)
    assert (done.exit_code, done.row["out_of_reach"]) == (0, []), done.output
    assert run("webhooks", "doctor", webhook_id).exit_code == 0
    assert len(endpoint.ids) == 1
