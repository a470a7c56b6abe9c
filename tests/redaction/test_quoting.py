"""The errors of others are quoted by one function, which shows no parameters of a statement: they are personal data."""

from __future__ import annotations

import ast
import asyncio
import logging
import re
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

import basiq_async
from basiq_async import BasiqClient, BasiqError, InMemoryTransport, Message, Request, Response, Secret
from basiq_async._storage.sql_errors import without_values
from basiq_async._work.failures import failure_text, store_failure
from basiq_async._work.limits import limit
from basiq_async.receiver import Deferred, MemoryInbox, WebhookReceiver
from basiq_async.replay import Replay, recover
from basiq_async.replay._throttle import (
    ending_error,  # private: what ends a replay has the target's own error as its cause
)
from basiq_async.testing import FakeBasiq
from tests.support import virtual
from tests.support.deliveries import OTHER_SECRET, SECRET, payload, post
from tests.support.foreign_texts import MAY, fields_of_errors, foreign_texts, own_errors
from tests.support.frames import leaks
from tests.support.histories import Table
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


# --- each place that quotes, and each that hides ---

ROOT = Path(basiq_async.__file__).parent


def test_the_text_of_a_foreign_error_is_made_by_one_module() -> None:
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}
    own, fields = own_errors(trees), {"orig", "__cause__", "__context__"} | fields_of_errors(trees)
    found = {
        (file, function): line for file, tree in trees.items() for function, line in foreign_texts(tree, own, fields)
    }
    others = {place: line for place, line in found.items() if place not in MAY}
    assert not others, f"{others}: quote an error with failure_text or reason_text of _work/failures.py"
    assert found.keys() == MAY.keys(), "an exception is not needed any more"


@pytest.mark.parametrize(
    "line",
    ["str(exc)", "f'{exc}'", "f'{exc!r}'", "'%s' % exc", "'%s' % (exc,)", "'{}'.format(exc)", "logger.error('%s', exc)",
     "logger.error('', exc_info=exc)", "logger.error('', exc_info=True)", "logger.exception('')", "repr(exc)"],
)  # fmt: skip
def test_each_way_to_make_such_a_text_is_found(line: str) -> None:
    for kind, expected in (("Exception", 1), ("(OwnError, OSError)", 1), ("OwnError", "exc_info" in line)):
        tree = ast.parse(f"class OwnError(Exception): ...\ntry: ...\nexcept {kind} as exc:\n    {line}")
        found = list(foreign_texts(tree, own_errors({"": tree}), set()))
        assert len(found) == (expected or "logger.exception" in line), (kind, line)
    assert list(foreign_texts(ast.parse(f"def show(exc: Exception) -> None:\n    {line}"), set(), set()))


async def _raise_within_a_limit(error: Exception) -> None:
    with pytest.raises(type(error)):
        async with limit(60):
            raise error


async def _told(call: Callable[[Exception], object], error: Exception) -> None:
    call(error)


FOR_ALL: dict[tuple[str, str], Callable[[Exception], Awaitable[None]]] = {
    ("_work/failures.py", "failure_text"): partial(_told, failure_text),
    ("_work/limits.py", "__aexit__"): _raise_within_a_limit,
    ("_storage/sql_errors.py", "without_values"): partial(_told, without_values),
    ("replay/_throttle.py", "ending_error"): partial(_told, partial(ending_error, "it ended")),
}
"""Functions that hide the parameters of the errors that they are given, for whoever shows them later."""


@pytest.mark.parametrize("hide", FOR_ALL.values(), ids=[name for _, name in FOR_ALL])
async def test_a_function_hides_them_in_an_error_and_in_what_led_to_it(
    hide: Callable[[Exception], Awaitable[None]],
) -> None:
    led, alone, outer = failed(), failed(lost=True), RuntimeError()
    outer.__cause__ = led
    assert PERSON in f"{led} {alone}", "the control"
    await hide(outer)
    await hide(ExceptionGroup("", [alone]))
    assert PERSON not in f"{led} {alone}"


