"""A message that kills its process: it is named and set aside after a few ends, and nothing else is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest

from basiq_async import BasiqClient, InMemoryTransport, Message
from basiq_async.receiver import MemoryInbox
from basiq_async.replay import Replay, share
from basiq_async.replay._traces import NOTE, PageTraces  # private: two processes never meet on purpose
from basiq_async.testing import FakeBasiq
from tests.support import virtual
from tests.support.histories import History, Recorder, Watching, history
from tests.support.killing import Hasty, start


class Killed:
    """Shared runs in forks of this process, whose handler kills its process at one message."""

    def __init__(self, folder: Path, count: int, killer: int) -> None:
        self.fake = FakeBasiq(seed="killer", page_size=10)
        self.webhook_id = self.fake.seed_messages(count)
        self.inbox, self.effects, self.report = folder / "inbox.db", folder / "effects", folder / "report"
        self.ids = asyncio.run(self._list())
        self.killer = self.ids[killer]

    async def _list(self) -> list[str]:
        async with self._client() as client:
            return [each.id async for each in client.messages.list(self.webhook_id)]

    def _client(self) -> BasiqClient:
        return BasiqClient(FakeBasiq.DEFAULT_API_KEY, transport=InMemoryTransport(self.fake))

    async def handle(self, message: Message) -> None:
        if message.id == self.killer:
            os.kill(os.getpid(), signal.SIGKILL)
        with self.effects.open("a") as effects:
            effects.write(f"{message.id}\n")

    async def share(self) -> None:
        async def send(page: str) -> None: ...

        async with self._client() as client, Hasty(self.inbox, 0.2) as inbox:
            report = await share(Replay(client, self.webhook_id, self.handle, inbox=inbox, concurrency=4), send)
        self.report.write_text(json.dumps([report.handled, report.failed, report.quarantined, report.finished]))

    def run(self) -> int:
        return start(lambda _: self.share()).join()


def test_a_message_that_kills_each_process_is_set_aside_after_three_ends_and_all_others_are_handled(
    tmp_path: Path,
) -> None:
    killed = Killed(tmp_path, 40, killer=25)
    ends = 0
    while killed.run() < 0:
        ends += 1
        assert ends < 10
    assert ends == 3
    effects = killed.effects.read_text().split()
    assert set(effects) == set(killed.ids) - {killed.killer}
    assert len(effects) - len(set(effects)) <= 4 * ends
    assert json.loads(killed.report.read_text())[1:] == [1, 1, True]
    assert killed.run() == 0
    assert json.loads(killed.report.read_text()) == [0, 0, 1, True]


class Mortal:
    """The inbox of a process, as it sees it: after its death, no call comes through."""

    def __init__(self, inbox: Watching) -> None:
        self.is_dead = asyncio.Event()
        for name in ("known", "note", "set_note", "check", "claim", "complete", "release", "quarantine", "entries"):
            setattr(self, name, self._guard(getattr(inbox, name)))
        self.known_since = inbox.known_since

    def _guard(self, call: Any) -> Any:
        async def guarded(*arguments: Any, **options: Any) -> Any:
            if self.is_dead.is_set():
                raise RuntimeError("the process is dead")
            return await call(*arguments, **options)

        return guarded

    async def die(self) -> None:
        self.is_dead.set()
        await asyncio.Event().wait()


@attrs.define(eq=False)
class Processes:
    """Processes that get the same page, each with a handler that dies at some messages."""

    history: History
    killers: set[str]
    inbox: Watching = attrs.field(factory=lambda: Watching(clock=virtual.clock))
    begun: list[list[str]] = attrs.field(factory=list)
    handled: list[str] = attrs.field(factory=list)

    async def work(self, page: str) -> bool:
        """Start a process that works on a page. Return whether it came to its end."""
        own, begun = Mortal(self.inbox), list[str]()
        self.begun.append(begun)

        async def handle(message: Message) -> None:
            begun.append(message.id)
            if message.id in self.killers:
                await own.die()
            self.handled.append(message.id)

        replay = self.history.replay(handle, inbox=own, concurrency=3)
        working = asyncio.create_task(replay.work(page))
        dying = asyncio.create_task(own.is_dead.wait())
        await asyncio.wait([working, dying], return_when=asyncio.FIRST_COMPLETED)
        for each in (working, dying):
            each.cancel()
            with suppress(asyncio.CancelledError, RuntimeError):
                await each
        return not own.is_dead.is_set()


@virtual.clocked
async def test_messages_that_kill_are_found_one_after_the_other_and_the_last_run_does_not_meet_them() -> None:
    async with history(10) as h:
        ids = await h.ids()
        killers = [ids[4], ids[7]]
        processes = Processes(h, set(killers))
        (page,) = [page async for page in h.replay(Recorder(), inbox=processes.inbox).pages()]
        while not await processes.work(page):
            assert len(processes.begun) < 20
        alone = [each for each in processes.begun[1:] if each]
        assert [len(each) for each in alone if each[0] == killers[0]][1:] == [1], "the suspect comes first"
        for killer in killers:
            assert sum(each.count(killer) for each in processes.begun) == 3
        assert sorted(processes.handled) == sorted(set(ids) - set(killers)), "all others, once"
        assert set(processes.inbox.set_aside) == set(killers)
        entries = await processes.inbox.entries()
        assert {each.error for each in entries} == {"the process was killed 3 times while it handled this"}
        assert await noted(processes.inbox) == {}


@virtual.clocked
async def test_what_a_worker_set_aside_is_a_failure_in_the_report() -> None:
    async with history(30, page_size=10) as h:
        ids = await h.ids()
        processes = Processes(h, {ids[4]})
        pages = [page async for page in h.replay(Recorder(), inbox=processes.inbox).pages()]
        for _ in range(3):
            assert not await processes.work(pages[0])
        processes.killers.clear()  # it would end the coordinator too, if it were handed out
        done = len(processes.handled)

        async def send(page: str) -> None: ...

        coordinator = h.replay(Recorder(), inbox=processes.inbox)
        report = await share(coordinator, send)
        assert (report.handled, report.failed, report.quarantined, report.finished) == (29 - done, 1, 1, True)
        assert report.skipped == ({"handled-before": done} if done else {})


# --- what is noted ---


def traces(inbox: MemoryInbox) -> PageTraces:
    return PageTraces(inbox.note, lambda name, text, expected: inbox.set_note(name, text, expected=expected))


async def noted(inbox: MemoryInbox) -> object:
    return json.loads(await inbox.note(NOTE) or "{}")


async def test_a_page_that_ends_leaves_nothing_and_one_that_does_not_says_what_was_under_way() -> None:
    inbox = MemoryInbox()
    trace = await traces(inbox).begin("a")
    assert trace.former is None
    assert await traces(inbox).names() == {"a"}
    await trace.end()
    assert await noted(inbox) == {}
    await traces(inbox).begin("a")
    second = await traces(inbox).begin("a")
    assert (second.former, second.key, second.ends_at("x")) == ([None, 0], None, 0)
    for ends in range(3):
        again = await traces(inbox).begin("a")
        assert again.ends_at("x") == ends
        await again.attempt("x")
    third = await traces(inbox).begin("a")
    assert third.ends_at("x") == 3
    await third.attempt("y")
    await third.take_back("y")
    assert await noted(inbox) == {"a": ["y", 0]}


async def test_processes_that_change_the_note_at_once_lose_nothing_of_each_other() -> None:
    inbox = Watching()
    found = await asyncio.gather(*[traces(inbox).begin(f"{each}") for each in range(20)])
    assert await traces(inbox).names() == {f"{each}" for each in range(20)}
    await asyncio.gather(*[each.end() for each in found[:10]])
    assert await traces(inbox).names() == {f"{each}" for each in range(10, 20)}


async def test_the_note_is_bounded_and_the_oldest_pages_go() -> None:
    inbox = MemoryInbox()
    for each in range(210):
        await traces(inbox).begin(f"{each}")
    assert await traces(inbox).names() == {f"{each}" for each in range(10, 210)}


@pytest.mark.parametrize("text", ["", "[]", "7", '{"a": 1}', '{"a": ["x"]}', '{"a": ["x", "y"]}', "["])
async def test_a_note_that_another_program_wrote_is_none(text: str) -> None:
    inbox = MemoryInbox()
    await inbox.set_note(NOTE, text)
    trace = await traces(inbox).begin("b")
    assert trace.former is None
    assert await traces(inbox).names() == {"b"}


@virtual.clocked
async def test_what_a_live_process_holds_alone_is_waited_for_and_not_counted_out() -> None:
    async with history(10) as h:
        inbox, slow = Watching(), Recorder(lambda _: asyncio.sleep(20))
        first, second = (h.replay(slow, inbox=inbox, concurrency=1) for _ in range(2))
        (page,) = [page async for page in first.pages()]
        async with asyncio.TaskGroup() as group:
            group.create_task(first.work(page))
            await asyncio.sleep(1)
            group.create_task(second.work(page))
        assert sorted(slow.ids) == sorted(await h.ids())
        assert await noted(inbox) == {}
        assert inbox.set_aside == []


@virtual.clocked
async def test_a_page_that_is_cancelled_has_ended() -> None:
    async with history(10) as h:
        inbox = Watching()
        replay = h.replay(Recorder(lambda _: asyncio.sleep(20)), inbox=inbox)
        (page,) = [page async for page in replay.pages()]
        working = asyncio.create_task(replay.work(page))
        await asyncio.sleep(1)
        assert await noted(inbox) != {}
        working.cancel()
        await asyncio.wait([working])
        assert await noted(inbox) == {}
