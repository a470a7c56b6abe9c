"""The page of calls is true: each function of the package that a piece of work calls is on it, and no other one."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import basiq_async
from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.receiver import Delivery, SQLiteInbox, WebhookReceiver
from basiq_async.testing import FakeBasiq
from tests.support.deliveries import SECRET, payload, signed

PACKAGE = str(Path(basiq_async.__file__).parent) + "/"
PAGE = Path(__file__).parents[2] / "docs" / "calls.md"


@contextmanager
def calls() -> Iterator[set[tuple[str, str]]]:
    """Collect the files and names of the package's functions that are called, also in threads that start meanwhile."""
    called = set[tuple[str, str]]()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            called.add((code.co_filename.removeprefix(PACKAGE), code.co_qualname))

    former = sys.getprofile(), threading.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(former[0])
        threading.setprofile(former[1])  # type: ignore[arg-type]


def on_the_page(heading: str) -> set[tuple[str, str]]:
    block = re.search(rf"## {heading}\n.*?```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    return {(line.split()[0], line.split()[1]) for line in block[1].splitlines()}


async def test_the_page_has_each_function_that_a_list_calls() -> None:
    fake = FakeBasiq()
    webhook_id = fake.seed_messages(3)
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        await basiq.event_types.list().first()  # it has a token now
        with calls() as called:
            assert len([each async for each in basiq.messages.list(webhook_id)]) == 3
            found = {each for each in called if not each[0].startswith("testing/")}
    assert found == on_the_page("A list")


async def test_the_page_has_each_function_that_a_delivery_calls(tmp_path: Path) -> None:
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
    assert found == on_the_page("A delivery")
