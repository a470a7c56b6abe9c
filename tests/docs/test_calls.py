"""``calls.txt`` is true: each function of the package that a piece of work calls is in it, and no other one."""

from __future__ import annotations

import gc
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import basiq_async
from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.receiver import Delivery, MemoryInbox, SQLiteInbox, WebhookReceiver
from basiq_async.testing import FakeBasiq
from tests.support.deliveries import SECRET, payload, signed
from tests.support.histories import Recorder, history

PACKAGE = str(Path(basiq_async.__file__).parent) + "/"
LISTED = Path(__file__).with_name("calls.txt")


@contextmanager
def calls() -> Iterator[set[tuple[str, str]]]:
    """Collect the files and names of the package's functions that are called, also in threads that start meanwhile."""
    called = set[tuple[str, str]]()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            called.add((code.co_filename.removeprefix(PACKAGE), code.co_qualname))

    gc.collect()  # what other tests left makes no calls meanwhile
    former = sys.getprofile(), threading.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(former[0])
        threading.setprofile(former[1])  # type: ignore[arg-type]


def lines_of(heading: str) -> list[str]:
    block = re.search(rf"## {heading}\n.*\n\n((?:.+\n)+)", LISTED.read_text())
    assert block is not None
    return block[1].splitlines()


def listed(heading: str) -> set[tuple[str, str]]:
    return {(line.split()[0], line.split()[1]) for line in lines_of(heading)}


async def test_the_list_has_each_function_that_a_list_calls() -> None:
    fake = FakeBasiq()
    webhook_id = fake.seed_messages(3)
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        await basiq.event_types.list().first()  # it has a token now
        with calls() as called:
            assert len([each async for each in basiq.messages.list(webhook_id)]) == 3
            found = {each for each in called if not each[0].startswith("testing/")}
    assert found == listed("A list")


async def test_the_list_has_each_call_of_an_inbox_that_a_replay_makes() -> None:
    made: list[tuple[str, str]] = []

    class Listening(MemoryInbox):
        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            if name not in ("known", "known_since", "note", "set_note", "claim", "complete"):
                return found

            async def call(*args: Any, **options: Any) -> Any:
                made.append((name, args[0].split()[0] if name in ("note", "set_note") else "-"))
                return await found(*args, **options)

            return call

    async with history(1) as h:
        inbox = Listening()
        await h.replay(Recorder(), inbox=inbox).run()
        first = [*made]
        await h.fake.emit("user.created")
        made.clear()
        await h.replay(Recorder(), inbox=inbox).run()
    rows = [line.split(maxsplit=2) for line in lines_of("A replay")]
    assert first == [(call, note) for call, note, why in rows if "later runs" not in why]
    assert made == [(call, note) for call, note, why in rows if "first run" not in why]


async def test_the_list_has_each_function_that_a_delivery_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basiq_async._storage.sqlite._CHECK_EVERY", 3_600.0)  # else a slow machine looks at the file
    with calls() as called:
        async with SQLiteInbox(tmp_path / "inbox.db") as inbox:
            receiver = WebhookReceiver(SECRET, webhook_id="w1", inbox=inbox)

            @receiver.on("user.created")
            async def handle(delivery: Delivery) -> None: ...

            for number in range(2):
                body = payload("user.created", f"e-{number}")
                headers = signed(body, message_id=f"msg_{number}")
                called.clear()
                outcome = await receiver.handle(headers, body)
                found = set(called)
                assert outcome.status == 204
            await receiver.aclose()
    assert found == listed("A delivery")
