"""The errors of others are quoted by one function, which shows no parameters of a statement: they are personal data."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from basiq_async import BasiqClient, BasiqError, InMemoryTransport, Message, Request, Response, Secret
from basiq_async._work.failures import failure_text, store_failure
from basiq_async.receiver import Deferred, MemoryInbox, WebhookReceiver
from basiq_async.replay import Replay, recover
from basiq_async.testing import FakeBasiq
from tests.support import virtual
from tests.support.deliveries import OTHER_SECRET, SECRET, payload, post
from tests.support.frames import leaks
from tests.support.inboxes import fail_in

CANARY = OTHER_SECRET.removeprefix("whsec_").rstrip("=")
PERSON = "Jane Canary, 1 Canary Street"


class DriverError(Exception):
    sqlstate = "23505"


def failed(*, lost: bool = False, person: str = PERSON) -> DBAPIError:
    """Return the error of a statement about a person, as SQLAlchemy raises it."""
    kind: type[DBAPIError] = OperationalError if lost else IntegrityError
    cause = DriverError(f"no connection\nDETAIL: Key (secret)=({person}) exists." if person != PERSON else "it failed")
    return kind("UPDATE person SET name = :name", {"name": person}, cause, connection_invalidated=lost)


# --- each public entry ---

URL = "https://service.example/basiq"


class World:
    """A fake Basiq with a webhook and what it sent, and whatever is shown."""

    def __init__(self) -> None:
        self.fake = FakeBasiq()
        self.webhook_id = self.fake.seed_messages(3, failed=1.0)
        self.basiq = BasiqClient(self.fake.api_key, transport=InMemoryTransport(self.fake))
        self.shown: list[object] = []

    def receiver(self, error: Exception, **options: Any) -> WebhookReceiver:
        options = {"webhook_id": self.webhook_id, "inbox": MemoryInbox(), "clock": virtual.clock, **options}
        receiver = WebhookReceiver(options.pop("secret", SECRET), **options)

        @receiver.on("*")
        async def handle(delivery: object) -> None:
            raise ExceptionGroup("both", [error, ValueError("no")])

        return receiver


Entry = Callable[[World, DBAPIError], Awaitable[object]]
ENTRIES: dict[str, Entry] = {}


def entry(function: Entry) -> Entry:
    ENTRIES[function.__name__.replace("_", " ")] = function
    return function


@entry
async def a_replay(w: World, error: DBAPIError) -> object:
    async def handle(message: Message) -> None:
        raise error

    return await Replay(w.basiq, w.webhook_id, handle, inbox=MemoryInbox(), max_pause=60).run()


@entry
async def a_replay_that_stops(w: World, error: DBAPIError) -> object:
    async def handle(message: Message) -> None:
        raise error

    return await Replay(w.basiq, w.webhook_id, handle, inbox=MemoryInbox(), max_pause=1, on_error="stop").run()


@entry
async def a_recovery(w: World, error: DBAPIError) -> object:
    async def handle(message: Message) -> None:
        raise error

    return await recover(w.basiq, w.webhook_id, handle, inbox=MemoryInbox(), max_pause=60)


@entry
async def a_recovery_with_a_receiver(w: World, error: DBAPIError) -> object:
    receiver = w.receiver(error)
    return await recover(w.basiq, w.webhook_id, receiver, inbox=receiver.inbox, max_pause=60)


@entry
async def an_inbox_of_a_replay(w: World, error: DBAPIError) -> object:
    async def handle(message: Message) -> None: ...

    for call in ("known", "note", "set_note", "claim", "complete", "release", "entries", "check"):
        inbox = fail_in(call, error=failed(lost=error.connection_invalidated))  # an error is hidden once for all
        replay = Replay(w.basiq, w.webhook_id, handle, inbox=inbox, max_pause=60)
        try:
            w.shown.append(await replay.run())
            w.shown.append(await recover(w.basiq, w.webhook_id, handle, inbox=inbox, max_pause=60))
            w.shown.append(await replay.retry_quarantined())
        except (BasiqError, DBAPIError) as exc:
            w.shown += traceback.format_exception(exc)
    return None


@entry
async def a_handler(w: World, error: DBAPIError) -> object:
    async with w.receiver(error, quarantine_after=1) as receiver:
        outcome = await post(receiver, at=virtual.clock())
        w.shown.append(failure_text(outcome.error or ValueError()))
        w.shown += await receiver.quarantined()
        return await receiver.retry_quarantined()


@entry
async def a_deferred_handler(w: World, error: DBAPIError) -> object:
    async with w.receiver(error, deferred=Deferred(keep_trying=timedelta(minutes=5))) as receiver:
        await post(receiver, at=virtual.clock())
        await asyncio.sleep(3_600)
        return [await receiver.waiting(), await receiver.quarantined()]


@entry
async def a_hook_of_a_receiver(w: World, error: DBAPIError) -> object:
    def told(delivery: object, outcome: object = None) -> None:
        raise error

    async with w.receiver(ValueError(), on_delivery=told) as receiver:
        return await post(receiver, at=virtual.clock())


@entry
async def an_inbox_of_a_receiver(w: World, error: DBAPIError) -> object:
    for call in ("check", "note", "set_note", "claim", "complete", "release", "entries", "quarantine", "claim_due"):
        inbox = fail_in(call, error=failed(lost=error.connection_invalidated))
        for deferred in (False, True):
            receiver = w.receiver(ValueError("no"), inbox=inbox, deferred=deferred, quarantine_after=1)
            try:
                async with receiver:
                    w.shown.append(await receiver.is_ready())
                    await post(receiver, at=virtual.clock())
                    await asyncio.sleep(60)
                    w.shown.append(await receiver.quarantined())
            except (BasiqError, DBAPIError) as exc:
                w.shown += traceback.format_exception(exc)
    return None


class Table:
    """A target of one's own that is its own record. One of its calls fails."""

    def __init__(self, call: str, error: Exception) -> None:
        self.rows: list[str] = []
        self.notes: dict[str, str] = {}
        setattr(self, call, partial(_fail, error))

    async def deliver(self, message: Message) -> None:
        self.rows.append(message.id)

    async def flush(self) -> None: ...

    async def known(self, keys: Sequence[str]) -> Collection[str]:
        return set(keys) & set(self.rows)

    async def note(self, name: str) -> str | None:
        return self.notes.get(name)

    async def set_note(self, name: str, text: str, *, expected: object = None) -> bool:
        self.notes[name] = text
        return True


