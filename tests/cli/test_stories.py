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


def make_service(webhook_id: str, *, on: str = "*") -> str:
    """Write the module of a service that writes the events that it handles to a file, and start it once.

    While the file ``broken`` exists, its handler raises."""
    name = f"a_story_{next(_NUMBERS)}"
    Path(f"{name}.py").write_text(
        "import asyncio, os\n"
        "from basiq_async.receiver import SQLiteInbox, WebhookReceiver\n"
        "def receiver():\n"
        f"    made = WebhookReceiver({SECRET!r}, webhook_id={webhook_id!r}, inbox=SQLiteInbox('inbox.db'))\n"
        f"    @made.on({on!r})\n"
        "    async def handle(delivery):\n"
        "        await asyncio.sleep(0.01)\n"
        "        if os.path.exists('broken'): raise ValueError('broken')\n"
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


async def emit(fake: FakeBasiq, count: int, event_type: str = "consent.revoked") -> None:
    for _ in range(count):
        await fake.emit(event_type)


def help_for(run: Run, code: str, *doctor: str) -> list[str]:
    """The words of the line that doctor prints for a problem."""
    done = run("webhooks", "doctor", *doctor)
    assert done.exit_code == 1, done.output
    (line,) = [each["command"] for each in done.row["problems"] if each["code"] == code]
    return shlex.split(line)[1:]


def codes(run: Run, *doctor: str) -> list[str]:
    """The codes of the problems that doctor names."""
    done = run("webhooks", "doctor", *doctor)
    found = [each["code"] for each in done.row["problems"]]
    assert done.exit_code == (1 if found else 0), done.output
    return found


async def change(fake: FakeBasiq, webhook_id: str, **more: Any) -> None:
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        await basiq.webhooks.update(webhook_id, **more)
    await fake.advance(minutes=16)


async def delete(fake: FakeBasiq, webhook_id: str) -> None:
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        await basiq.webhooks.delete(webhook_id)


def test_events_of_a_type_that_was_added_again_are_named_though_a_recovery_ran_meanwhile(
    run: Run, served: Served, endpoint: Endpoint
) -> None:
    fake = served.fake
    webhook_id = fake.add_webhook(endpoint.url, TYPES)
    at = (webhook_id, "--receiver", make_service(webhook_id))

    async def unsubscribed() -> None:
        await emit(fake, 2, "user.created")
        await fake.advance(hours=5)

    served.run(unsubscribed())
    assert run("recover", *at).exit_code == 0
    assert codes(run, *at) == []
    served.run(change(fake, webhook_id, url=endpoint.url, subscribed_events=[*TYPES, "user.created"]))
    assert run(*help_for(run, "never-sent", *at)).exit_code == 0
    assert len(set(handled())) == len(handled()) == 2
    assert codes(run, *at) == []


def test_what_has_no_handler_is_no_message_to_recover_and_the_line_that_unsubscribes_ends_it(
    run: Run, served: Served, endpoint: Endpoint
) -> None:
    fake = served.fake
    webhook_id = fake.add_webhook(endpoint.url, [*TYPES, "user.created"])
    endpoint.secret = fake.secret(webhook_id)
    at = (webhook_id, "--receiver", make_service(webhook_id, on="consent.*"))

    async def story() -> None:
        await fake.advance(hours=1)
        await emit(fake, 1, "user.created")  # acknowledged, since nothing handles it
        await fake.advance(minutes=5)
        fake.endpoint_down(endpoint.url)
        await emit(fake, 2, "user.created")
        await emit(fake, 2)
        await fake.advance(hours=5)

    served.run(story())
    assert run("recover", *at).row["messages"]["skipped"]["no-handler"] == 3
    assert codes(run, *at) == ["unhandled-event-types"]
    assert run(*help_for(run, "unhandled-event-types", *at)).exit_code == 0
    served.run(fake.advance(minutes=16))
    assert codes(run, *at) == []
    served.run(change(fake, webhook_id, url=endpoint.url, subscribed_events=[*TYPES, "user.created"]))
    at = (webhook_id, "--receiver", make_service(webhook_id))  # a deploy brings the handler
    assert run(*help_for(run, "undelivered", *at)).exit_code == 0
    assert len(set(handled())) == len(handled()) == 5
    assert codes(run, *at) == []


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
        await delete(fake, former)
        await emit(fake, 2)  # nobody is subscribed
        await fake.advance(minutes=10)

    served.run(away())
    assert run("recover", former, "--receiver", place).exit_code == 0
    assert len(handled()) == 3
    served.run(replace())
    webhook_id = fake.add_webhook(endpoint.url, TYPES)
    now = make_service(webhook_id)
    at = (webhook_id, "--receiver", now)
    assert run("recover", webhook_id, "--receiver", place).exit_code == 2
    mistyped = run("recover", *at, "--formerly", former[:-1])
    assert (mistyped.exit_code, "cannot tell what was handled" in mistyped.stderr) == (2, True), mistyped.output
    line = help_for(run, "made-again", *at)
    assert line[-2:] == ["--formerly", former]
    found = run(*line)
    assert (found.exit_code, found.row["events"]["handled"]) == (0, 2), found.output
    assert codes(run, *at) == []
    assert run("recover", *at).exit_code == 0  # as cron does
    assert len(set(handled())) == len(handled()) == 5


def test_what_is_in_the_quarantine_of_a_former_webhook_is_not_forgotten(
    run: Run, served: Served, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = served.fake
    former = fake.add_webhook(endpoint.url, TYPES)
    place = make_service(former)

    async def away() -> None:
        fake.endpoint_down(endpoint.url)
        await emit(fake, 2)
        await fake.advance(minutes=10)

    served.run(away())
    Path("broken").touch()
    assert run("recover", former, "--receiver", place).exit_code == 1
    Path("broken").unlink()
    served.run(delete(fake, former))
    webhook_id = fake.add_webhook(endpoint.url, TYPES)
    at = (webhook_id, "--receiver", make_service(webhook_id))
    found = run("recover", *at, "--formerly", former)
    assert (found.exit_code, found.row["quarantined"]) == (1, 2), found.output
    assert len(run("quarantine", "list", "--receiver", at[-1]).rows) == 2
    assert run(*help_for(run, "quarantined", *at)).exit_code == 0
    event = ("inbox", "get", handled()[0], "--event", "consent.revoked")
    assert run(*event, "--receiver", at[-1]).row["state"] == "handled"
    assert run("recover", *at).exit_code == 0
    assert codes(run, *at) == []
    assert len(set(handled())) == len(handled()) == 2


def test_of_a_webhook_that_was_gone_for_long_the_time_that_no_list_has_is_named(
    run: Run, served: Served, endpoint: Endpoint
) -> None:
    fake = served.fake
    former = fake.add_webhook(endpoint.url, TYPES)
    assert run("recover", former, "--receiver", make_service(former)).exit_code == 0

    async def gone() -> None:
        await delete(fake, former)
        await emit(fake, 1)
        await fake.advance(days=10)

    served.run(gone())
    webhook_id = fake.add_webhook(endpoint.url, TYPES)
    at = (webhook_id, "--receiver", make_service(webhook_id))
    found = run(*help_for(run, "made-again", *at))
    assert (found.exit_code, len(found.row["out_of_reach"])) == (1, 1), found.output
    assert codes(run, *at) == ["out-of-reach"]


def test_doctor_of_all_says_that_the_webhook_of_a_service_is_gone(run: Run, served: Served, endpoint: Endpoint) -> None:
    fake = served.fake
    webhook_id = fake.add_webhook(endpoint.url, TYPES)
    place = make_service(webhook_id)
    served.run(delete(fake, webhook_id))
    for named in ((), ("--receiver", place), ("--inbox", "inbox.db")):
        done = run("webhooks", "doctor", *named)
        assert (done.exit_code, "there is no webhook" in done.stderr) == (1, True), done.output
        assert (f"the webhook {webhook_id} of this" in done.stderr) == bool(named)
    fake.add_webhook("https://other.example/basiq", TYPES)
    assert run("webhooks", "doctor").exit_code == 0
    for named in (("--receiver", place), ("--inbox", "inbox.db")):
        done = run("webhooks", "doctor", *named)
        assert (done.exit_code, f"the webhook {webhook_id} of this" in done.stderr) == (1, True), done.output
    gone = run("recover", webhook_id, "--receiver", place)
    assert (gone.exit_code, help_lines(gone.stderr)) == (1, [])


def test_nothing_that_is_posted_elsewhere_counts_as_handled_by_the_service(
    run: Run, served: Served, endpoint: Endpoint
) -> None:
    fake = served.fake
    url = "https://service.example/basiq"
    webhook_id, other = fake.add_webhook(url, TYPES), fake.add_webhook(endpoint.url, TYPES)
    make_service(webhook_id)

    async def away() -> None:
        fake.endpoint_down()
        await emit(fake, 2)
        await fake.advance(minutes=10)

    served.run(away())
    for command in ("recover", "replay"):
        elsewhere = run(command, webhook_id, "--to", endpoint.url, "--inbox", "inbox.db")
        assert (elsewhere.exit_code, "another place" in elsewhere.stderr) == (2, True), elsewhere.output
    for line in (("recover", other, "--to", endpoint.url), ("webhooks", "doctor", other)):
        refused = run(*line, "--inbox", "inbox.db")
        assert (refused.exit_code, repr(webhook_id) in refused.stderr) == (2, True), refused.output
        assert "is gone" not in refused.stderr
    assert endpoint.ids == []
    assert run("recover", webhook_id, "--to", endpoint.url).exit_code == 0
    assert (len(endpoint.ids), "undelivered" in codes(run, webhook_id, "--inbox", "inbox.db")) == (2, True)
    unknown = run("recover", other, "--to", endpoint.url, "--formerly", webhook_id)
    assert (unknown.exit_code, "needs --inbox" in unknown.stderr) == (2, True), unknown.output


def test_a_clock_that_is_wrong_is_named_before_anything_else(
    run: Run, served: Served, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = served.fake
    webhook_id = fake.add_webhook(endpoint.url, TYPES)
    place = make_service(webhook_id)
    # A mock on this machine has the time that a test gives it; this one is as far away as Basiq.
    monkeypatch.setattr("basiq_async.services.api.is_this_machine", lambda host: False)

    async def refused() -> None:
        fake.endpoint_down(endpoint.url, status=401)
        await emit(fake, 2)
        await fake.advance(hours=2)

    served.run(refused())
    assert codes(run, webhook_id, "--receiver", place)[0] == "clock"
    Path("broken").touch()
    found = run("recover", webhook_id, "--receiver", place)
    assert [each["code"] for each in found.row["problems"]] == ["clock", "quarantined"]
    assert "behind Basiq's" in found.row["problems"][0]["text"]


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
