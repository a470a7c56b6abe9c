"""The secrets that Basiq returns: stored first, looked for, and the newest one is the valid one."""

from __future__ import annotations

import asyncio
import itertools
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from basiq_async import (
    BasiqClient,
    ConfigurationError,
    InMemoryTransport,
    Secret,
)
from basiq_async.receiver import SecretFile
from basiq_async.testing import FakeBasiq, Quirks
from tests.support import virtual
from tests.support.deliveries import SECRET

from .conftest import EVENTS, URL, Basiq, create, in_memory


async def test_ensure_stores_each_secret_that_basiq_returns_before_it_returns(basiq: Basiq, tmp_path: Path) -> None:
    basiq.fake.quirks = Quirks(signing_key_on_update="new")
    file, given = SecretFile(tmp_path / "secret"), []

    async def tell(secret: Secret) -> None:
        given.append(secret)

    made = await basiq.client.webhooks.ensure(url=URL, subscribed_events=EVENTS, secret=file)
    assert await file.read() == (made.secret,)
    same = await basiq.client.webhooks.ensure(url=URL, subscribed_events=EVENTS, secret=tell)
    assert (same.action, same.secret, given) == ("unchanged", None, [])
    for store in (file, tell):
        changed = await basiq.client.webhooks.ensure(url=URL, subscribed_events=EVENTS, name=repr(store), secret=store)
        assert changed.secret is not None
        assert changed.secret == ((await file.read())[0] if store is file else given[0])
    assert (await file.read())[1] == made.secret


async def test_create_and_update_store_the_secret_too(basiq: Basiq, tmp_path: Path) -> None:
    store = SecretFile(tmp_path / "secret")
    made = await basiq.client.webhooks.create(url=URL, subscribed_events=EVENTS, secret=store)
    assert await store.read() == (made.secret,)
    basiq.fake.quirks = Quirks(signing_key_on_update="new")
    updated = await basiq.client.webhooks.update(made.id, name="n", secret=store)
    assert await store.read() == (updated.secret, made.secret)


@pytest.mark.parametrize("action", ["unchanged", "elsewhere", "updated"])
async def test_ensure_refuses_a_store_that_does_not_have_the_secret(tmp_path: Path, action: str) -> None:
    basiq, store = in_memory(), SecretFile(tmp_path / "secret")
    await create(basiq)
    url = f"{URL}/new" if action == "elsewhere" else URL
    named = {"description": "other"} if action == "updated" else {}
    ensure = partial(basiq.client.webhooks.ensure, url=url, subscribed_events=EVENTS, name="n", secret=store, **named)
    basiq.fake.quirks = Quirks(signing_key_in="nowhere")
    began = basiq.fake.now()
    with pytest.raises(ConfigurationError, match="Copy it from where this service ran before") as caught:
        await ensure()
    assert "which may make a new secret" in str(caught.value).partition("Copy it")[2]
    assert (basiq.fake.now() - began).total_seconds() == pytest.approx(5)
    await store.write(SECRET)
    assert (await ensure()).action in (action, "unchanged")


class Table:
    """A store that several processes share, and that may finish their writes in another order."""

    def __init__(self, *, first_is_last: bool = False, between: float = 0.0) -> None:
        self.secrets: list[str] = []
        self.first_is_last, self.between, self.writes = first_is_last, between, 0
        self.later = asyncio.Event()

    async def read(self) -> list[str]:
        return list(self.secrets)

    async def write(self, secret: Secret) -> None:
        self.writes += 1
        await asyncio.sleep(random.uniform(0, self.between))
        if self.first_is_last and self.writes == 1:
            await self.later.wait()
        self.secrets = list(dict.fromkeys([secret.reveal(), *self.secrets]))
        self.later.set()


@pytest.mark.parametrize("renews", ["kept", "new"])
@pytest.mark.parametrize("calls", ["ensure", "reactivate"])
async def test_the_newest_secret_of_a_store_is_the_valid_one_in_whichever_order_responses_are_stored(
    renews: Any, calls: str
) -> None:
    """Else the valid one would be the former one, which ends after 28 hours."""
    basiq, store = in_memory(), Table(first_is_last=True)
    ensure = basiq.client.webhooks.ensure
    made = await create(basiq)
    store.secrets = [basiq.fake.secret(made.id)]
    basiq.fake.quirks = Quirks(signing_key_on_update=renews)
    if calls == "ensure":
        found = await asyncio.gather(
            *(ensure(url=URL, subscribed_events=[each], secret=store) for each in ("user.created", "user.deleted"))
        )
        assert store.secrets[0] in [None if each.secret is None else each.secret.reveal() for each in found]
    else:
        await asyncio.gather(*(basiq.client.webhooks.reactivate(made.id, secret=store) for _ in range(2)))
    assert store.secrets[0] == basiq.fake.secret(made.id)
    webhook = await basiq.client.webhooks.get(made.id)
    assert set(webhook.subscribed_events) == {*EVENTS, *(("user.created", "user.deleted") if calls == "ensure" else ())}