async def _fail(error: Exception, *_: object, **__: object) -> None:
    raise error


@entry
async def a_target_and_its_record(w: World, error: DBAPIError) -> object:
    for call in ("deliver", "known", "note", "set_note", "flush"):
        table: Any = Table(call, failed(lost=error.connection_invalidated))
        try:
            w.shown.append(await Replay(w.basiq, w.webhook_id, table, max_pause=60).run())
        except (BasiqError, DBAPIError) as exc:
            w.shown += traceback.format_exception(exc)
    return None


@entry
async def a_diagnosis_and_what_a_person_does_with_an_inbox(w: World, error: DBAPIError) -> object:
    for call in ("known", "note", "known_since", "entries", "claim", "complete", "check"):
        inbox = fail_in(call, error=failed(lost=error.connection_invalidated))
        receiver = w.receiver(ValueError("no"), inbox=inbox)
        for work in (
            partial(w.basiq.webhooks.diagnose, w.webhook_id, inbox=inbox),
            partial(w.basiq.webhooks.ensure, url=URL, subscribed_events=["user.created"], inbox=inbox),
            receiver.quarantined,
            receiver.retry_quarantined,
            receiver.waiting,
            partial(receiver.forget, "user-1"),
            partial(receiver.drop_quarantined, ["id"]),
        ):
            try:
                w.shown.append(await work())  # type: ignore[operator]  # each is called without arguments
            except (BasiqError, DBAPIError) as exc:
                w.shown += traceback.format_exception(exc)
    return None


@entry
async def a_hook_of_a_client(w: World, error: DBAPIError) -> object:
    def told(event: object) -> None:
        raise error

    basiq = BasiqClient(w.fake.api_key, transport=InMemoryTransport(w.fake), on_request=told)
    return await basiq.webhooks.list().collect()


