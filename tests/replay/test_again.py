"""Handling again on purpose: whatever the inbox knows, once for each name, and nothing that has attempts of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from basiq_async import BasiqClient, ConfigurationError, InMemoryTransport, Message
from basiq_async.receiver import Delivery, SQLiteInbox, WebhookReceiver
from basiq_async.replay import HttpTarget, JSONLinesTarget, Replay, event_types, recover
from basiq_async.testing import FakeBasiq
from tests.support.deliveries import SECRET

URL = "https://service.example/basiq"
LIVE, LATER = "consent.revoked", "user.created"
ALL: Any = {"where": lambda message: True}


@attrs.define
class Service:
    """A service with three handled events, two that wait, two in the quarantine, and two that it missed."""

    fake: FakeBasiq
    basiq: BasiqClient
    inbox: SQLiteInbox
    webhook_id: str
    receiver: WebhookReceiver = attrs.field(init=False)
    got: list[Delivery] = attrs.field(factory=list)
    fails: bool = False

    def __attrs_post_init__(self) -> None:
        secret = self.fake.secret(self.webhook_id)
        self.receiver = WebhookReceiver(
            secret, webhook_id=self.webhook_id, inbox=self.inbox, quarantine_after=1, clock=self.fake.clock
        )

        async def handle(delivery: Delivery) -> None:
            if self.fails:
                raise ValueError("broken")
            self.got.append(delivery)

        self.receiver.on(LIVE)(handle)
        self.receiver.on(LATER, deferred=True)(handle)

    def replay(self, again: str | None = "bug-1234", **more: Any) -> Replay:
        return Replay(self.basiq, self.webhook_id, self.receiver, again=again, **{**ALL, **more})

    @property
    def counts(self) -> Counter[str]:
        return Counter(each.event_id for each in self.got)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    fake = FakeBasiq()
    webhook_id = fake.add_webhook(URL, [LIVE, LATER])
    async with (
        BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq,
        SQLiteInbox(tmp_path / "inbox.db", clock=fake.clock) as inbox,
    ):
        made = Service(fake, basiq, inbox, webhook_id)
        fake.route(URL, made.receiver)
        for kind, count, fails in ((LIVE, 3, False), (LATER, 2, False), (LIVE, 2, True)):
            made.fails = fails
            for _ in range(count):
                await fake.emit(kind)
        made.fails = False
        fake.endpoint_down(URL)
        for _ in range(2):
            await fake.emit(LIVE)
        fake.endpoint_up(URL)
        made.got.clear()
        yield made


async def test_what_was_handled_is_handled_again_once_for_each_name(service: Service) -> None:
    s = service
    for name, times in (("bug-1234", 1), ("bug-1234", 1), ("bug-1235", 2)):
        report = await s.replay(name).run()
        assert report.again == name
        handled = [count for _, count in s.counts.most_common()][:3]
        assert handled == [times] * 3
    assert {each.again for each in s.got} == {"bug-1234", "bug-1235"}
    keys = {each.key for each in s.got}
    assert len(keys) == len(s.got), "a partner's idempotency would swallow the repeat"
    assert all(each.key.startswith(f"again:{each.again}:") for each in s.got)


async def test_what_waits_or_is_in_the_quarantine_is_left_there_and_counted(service: Service) -> None:
    s = service
    report = await s.replay().run()
    assert (report.skipped, report.waiting, report.finished) == ({"waiting": 2, "quarantined": 2}, 2, False)
    assert report.handled == 5, "three that were handled, and two that were missed"
    assert (len(await s.receiver.quarantined()), (await s.receiver.waiting()).count) == (2, 2)
    await s.receiver.retry_quarantined()
    assert (await s.replay().run()).handled == 2, "they were handled in their own name, and now in this one"
    await s.receiver.work(until_empty=True)
    assert s.counts.total() == 11


async def test_what_was_missed_is_handled_once_and_no_recovery_brings_it_again(service: Service) -> None:
    s = service
    await s.replay().run()
    found = await recover(s.basiq, s.webhook_id, s.receiver)
    assert (found.handled, s.counts.most_common(1)[0][1]) == (0, 1)


async def test_a_run_that_ends_early_is_continued(service: Service) -> None:
    """With a function, and the inbox of the service."""
    s, got = service, list[str]()

    async def take(message: Message) -> None:
        got.append(message.id)
        job.stop()

    handled = 0
    while handled < 5:
        job = Replay(s.basiq, s.webhook_id, take, inbox=s.inbox, again="bug-1", concurrency=1, **ALL)
        report = await job.run()
        assert report.handled > 0
        handled += report.handled
    assert len(set(got)) == len(got) == 5


async def test_what_fails_is_quarantined_under_the_name_and_the_receiver_tries_it_again(service: Service) -> None:
    s = service
    s.fails = True
    report = await s.replay(where=event_types(LIVE)).run()
    assert report.skipped == {"quarantined": 7, "where": 2}
    s.fails = False
    await s.receiver.retry_quarantined()
    assert s.counts.total() == 7
    assert Counter(each.again for each in s.got) == {"bug-1234": 5, None: 2}


async def test_pages_of_a_repeat_are_worked_on_by_any_process(service: Service) -> None:
    s = service
    pages = [page async for page in s.replay().pages()]
    for page in pages * 2:
        await s.replay().work(page)
    assert s.counts.most_common(1)[0][1] == 1
    assert s.counts.total() == 5
    with pytest.raises(ConfigurationError):
        await s.replay("another").work(pages[0])


async def test_an_endpoint_and_a_file_are_refused_with_the_line_of_the_receiver(
    service: Service, tmp_path: Path
) -> None:
    s = service
    async with HttpTarget(URL, SECRET) as target:
        with pytest.raises(ConfigurationError, match=r"200 \(duplicate\).* --receiver MODULE:RECEIVER --again bug-1"):
            Replay(s.basiq, s.webhook_id, target, inbox=s.inbox, again="bug-1", **ALL)
    with pytest.raises(ConfigurationError, match="needs an inbox"):
        Replay(s.basiq, s.webhook_id, JSONLinesTarget(tmp_path / "x.jsonl"), again="bug-1", **ALL)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "x" * 65, 5])
async def test_a_name_is_short_and_plain(service: Service, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="again must be a short name"):
        service.replay(name)


async def test_without_a_selection_nothing_is_handled_again(service: Service) -> None:
    with pytest.raises(ConfigurationError, match="where=lambda message: True"):
        service.replay(where=None)
