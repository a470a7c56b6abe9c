"""Each call of a receiver or a job that uses an inbox asks first whether it is that of its webhook."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from basiq_async import BasiqClient, ConfigurationError, InMemoryTransport, Message
from basiq_async.receiver import Delivery, MemoryInbox, Result, SecretFile, WebhookReceiver
from basiq_async.replay import Replay, recover
from basiq_async.replay._recovery import RecoveryRun  # private: what recover returns
from basiq_async.testing import FakeBasiq
from tests.support import virtual
from tests.support.deliveries import SECRET, payload, quarantined_delivery, signed
from tests.support.inboxes import fail_in


@attrs.define
class Neighbour:
    """A receiver, a replay and a recovery of a webhook, with the inbox of another webhook's service."""

    basiq: BasiqClient
    webhook_id: str
    inbox: MemoryInbox = attrs.Factory(MemoryInbox)
    handled: list[object] = attrs.Factory(list[object])

    def receiver(self) -> WebhookReceiver:
        made = WebhookReceiver(SECRET, webhook_id=self.webhook_id, inbox=self.inbox, deferred=True)
        made.on("*")(self.handle)
        return made

    async def handle(self, given: object) -> None:
        self.handled.append(given)

    async def take(self, message: Message) -> None:
        self.handled.append(message)

    def replay(self, target: Any = None) -> Replay:
        return Replay(self.basiq, self.webhook_id, target or self.take, inbox=self.inbox)

    def recover(self, target: Any = None) -> RecoveryRun:
        return recover(self.basiq, self.webhook_id, target or self.take, inbox=self.inbox)


@pytest.fixture
async def neighbour() -> AsyncIterator[Neighbour]:
    fake = FakeBasiq()
    webhook_id = fake.add_webhook("https://service.example/basiq")
    fake.seed_messages(2, webhook_id=webhook_id)
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        made = Neighbour(basiq, webhook_id)
        async with WebhookReceiver(SECRET, webhook_id="theirs", inbox=made.inbox):
            pass
        await made.inbox.quarantine("q", "a", quarantined_delivery("q"))
        await made.inbox.store(attrs.evolve(quarantined_delivery("w"), failures=0))
        yield made


def delivery() -> Delivery:
    return Delivery("m1", "user.created", "e1", {}, b"{}", {}, datetime.now(UTC))


RAISING: dict[str, Callable[[Neighbour], Awaitable[object]]] = {
    "a receiver's start": lambda n: n.receiver().__aenter__(),
    "WebhookReceiver.work": lambda n: n.receiver().work(until_empty=True),
    "WebhookReceiver.retry_quarantined": lambda n: n.receiver().retry_quarantined(),
    "WebhookReceiver.retry_waiting": lambda n: n.receiver().retry_waiting(),
    "WebhookReceiver.drop_quarantined": lambda n: n.receiver().drop_quarantined(["msg_1"]),
    "WebhookReceiver.forget": lambda n: n.receiver().forget("u-1"),
    "Replay.run": lambda n: n.replay().run(),
    "Replay.run of a receiver": lambda n: n.replay(n.receiver()).run(),
    "Replay.plan": lambda n: n.replay().plan(),
    "Replay.retry_quarantined": lambda n: n.replay().retry_quarantined(),
    "Replay.drop_quarantined": lambda n: n.replay().drop_quarantined(["msg_1"]),
    "RecoveryRun.run": lambda n: n.recover().run(),
    "RecoveryRun.run of a receiver": lambda n: n.recover(n.receiver()).run(),
    "RecoveryRun.plan": lambda n: n.recover().plan(),
}
"""The calls that pass the gate, and raise what it says."""
BY_OUTCOME = {"WebhookReceiver.handle", "WebhookReceiver.handle_stream", "WebhookReceiver.dispatch"}
BY_FALSE = {"WebhookReceiver.is_ready"}
UNASKED = {
    "WebhookReceiver.sign": "uses no inbox",
    "WebhookReceiver.aclose": "ends what runs",
    "WebhookReceiver.quarantined": "only looks",
    "WebhookReceiver.waiting": "only looks",
    "Replay.quarantined": "only looks",
    "Replay.export_quarantined": "only looks",
    "Replay.pages": "MemoryInbox has none: tests/replay/test_share.py",
    "Replay.work": "MemoryInbox has none: tests/replay/test_share.py",
}


def test_each_call_that_awaits_is_in_one_of_these_lists() -> None:
    import inspect

    found = {
        f"{each.__name__}.{name}"
        for each in (WebhookReceiver, Replay, RecoveryRun)
        for name, call in vars(each).items()
        if not name.startswith("_") and (inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call))
    }
    listed = {name for name in RAISING if "." in name and " " not in name}
    assert found == listed | BY_OUTCOME | BY_FALSE | set(UNASKED)


def state(inbox: MemoryInbox) -> dict[str, Any]:
    names = ("_done", "_claims", "_failures", "_quarantined", "_waiting", "_notes")
    return {name: copy.deepcopy(vars(inbox)[name]) for name in names}


