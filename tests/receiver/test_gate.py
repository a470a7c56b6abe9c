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

from basiq_async import ConfigurationError
from basiq_async.receiver import Delivery, MemoryInbox, Result, SecretFile, WebhookReceiver
from basiq_async.replay import Replay
from basiq_async.replay._recovery import RecoveryRun  # private: what recover returns
from tests.support import virtual
from tests.support.deliveries import SECRET, payload, quarantined_delivery, signed, taking
from tests.support.inboxes import fail_in
from tests.support.worlds import World, a_world


@pytest.fixture
async def neighbour() -> AsyncIterator[World]:
    """A service and its jobs, with the inbox of another webhook's service."""
    async with a_world() as world:
        world.fake.seed_messages(2, webhook_id=world.webhook_id)
        world.options = {"deferred": True}
        async with WebhookReceiver(SECRET, webhook_id="theirs", inbox=world.inbox):
            pass
        await world.inbox.quarantine("q", "a", quarantined_delivery("q"))
        await world.inbox.store(attrs.evolve(quarantined_delivery("w"), failures=0))
        yield world


def delivery() -> Delivery:
    return Delivery("m1", "user.created", "e1", {}, b"{}", {}, datetime.now(UTC))


RAISING: dict[str, Callable[[World], Awaitable[object]]] = {
    "a receiver's start": lambda n: n.receiver().__aenter__(),
    "WebhookReceiver.work": lambda n: n.receiver().work(until_empty=True),
    "WebhookReceiver.retry_quarantined": lambda n: n.receiver().retry_quarantined(),
    "WebhookReceiver.retry_waiting": lambda n: n.receiver().retry_waiting(),
    "WebhookReceiver.drop_quarantined": lambda n: n.receiver().drop_quarantined(["msg_1"]),
    "WebhookReceiver.forget": lambda n: n.receiver().forget("u-1"),
    "Replay.run": lambda n: n.replay(n.handle).run(),
    "Replay.run of a receiver": lambda n: n.replay().run(),
    "Replay.plan": lambda n: n.replay(n.handle).plan(),
    "Replay.retry_quarantined": lambda n: n.replay(n.handle).retry_quarantined(),
    "Replay.drop_quarantined": lambda n: n.replay(n.handle).drop_quarantined(["msg_1"]),
    "RecoveryRun.run": lambda n: n.recovery(n.handle, inbox=n.inbox).run(),
    "RecoveryRun.run of a receiver": lambda n: n.recovery().run(),
    "RecoveryRun.plan": lambda n: n.recovery(n.handle, inbox=n.inbox).plan(),
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
async def test_a_call_with_the_inbox_of_another_webhook_raises_and_changes_nothing(neighbour: World, name: str) -> None:
    before = state(neighbour.inbox)
    with pytest.raises(ConfigurationError, match="the inbox is of the webhook 'theirs'") as caught:
        await RAISING[name](neighbour)
    assert "basiq-async inbox join" in str(caught.value)
    assert (state(neighbour.inbox), neighbour.given) == (before, [])


async def test_a_delivery_with_the_inbox_of_another_webhook_gets_a_503_and_changes_nothing(
    neighbour: World, caplog: pytest.LogCaptureFixture
) -> None:
    before, receiver, body = state(neighbour.inbox), neighbour.receiver(), payload("user.created", "e1")
    headers = signed(body, secret=neighbour.fake.secret(neighbour.webhook_id))

    async def chunks() -> Any:
        yield body

    for outcome in (
        await receiver.handle(headers, body),
        await receiver.handle_stream(headers, chunks()),
        await receiver.dispatch(delivery()),
    ):
        assert outcome.result is Result.UNAVAILABLE
        assert isinstance(outcome.error, ConfigurationError)
    assert "inbox join" in caplog.text
    assert (state(neighbour.inbox), neighbour.given) == (before, [])


async def test_a_receiver_without_a_webhook_in_memory_is_asked_nothing() -> None:
    receiver = taking()
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
        await inbox.store(attrs.evolve(quarantined_delivery("e1"), failures=0, body=payload("user.created", "e1")))
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
    receiver = taking(webhook_id="w1", inbox=inbox, clock=virtual.clock)
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
    neighbour: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
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