@entry
async def a_transport_of_ones_own(w: World, error: DBAPIError) -> object:
    class Broken(InMemoryTransport):
        async def send(self, request: Request, /) -> Response:
            raise error

    return await BasiqClient(w.fake.api_key, transport=Broken(w.fake)).webhooks.list().collect()


@pytest.mark.parametrize("lost", [False, True], ids=["a failed statement", "a lost connection"])
@pytest.mark.parametrize("name", ENTRIES)
@virtual.clocked
async def test_no_public_entry_shows_the_parameters_of_a_statement(
    name: str, lost: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "basiq_async")
    world, error = World(), failed(lost=lost)
    assert PERSON in str(error), "the control: SQLAlchemy shows them"
    async with world.basiq:
        try:
            world.shown.append(await ENTRIES[name](world, error))
        except (BasiqError, DBAPIError) as exc:
            world.shown += traceback.format_exception(exc)
    text = caplog.text + repr(world.shown) + "".join(map(str, world.shown))
    assert "it failed" in text
    assert "Canary" not in text


# --- stores of secrets ---


class BadStore:
    """A table of secrets whose errors repeat what it was given, and which yields what is no secret."""

    def __init__(self, found: object = None) -> None:
        self.found = found

    async def read(self) -> Any:
        if self.found is None:
            raise failed(person=OTHER_SECRET)
        return self.found

    async def write(self, secret: Secret) -> None:
        raise failed(person=secret.reveal())


@asynccontextmanager
async def shown(caplog: pytest.LogCaptureFixture) -> AsyncGenerator[list[str]]:
    caplog.set_level(logging.DEBUG, "basiq_async")
    texts: list[str] = []
    try:
        yield texts
    except BasiqError as exc:
        texts += [*traceback.format_exception(exc), *leaks(exc)]
        texts += [str(each) for each in (exc.__cause__, exc.__context__) if each is not None]
    texts.append(caplog.text)


@pytest.mark.parametrize("call", ["ensure", "ensure again", "reactivate", "receive"])
@virtual.clocked
async def test_nothing_of_a_store_of_secrets_is_quoted_but_the_type_and_the_sqlstate(
    call: str, caplog: pytest.LogCaptureFixture
) -> None:
    w, store = World(), BadStore()
    async with shown(caplog) as texts, w.basiq:
        if call == "ensure":
            await w.basiq.webhooks.ensure(url=URL, subscribed_events=["user.created"], secret=store)
        elif call == "ensure again":
            (found,) = await w.basiq.webhooks.list().collect()
            types = found.subscribed_events
            await w.basiq.webhooks.ensure(url=found.url, subscribed_events=types, secret=store)
        elif call == "reactivate":
            await w.basiq.webhooks.reactivate(w.webhook_id, secret=store)
        else:
            async with w.receiver(ValueError(), secret=store) as receiver:
                await post(receiver, at=virtual.clock())
    text = "".join(texts)
    assert "IntegrityError (SQLSTATE 23505)" in text
    assert not [each for each in ("DETAIL", "parameters", CANARY, "whsec_") if each in text]


@pytest.mark.parametrize("found", [5, {"secret": OTHER_SECRET}, [OTHER_SECRET.encode()], ["changeme", OTHER_SECRET]])
@virtual.clocked
async def test_what_a_store_yields_is_not_shown(found: object, caplog: pytest.LogCaptureFixture) -> None:
    w = World()
    async with shown(caplog) as texts, w.basiq, w.receiver(ValueError(), secret=BadStore(found)) as receiver:
        assert (await post(receiver, payload(), at=virtual.clock())).status == 401
    assert "the signing secret cannot be read from" in texts[-1]
    assert not [each for each in ("changeme", CANARY) if each in "".join(texts)]


def test_the_errors_of_a_group_are_named_and_a_made_up_sqlstate_is_not() -> None:
    error = DriverError(SECRET)
    error.sqlstate = SECRET
    group = ExceptionGroup("", [failed(person=SECRET), error, ValueError(SECRET)])
    assert store_failure(group) == "IntegrityError (SQLSTATE 23505), DriverError, ValueError"