@pytest.mark.parametrize("name", RAISING)
async def test_a_call_with_the_inbox_of_another_webhook_raises_and_changes_nothing(
    neighbour: Neighbour, name: str
) -> None:
    before = state(neighbour.inbox)
    with pytest.raises(ConfigurationError, match="the inbox is of the webhook 'theirs'") as caught:
        await RAISING[name](neighbour)
    assert "basiq-async inbox join" in str(caught.value)
    assert (state(neighbour.inbox), neighbour.handled) == (before, [])


async def test_a_delivery_with_the_inbox_of_another_webhook_gets_a_503_and_changes_nothing(
    neighbour: Neighbour, caplog: pytest.LogCaptureFixture
) -> None:
    before, receiver, body = state(neighbour.inbox), neighbour.receiver(), payload("user.created", "e1")

    async def chunks() -> Any:
        yield body

    for outcome in (
        await receiver.handle(signed(body), body),
        await receiver.handle_stream(signed(body), chunks()),
        await receiver.dispatch(delivery()),
    ):
        assert outcome.result is Result.UNAVAILABLE
        assert isinstance(outcome.error, ConfigurationError)
    assert "inbox join" in caplog.text
    assert (state(neighbour.inbox), neighbour.handled) == (before, [])


async def test_a_receiver_without_a_webhook_in_memory_is_asked_nothing() -> None:
    receiver = WebhookReceiver(SECRET)
    receiver.on("*")(Neighbour.handle.__get__(Neighbour(None, "")))  # type: ignore[arg-type]  # it uses no client
    body = payload("user.created", "e1")
    assert (await receiver.handle(signed(body), body)).result is Result.HANDLED
    assert (await receiver.is_ready(), await receiver.inbox.note("webhooks")) == (True, None)


@virtual.clocked
async def test_a_worker_whose_inbox_was_given_to_another_service_idles_and_logs_and_goes_on_when_it_joins(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inbox, handled = MemoryInbox(clock=virtual.clock), list[object]()
    receiver = WebhookReceiver(SECRET, webhook_id="w1", inbox=inbox, deferred=True, clock=virtual.clock)

    @receiver.on("*")
    async def handle(delivery: Delivery) -> None:
        handled.append(delivery.event_id)

    async with receiver:
        await asyncio.sleep(1)
        noted = await inbox.note("webhooks")
        assert noted is not None
        await inbox.set_note("webhooks", noted.replace("w1", "w2"))  # flushed, and founded by another service
        await asyncio.sleep(70)
        await inbox.store(attrs.evolve(quarantined_delivery("w"), failures=0))
        await asyncio.sleep(200)
        assert handled == []
        seen = len([each for each in caplog.records if "inbox join" in each.getMessage()])
        assert 1 <= seen <= 10
        assert not await receiver.is_ready()
        await inbox.set_note("webhooks", noted)
        await asyncio.sleep(100)
        assert len(handled) == 1
        assert await receiver.is_ready()


@virtual.clocked
async def test_after_a_flush_a_service_founds_its_inbox_again_within_a_minute_of_deliveries(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    receiver = WebhookReceiver(SECRET, webhook_id="w1", inbox=inbox, clock=virtual.clock)
    receiver.on("*")(Neighbour.handle.__get__(Neighbour(None, "")))  # type: ignore[arg-type]  # it uses no client
    async with receiver:
        inbox._notes.clear()  # private: as a server that was flushed
        fail_in("known_since", error=OSError("away"), inbox=inbox)
        await asyncio.sleep(61)
        body = payload("user.created", "e1")
        assert (await receiver.handle(signed(body, at=virtual.clock()), body)).result is Result.UNAVAILABLE
        assert "emptied" not in caplog.text
        del inbox.known_since
        assert (await receiver.handle(signed(body, at=virtual.clock()), body)).result is Result.HANDLED
        assert "w1" in (await inbox.note("webhooks") or "")
        assert caplog.text.count("the inbox was emptied while it was in use") == 1


# --- ready ---


async def test_ready_is_true_only_of_what_can_handle_entered_or_not(
    neighbour: Neighbour, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    no_secret = WebhookReceiver(SecretFile(tmp_path / "none"), webhook_id="w1", inbox=MemoryInbox())
    cannot_write = WebhookReceiver(SECRET, webhook_id="w1", inbox=fail_in("check", error=OSError("read-only")))
    for receiver, why in (
        (neighbour.receiver(), "inbox join"),
        (no_secret, "no signing secret"),
        (cannot_write, "read-only"),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert not await receiver.is_ready()
        assert why in caplog.text
    async with no_secret:
        assert not await no_secret.is_ready()
    well = WebhookReceiver(SECRET, webhook_id="w1", inbox=MemoryInbox())
    assert await well.is_ready()
    assert await well.inbox.note("webhooks") is None, "a probe founds nothing"


@virtual.clocked
async def test_what_strangers_send_changes_nothing_of_it() -> None:
    receiver = WebhookReceiver(SECRET, webhook_id="w1", inbox=MemoryInbox(), clock=virtual.clock)
    body = payload("user.created", "e1")
    for secret in ("whsec_c29tZSBvdGhlciBzaWduaW5nIHNlY3JldA==", SECRET):
        headers = signed(body, secret=secret, at=virtual.clock() + timedelta(days=1))
        assert (await receiver.handle(headers, body)).result is Result.REJECTED
    assert await receiver.is_ready()