def test_no_other_place_that_hides_them_can_be_left_out() -> None:
    """Whoever shows a foreign error without it is found by the rule of the texts of foreign errors."""
    not_found = set[tuple[str, str]]()
    for path in ROOT.rglob("*.py"):
        source = path.read_text()
        for call in re.finditer(r"(?<!def )hide_parameters\(", source):
            without = source[: call.start()] + source[call.end() - 1 :]
            before, after = (list(foreign_texts(ast.parse(each), set(), set())) for each in (source, without))
            if before == after:
                functions = re.findall(r"def (\w+)", source[: call.start()])
                not_found.add((path.relative_to(ROOT).as_posix(), functions[-1]))
    assert not_found == FOR_ALL.keys()


# --- each public entry ---

URL = "https://service.example/basiq"


class World:
    """A fake Basiq with a webhook and what it sent, the error of a statement about a person, and whatever is shown."""

    def __init__(self, *, lost: bool) -> None:
        self.lost = lost
        self.fake = FakeBasiq()
        self.webhook_id = self.fake.seed_messages(3, failed=1.0)
        self.basiq = BasiqClient(self.fake.api_key, transport=InMemoryTransport(self.fake))
        self.shown: list[object] = []

    @property
    def error(self) -> DBAPIError:
        """A new one: each is hidden once for all."""
        return failed(lost=self.lost)

    async def handle(self, given: object) -> None:
        raise self.error

    @asynccontextmanager
    async def seen(self) -> AsyncGenerator[None]:
        """Keep what an error of the block shows."""
        try:
            yield
        except (BasiqError, DBAPIError) as exc:
            self.shown += traceback.format_exception(exc)

    def receiver(self, error: Exception | None = None, **options: Any) -> WebhookReceiver:
        options = {"webhook_id": self.webhook_id, "inbox": MemoryInbox(), "clock": virtual.clock, **options}
        receiver = WebhookReceiver(options.pop("secret", SECRET), **options)

        @receiver.on("*")
        async def handle(delivery: object) -> None:
            raise ExceptionGroup("both", [error or self.error, ValueError("no")])

        return receiver


