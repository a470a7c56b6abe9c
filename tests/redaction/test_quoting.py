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
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

import basiq_async
from basiq_async import BasiqClient, BasiqError, InMemoryTransport, Message, Secret
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


# --- the code ---

PACKAGE = Path(basiq_async.__file__).parent
MAY = {
    ("_work/failures.py", "reason_text"): "it is one of them",
    ("_work/failures.py", "_line"): "it is one of them",
    ("_redaction/tracebacks.py", "_is_safe"): "it looks for credentials, and shows nothing",
    ("_wire/codec.py", "_at"): "the texts of the codec's own readers",
}
"""Functions that may make a text of an error that is not known to be ours."""
SHOWS = {"str", "repr", "format", "map", "print", "format_exception", "format_exception_only", "printable", "join"} | {
    "debug", "info", "warning", "error", "critical", "exception", "log", "_warn"
}  # fmt: skip
HIDES = re.compile(r"(hide_parameters|without_values)\(")


def fields_of_errors(trees: dict[str, ast.Module]) -> set[str]:
    """Return the names of the fields that hold an error, in each class that has one of that name."""
    kinds: dict[str, list[str]] = {}
    for node in [node for tree in trees.values() for each in ast.walk(tree) for node in ast.iter_child_nodes(each)]:
        if isinstance(node, ast.AnnAssign):
            kinds.setdefault(ast.unparse(node.target).rpartition(".")[2], []).append(ast.unparse(node.annotation))
    return {name for name, each in kinds.items() if all(re.search(r"\bException\b", kind) for kind in each)}


def own_errors(trees: dict[str, ast.Module]) -> set[str]:
    own = {"AssertionError", "TimeoutError"}  # of the conformance suites, and of time limits
    for _ in range(5):
        for tree in trees.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    bases = {name.rpartition(".")[2] for name in map(ast.unparse, node.bases)}
                    if bases & own or any(base.endswith(("Error", "Exception")) for base in bases):
                        own.add(node.name)
    return own


def foreign_texts(tree: ast.Module, own: set[str], fields: set[str]) -> Iterator[tuple[str, int]]:
    """Yield each place that makes a text of an error that is not ours, with the function around it."""

    def are_foreign(kinds: ast.expr | None) -> bool:
        each = kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]
        return any(one is None or ast.unparse(one).rpartition(".")[2] not in own for one in each)

    def is_of(node: ast.AST, names: frozenset[str]) -> bool:
        is_attribute = isinstance(node, ast.Attribute) and node.attr in fields
        return is_attribute or (isinstance(node, ast.Name) and node.id in names)

    def look(node: ast.AST, names: frozenset[str], function: str) -> Iterator[tuple[str, int]]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
            for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
                kinds = re.findall(r"\w+", "" if argument.annotation is None else ast.unparse(argument.annotation))
                errors = [kind for kind in kinds if kind.endswith(("Error", "Exception"))]
                names = names - {argument.arg} | ({argument.arg} if set(errors) - own else set())
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names = names - {node.name} | ({node.name} if are_foreign(node.type) else set())
        shows = False
        if isinstance(node, ast.FormattedValue):
            shows = is_of(node.value, names)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            shows = any(is_of(each, names) for each in ast.walk(node.right))
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            given = [*node.args, *[each.value for each in node.keywords if each.arg != "exc_info"]]
            shows = called in SHOWS and any(is_of(each, names) for each in given)
            shows = shows or (called == "exception" and bool(given))
            for each in node.keywords:
                if each.arg == "exc_info":
                    shows = shows or not HIDES.search(ast.unparse(each.value))
        if shows:
            yield function, node.lineno  # type: ignore[attr-defined]  # of an expression
        for child in ast.iter_child_nodes(node):
            yield from look(child, names, function)

    yield from look(tree, frozenset(), "")


def test_the_text_of_a_foreign_error_is_made_by_one_module() -> None:
    trees = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    own, fields = own_errors(trees), {"orig", "__cause__", "__context__"} | fields_of_errors(trees)
    found = {
        (file, function): line for file, tree in trees.items() for function, line in foreign_texts(tree, own, fields)
    }
    assert {place: line for place, line in found.items() if place not in MAY} == {}
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
