"""The secrets of a store: when they are read, read again, and what a failure does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from basiq_async import BasiqClient, ConfigurationError, InMemoryTransport, Secret
from basiq_async.receiver import Delivery, MemoryInbox, Result, SecretFile, WebhookReceiver
from basiq_async.testing import FakeBasiq, ManualClock, Quirks
from tests.support import virtual
from tests.support.deliveries import OTHER_SECRET, SECRET, payload, post, signed, taking
from tests.support.real_time import PATIENCE

URL = "https://service.example/basiq"


class Vault:
    """A store that counts its readings, and waits or fails where a test says so."""

    def __init__(self, *secrets: str) -> None:
        self.secrets: Sequence[str] | None = secrets
        self.readings = self.at_once = self.most_at_once = 0
        self.seconds = 0.0
        self.failure: Exception | None = None

    async def read(self) -> Sequence[str] | None:
        self.readings += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.seconds:
                await asyncio.sleep(self.seconds)
            if self.failure is not None:
                raise self.failure
            return self.secrets
        finally:
            self.at_once -= 1

    async def write(self, secret: Secret) -> None:
        self.secrets = (secret.reveal(), *(self.secrets or ()))


@virtual.clocked
async def test_a_store_is_read_at_the_start_and_again_when_a_signature_does_not_fit() -> None:
    vault = Vault(SECRET)
    async with taking(vault, clock=virtual.clock) as receiver:
        assert vault.readings == 1
        for _ in range(3):
            assert (await post(receiver, at=virtual.clock())).status == 204
        assert vault.readings == 1
        await vault.write(Secret(OTHER_SECRET))
        assert (await post(receiver, at=virtual.clock(), secret=OTHER_SECRET)).status == 204
        assert (await post(receiver, at=virtual.clock(), secret=SECRET)).status == 204
    assert vault.readings == 2


@virtual.clocked
async def test_a_flood_of_wrong_signatures_reads_it_once_a_second() -> None:
    vault = Vault(SECRET)
    receiver = taking(vault.read, clock=virtual.clock)
    for _ in range(30):
        for _ in range(50):
            assert (await post(receiver, at=virtual.clock(), secret=OTHER_SECRET)).status == 401
        await asyncio.sleep(0.1)
    assert vault.readings == 4  # the first one, and one in each second
    vault.secrets = [OTHER_SECRET]
    await asyncio.sleep(0.9)
    assert (await post(receiver, at=virtual.clock(), secret=OTHER_SECRET)).status == 204


@virtual.clocked
async def test_those_who_come_during_a_reading_wait_for_it() -> None:
    vault = Vault(SECRET)
    async with taking(vault, clock=virtual.clock) as receiver:
        vault.secrets, vault.seconds = [OTHER_SECRET, SECRET], 2.0
        body = payload()
        posts = [post(receiver, at=virtual.clock(), secret=OTHER_SECRET) for _ in range(9)]
        cancelled = asyncio.create_task(receiver.handle(signed(body, secret=OTHER_SECRET, at=virtual.clock()), body))
        await asyncio.sleep(0)
        others = asyncio.gather(*posts)
        await asyncio.sleep(1)
        cancelled.cancel()  # it began the reading, which goes on for the others
        assert {outcome.status for outcome in await others} == {204}
    assert (vault.readings, vault.most_at_once, cancelled.cancelled()) == (2, 1, True)


@virtual.clocked
@pytest.mark.parametrize("failure", ["raises", "hangs", "is empty", "holds no secret"])
async def test_a_failure_keeps_the_secrets_that_were_there(failure: str, caplog: pytest.LogCaptureFixture) -> None:
    vault = Vault(SECRET)
    async with taking(vault, clock=virtual.clock) as receiver:
        if failure == "raises":
            vault.failure = OSError("the vault is away")  # its text is not quoted: it may be what the vault was given
        elif failure == "hangs":
            vault.seconds = 1e6
        else:
            vault.secrets = [] if failure == "is empty" else ["changeme"]
        began = virtual.now()
        assert (await post(receiver, at=virtual.clock(), secret=OTHER_SECRET)).status == 401
        assert virtual.now() - began == (5 if failure == "hangs" else 0)
        assert (await post(receiver, at=virtual.clock())).status == 204
    said = {"raises": "stay in use: OSError\n", "hangs": "did not respond within 5 s", "is empty": "none yet"}
    assert "Vault" in caplog.text
    assert "those read before stay in use: " in caplog.text
    assert said.get(failure, "placeholder") in caplog.text


@virtual.clocked
async def test_a_replaced_secret_that_leaves_the_store_is_refused_within_the_hour() -> None:
    vault = Vault(OTHER_SECRET, SECRET)
    async with taking(vault, clock=virtual.clock) as receiver:
        vault.secrets = [OTHER_SECRET]
        assert (await post(receiver, at=virtual.clock())).status == 204
        await asyncio.sleep(3_602)
        assert (await post(receiver, at=virtual.clock())).status == 401
        await asyncio.sleep(10_000)
        assert (await post(receiver, at=virtual.clock(), secret=OTHER_SECRET)).status == 204
    assert vault.readings == 3


@virtual.clocked
async def test_a_rotation_by_hand_is_found_within_the_hour_though_each_signature_fits() -> None:
    """A forger who knows the former secret sends what fits."""
    vault = Vault(SECRET)
    async with taking(vault, clock=virtual.clock) as receiver:
        assert (await post(receiver, at=virtual.clock())).status == 204
        vault.secrets = [OTHER_SECRET]
        await asyncio.sleep(3_601)
        early = virtual.clock() - timedelta(minutes=4)  # the time in a delivery does not put off the look
        assert (await post(receiver, at=early)).status == 401
        assert (await post(receiver, at=virtual.clock(), secret=OTHER_SECRET)).status == 204


@virtual.clocked
async def test_a_store_that_fails_is_looked_at_once_a_minute_and_no_more() -> None:
    vault = Vault(SECRET)
    async with taking(vault, clock=virtual.clock) as receiver:
        vault.failure, vault.seconds = OSError(), 5.0
        await asyncio.sleep(3_601)
        for _ in range(120):
            assert (await post(receiver, at=virtual.clock())).status == 204
            await asyncio.sleep(1)
    assert vault.readings == 4  # each of the last ones took five seconds


@virtual.clocked
async def test_a_clock_that_is_set_back_puts_off_no_look_at_the_store() -> None:
    vault, ahead = Vault(SECRET), timedelta(days=30)

    def clock() -> datetime:
        return virtual.clock() + ahead

    async with taking(vault, clock=clock) as receiver:
        ahead = timedelta()
        vault.secrets = [OTHER_SECRET]
        assert (await post(receiver, at=clock())).status == 401


async def test_a_receiver_without_a_secret_starts_and_finds_the_secret_that_is_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    file = SecretFile(tmp_path / "secret")
    receiver = taking(file, clock=clock)
    async with receiver:
        outcome = await post(receiver, at=clock())
        assert (outcome.result, outcome.status) == (Result.REJECTED, 401)
        assert f"cannot be read from {file!r}, and each delivery is refused until then: there is none" in caplog.text
        assert "this receiver has no signing secret yet" in caplog.text
        with pytest.raises(ConfigurationError, match="there is no signing secret"):
            await receiver.sign("m-1", clock(), b"{}")
        await file.write(SECRET)
        clock.advance(1)
        assert (await post(receiver, at=clock())).status == 204
    assert SECRET not in caplog.text


async def test_closing_ends_a_reading_that_hangs() -> None:
    vault = Vault(SECRET)
    vault.seconds = PATIENCE
    receiver = taking(vault)
    waiting = asyncio.create_task(post(receiver))
    while not vault.at_once:
        await asyncio.sleep(0)
    async with asyncio.timeout(4):
        await receiver.aclose()
        assert (await waiting).status == 401
    assert vault.at_once == 0


async def test_a_rotation_reaches_the_running_receiver_through_the_file(tmp_path: Path) -> None:
    """With deferred handlers and everything else as it was: the receiver is the same one."""
    fake = FakeBasiq(quirks=Quirks(signing_key_on_update="new"))
    file, handled = SecretFile(tmp_path / "secret", clock=fake.clock), []
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        webhook = await basiq.webhooks.ensure(url=URL, subscribed_events=["user.created"], secret=file)
        await fake.advance(minutes=15)
        receiver = WebhookReceiver(file, webhook_id=webhook.id)

        @receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            handled.append(delivery.event_id)

        fake.route(URL, receiver)
        await fake.emit("user.created")
        await basiq.webhooks.ensure(url=URL, subscribed_events=["user.created", "user.updated"], secret=file)
        await fake.emit("user.created")
        assert len(handled) == 2
        assert len(await file.read()) == 2
        await fake.advance(hours=28)
        assert len(await file.read()) == 1


def test_two_receivers_of_one_store_share_an_inbox_and_those_of_two_stores_do_not() -> None:
    inbox = MemoryInbox()
    for _ in range(2):
        WebhookReceiver(SecretFile("a"), inbox=inbox)
    with pytest.raises(ConfigurationError, match="pass webhook_id to both"):
        WebhookReceiver(SecretFile("b"), inbox=inbox)


def test_what_cannot_be_a_store_is_refused() -> None:
    class Blocking:
        def read(self) -> str:
            return SECRET

    for store, said in (
        (Blocking(), "reads the signing secret must be an async function"),
        (lambda: SECRET, "must be an async function"),
        (SecretFile, "it is of type type"),
        (17, "it is of type int"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            WebhookReceiver(store)  # type: ignore[arg-type]


@pytest.mark.parametrize("arrives", ["streamed", "whole"])
@virtual.clocked
async def test_what_forgers_make_wait_for_a_slow_store_is_bounded_until_the_verdict(arrives: str) -> None:
    """Anybody can send the headers of a fresh delivery, and its body is kept until the store has been asked."""
    vault, mebibyte = Vault(SECRET), 2**20
    async with taking(vault, clock=virtual.clock) as receiver:
        assert (await post(receiver, at=virtual.clock())).status == 204
        vault.seconds = 5.0

        async def send(body: bytes, secret: str) -> Result:
            headers = signed(body, secret=secret, at=virtual.clock())
            if arrives == "whole":
                return (await receiver.handle(headers, body)).result

            async def chunks() -> AsyncGenerator[bytes]:
                yield body

            stream = chunks()
            return (
                await receiver.handle_stream(headers, stream, content_length=len(body), content_encoding=None)
            ).result

        forged = [asyncio.create_task(send(b"x" * mebibyte, OTHER_SECRET)) for _ in range(100)]
        await asyncio.sleep(1)
        refused = [each.result() for each in forged if each.done()]
        assert set(refused) == {Result.OVERLOADED}
        assert (100 - len(refused)) * (mebibyte - 16_384) <= 16 * mebibyte
        assert await send(payload(), SECRET) is Result.HANDLED, "a small one of Basiq is handled meanwhile"
        ended = await asyncio.gather(*forged)
        assert sorted(set(ended)) == [Result.OVERLOADED, Result.REJECTED]
        vault.seconds = 0.0
        await asyncio.sleep(2)
        again = await asyncio.gather(*(send(b"y" * mebibyte, OTHER_SECRET) for _ in range(16)))
        assert set(again) == {Result.REJECTED}, "what has its verdict counts no more"