@pytest.fixture(params=[False, True], ids=["a failed statement", "a lost connection"])
def w(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    """A world of which, after the test, all that was logged, raised and returned shows no parameters of a statement."""
    caplog.set_level(logging.DEBUG, "basiq_async")
    world = World(lost=request.param)
    assert PERSON in str(world.error), "the control: SQLAlchemy shows them"
    yield world
    text = "".join(map(caplog.handler.format, caplog.get_records("call"))) + repr(world.shown)
    text += "".join(map(str, world.shown))
    assert "it failed" in text
    assert "Canary" not in text


@virtual.clocked
async def test_no_replay_shows_them(w: World) -> None:
    for options in ({"max_pause": 60}, {"max_pause": 1, "on_error": "stop"}):
        async with w.seen():
            replay: Any = Replay(w.basiq, w.webhook_id, w.handle, inbox=MemoryInbox(), **options)
            w.shown.append(await replay.run())


@virtual.clocked
async def test_no_recovery_shows_them(w: World) -> None:
    receiver = w.receiver()
    for target, inbox in ((w.handle, MemoryInbox()), (receiver, receiver.inbox)):
        async with w.seen():
            w.shown.append(await recover(w.basiq, w.webhook_id, target, inbox=inbox, max_pause=60))


@virtual.clocked
async def test_no_job_shows_what_its_inbox_raises(w: World) -> None:
    async def handle(message: Message) -> None: ...

    for call in ("known", "note", "set_note", "claim", "complete", "release", "entries", "check"):
        inbox = fail_in(call, error=w.error)
        replay = Replay(w.basiq, w.webhook_id, handle, inbox=inbox, max_pause=60)
        async with w.seen():
            w.shown.append(await replay.run())
            w.shown.append(await recover(w.basiq, w.webhook_id, handle, inbox=inbox, max_pause=60))
            w.shown.append(await replay.retry_quarantined())


@virtual.clocked
async def test_no_receiver_shows_what_its_handlers_raise(w: World) -> None:
    async with w.seen(), w.receiver(quarantine_after=1) as receiver:
        outcome = await post(receiver, at=virtual.clock())
        w.shown.append(failure_text(outcome.error or ValueError()))
        w.shown += await receiver.quarantined()
        w.shown.append(await receiver.retry_quarantined())
    async with w.seen(), w.receiver(deferred=Deferred(keep_trying=timedelta(minutes=5))) as receiver:
        await post(receiver, at=virtual.clock())
        await asyncio.sleep(3_600)
        w.shown += [await receiver.waiting(), await receiver.quarantined()]


@virtual.clocked
async def test_no_receiver_and_no_client_shows_what_its_hook_raises(w: World) -> None:
    def told(*_: object) -> None:
        raise w.error

    async with w.seen(), w.receiver(ValueError(), on_delivery=told) as receiver:
        w.shown.append(await post(receiver, at=virtual.clock()))
    basiq = BasiqClient(w.fake.api_key, transport=InMemoryTransport(w.fake), on_request=told)
    async with w.seen():
        w.shown.append(await basiq.webhooks.list().collect())


@virtual.clocked
async def test_no_receiver_shows_what_its_inbox_raises(w: World) -> None:
    for call in ("check", "note", "set_note", "claim", "complete", "release", "entries", "quarantine", "claim_due"):
        inbox = fail_in(call, error=w.error)
        for deferred in (False, True):
            receiver = w.receiver(ValueError("no"), inbox=inbox, deferred=deferred, quarantine_after=1)
            async with w.seen(), receiver:
                w.shown.append(await receiver.is_ready())
                await post(receiver, at=virtual.clock())
                await asyncio.sleep(60)
                w.shown.append(await receiver.quarantined())


@virtual.clocked
async def test_no_replay_shows_what_its_target_and_record_raise(w: World) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise w.error

    for call in ("deliver", "known", "note", "set_note", "flush"):
        table: Any = Table()
        setattr(table, call, fail)
        async with w.seen():
            w.shown.append(await Replay(w.basiq, w.webhook_id, table, max_pause=60).run())


@virtual.clocked
async def test_nothing_that_a_person_does_with_an_inbox_shows_what_it_raises(w: World) -> None:
    for call in ("known", "note", "known_since", "entries", "claim", "complete", "check"):
        inbox = fail_in(call, error=w.error)
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
            async with w.seen():
                w.shown.append(await work())


@virtual.clocked
async def test_no_client_shows_what_a_transport_of_ones_own_raises(w: World) -> None:
    class Broken(InMemoryTransport):
        async def send(self, request: Request, /) -> Response:
            raise w.error

    async with w.seen():
        await BasiqClient(w.fake.api_key, transport=Broken(w.fake)).webhooks.list().collect()


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
    w, store = World(lost=False), BadStore()
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
    w = World(lost=False)
    async with shown(caplog) as texts, w.basiq, w.receiver(ValueError(), secret=BadStore(found)) as receiver:
        assert (await post(receiver, payload(), at=virtual.clock())).status == 401
    assert "the signing secret cannot be read from" in texts[-1]
    assert not [each for each in ("changeme", CANARY) if each in "".join(texts)]


def test_the_errors_of_a_group_are_named_and_a_made_up_sqlstate_is_not() -> None:
    error = DriverError(SECRET)
    error.sqlstate = SECRET
    group = ExceptionGroup("", [failed(person=SECRET), error, ValueError(SECRET)])
    assert store_failure(group) == "IntegrityError (SQLSTATE 23505), DriverError, ValueError"