@virtual.clocked
async def test_many_processes_that_store_secrets_at_once_end_with_the_valid_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for seed in range(20):
        random.seed(seed)
        fake, store = FakeBasiq(clock=virtual.clock, quirks=Quirks(signing_key_on_update="new")), Table(between=2.0)
        webhooks, webhook_id = (
            BasiqClient(fake.api_key, transport=InMemoryTransport(fake)).webhooks,
            fake.add_webhook(URL),
        )

        async def restart() -> None:
            await asyncio.sleep(random.uniform(0, 3))
            await webhooks.reactivate(webhook_id, secret=store)  # noqa: B023

        await asyncio.gather(*(restart() for _ in range(4)))
        assert store.secrets[0] == fake.secret(webhook_id), seed
        assert len(store.secrets) <= 8, "each of them updates twice at most, or nearly so"
    assert caplog.text == ""


async def test_where_others_store_secrets_without_an_end_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    basiq, numbers = in_memory(), itertools.count()

    class Busy(Table):
        async def write(self, secret: Secret) -> None:
            await super().write(secret)
            self.secrets.append(f"{SECRET}{next(numbers)}")

    made, store = await create(basiq), Busy()
    await basiq.client.webhooks.reactivate(made.id, secret=store)
    assert (store.writes, "store secrets of the webhook" in caplog.text) == (5, True)


async def test_the_secret_of_a_webhook_elsewhere_is_not_stored_though_basiq_shows_it(tmp_path: Path) -> None:
    """It may be another service's, whose name was copied."""
    basiq, store = in_memory(), SecretFile(tmp_path / "secret")
    basiq.fake.quirks = Quirks(signing_key_in="everywhere")
    await create(basiq)
    with pytest.raises(ConfigurationError, match="Copy it from where this service ran before"):
        await basiq.client.webhooks.ensure(url=f"{URL}/new", subscribed_events=EVENTS, name="n", secret=store)
    assert await store.read() == ()
    found = await basiq.client.webhooks.ensure(url=URL, subscribed_events=EVENTS, secret=store)
    assert (found.action, await store.read()) == ("unchanged", (found.secret,))


async def test_an_empty_store_is_asked_again_because_another_process_may_be_storing() -> None:
    basiq = in_memory()
    await create(basiq)

    class Shared:
        looks = 0

        async def read(self) -> list[str]:
            self.looks += 1
            return [SECRET] * (self.looks > 6)

        async def write(self, secret: Secret) -> None:
            raise AssertionError("nothing was returned")

    store = Shared()
    found = await basiq.client.webhooks.ensure(url=URL, subscribed_events=EVENTS, secret=store)
    assert (found.action, store.looks) == ("unchanged", 7)

    class Away(Shared):
        async def read(self) -> list[str]:
            raise RuntimeError("the vault is away")

    with pytest.raises(ConfigurationError, match=r"cannot be read from .*Away: RuntimeError"):
        await basiq.client.webhooks.ensure(url=URL, subscribed_events=EVENTS, secret=Away())


async def test_a_secret_that_cannot_be_stored_says_so_and_how_to_get_it_again(basiq: Basiq, tmp_path: Path) -> None:
    async def fail(secret: Secret) -> None:
        raise RuntimeError(f"parameters: {secret.reveal()}")

    with pytest.raises(ConfigurationError, match=r"was not stored in .*fail: RuntimeError\. Basiq returns it"):
        await basiq.client.webhooks.ensure(url=URL, subscribed_events=EVENTS, secret=fail)
    assert len(await basiq.client.webhooks.list().collect()) == 1


async def test_a_store_that_cannot_be_used_is_found_before_anything_changes(basiq: Basiq, tmp_path: Path) -> None:
    """Nor does a frame of the error show the text of a secret that was passed: tests/conftest.py looks there."""
    webhooks, wanted = basiq.client.webhooks, {"url": f"{URL}/new", "subscribed_events": EVENTS}
    made = await webhooks.create(url=URL, subscribed_events=EVENTS)
    stores: tuple[tuple[Any, str], ...] = (
        (SecretFile(tmp_path / "missing" / "secret"), "cannot be written: No such file"),
        (SecretFile, "secret must be a SecretFile"),
        (lambda secret: None, "must be an async function"),
        (SECRET, "secret must be a SecretFile"),
    )
    for store, said in stores:
        for call in (
            partial(webhooks.ensure, **wanted),
            partial(webhooks.create, **wanted),
            partial(webhooks.update, made.id, url=f"{URL}/new"),
            partial(webhooks.reactivate, made.id),
        ):
            with pytest.raises(ConfigurationError, match=said):
                await call(secret=store)
    assert [each.url for each in await webhooks.list().collect()] == [URL]


async def test_a_cancelled_ensure_has_stored_the_secret_that_it_got(basiq: Basiq) -> None:
    begun, stored = asyncio.Event(), []

    async def store(secret: Secret) -> None:
        begun.set()
        await asyncio.sleep(0.01)
        stored.append(secret)

    work = asyncio.create_task(basiq.client.webhooks.ensure(url=URL, subscribed_events=EVENTS, secret=store))
    await begun.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert len(stored) == 1
