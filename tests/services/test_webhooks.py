"""Webhooks: create, change, delete, ensure, and wait for them."""

from __future__ import annotations

import asyncio
import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest

from basiq_async import (
    BadRequestError,
    ConfigurationError,
    ConflictError,
    NotFoundError,
    Request,
    RequestTimeoutError,
    Response,
    Secret,
    Webhook,
)
from basiq_async.receiver import SecretFile
from basiq_async.testing import Quirks
from tests.support import virtual
from tests.support.deliveries import SECRET
from tests.support.scripted import Scripted, answer, client

from .conftest import EVENTS, URL, Basiq, create


async def test_creating_a_webhook_gives_its_secret_this_once(basiq: Basiq) -> None:
    made = await create(basiq)
    assert (made.url, made.subscribed_events, made.name, made.description) == (URL, tuple(EVENTS), "n", "d")
    assert made.status == "pending-approval"
    assert made.secret is not None
    found = await basiq.client.webhooks.get(made.id)
    assert found.secret is None
    assert (found.id, found.url, found.subscribed_events) == (made.id, URL, tuple(EVENTS))
    assert [webhook.id for webhook in await basiq.client.webhooks.list().collect()] == [made.id]


async def test_a_second_webhook_with_the_same_url_is_a_conflict(basiq: Basiq) -> None:
    await create(basiq)
    with pytest.raises(ConflictError, match="409 resource-already-exists") as caught:
        await create(basiq)
    assert caught.value.correlation_id
    assert (caught.value.method, caught.value.path) == ("POST", "/notifications/webhooks")


async def test_an_event_type_that_does_not_exist_is_a_bad_request(basiq: Basiq) -> None:
    with pytest.raises(BadRequestError, match="400 invalid-content"):
        await basiq.client.webhooks.create(url=URL, subscribed_events=["no.such"])


async def test_the_refusal_of_an_event_type_says_which_and_names_the_nearest(basiq: Basiq) -> None:
    webhooks = basiq.client.webhooks
    made = await create(basiq)
    wrong = ["user.created", "consent.revokd"]
    for call in (
        webhooks.ensure(url="https://example.com/new", subscribed_events=wrong),
        webhooks.ensure(url=URL, subscribed_events=wrong),
        webhooks.update(made.id, url=URL, subscribed_events=wrong),
    ):
        with pytest.raises(BadRequestError) as caught:
            await call
        said = "'consent.revokd' is not an event type that Basiq documents (did you mean 'consent.revoked'?)"
        assert said in str(caught.value)
        assert "user.created" not in str(caught.value)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


async def test_updating_changes_what_is_named_and_gives_the_secret(basiq: Basiq) -> None:
    made = await create(basiq)
    changed = await basiq.client.webhooks.update(made.id, url=URL, subscribed_events=["user.created"], name="other")
    assert changed.secret is not None
    assert (changed.subscribed_events, changed.name) == (("user.created",), "other")


async def test_deleting(basiq: Basiq) -> None:
    made = await create(basiq)
    await basiq.client.webhooks.delete(made.id)
    with pytest.raises(NotFoundError, match="404 resource-not-found"):
        await basiq.client.webhooks.get(made.id)
    with pytest.raises(NotFoundError):
        await basiq.client.webhooks.delete(made.id)


@pytest.mark.parametrize("renewed", [False, True], ids=["at once", "with a new token"])
async def test_a_delete_whose_answer_was_lost_has_succeeded(basiq: Basiq, renewed: bool) -> None:
    made = await create(basiq)
    basiq.fake.fail_next(drop="response", method="DELETE", path="/notifications/webhooks/*")
    if renewed:
        basiq.fake.fail_next(status=401, method="DELETE", path="/notifications/webhooks/*")
    await basiq.client.webhooks.delete(made.id)
    assert await basiq.client.webhooks.list().collect() == []


@pytest.mark.parametrize("status", [401, 429])
async def test_a_delete_that_was_only_refused_before_nothing_is_found_deleted_nothing(
    basiq: Basiq, status: int
) -> None:
    basiq.fake.fail_next(status=status, retry_after=0, method="DELETE", path="/notifications/webhooks/*")
    with pytest.raises(NotFoundError) as caught:
        await basiq.client.webhooks.delete("3f0c9d1e-8f4b-4c1d-9a55-0d6b0f6f7a10")
    assert caught.value.attempts == 2


async def test_ensure_creates_then_finds_then_updates_and_says_which(basiq: Basiq) -> None:
    webhooks, found = basiq.client.webhooks, {}

    async def ensure(*events: str, url: str = URL, **more: Any) -> tuple[str, bool]:
        webhook = found[url] = await webhooks.ensure(url=url, subscribed_events=events, **more)
        assert isinstance(webhook, Webhook)
        return webhook.action, webhook.secret is not None

    assert await ensure(*EVENTS, name="n") == ("created", True)
    made = found[URL]
    assert await ensure(*reversed(EVENTS)) == ("unchanged", False)
    assert await ensure("user.created", remove_event_types=True) == ("updated", True)
    assert (found[URL].subscribed_events, found[URL].name) == (("user.created",), "n")
    assert await ensure("user.created", "user.updated") == ("updated", True)
    assert await ensure("user.created", name="m", description="d") == ("updated", True)
    assert (found[URL].id, found[URL].name, found[URL].description) == (made.id, "m", "d")
    assert await ensure(*EVENTS, url=URL + "/other") == ("created", True)
    assert len({each.id for each in found.values()}) == len(await webhooks.list().collect()) == 2


async def test_ensure_moves_the_webhook_of_the_former_url_which_keeps_its_id(basiq: Basiq, tmp_path: Path) -> None:
    ensure, file = basiq.client.webhooks.ensure, SecretFile(tmp_path / "secret")
    wanted: dict[str, Any] = {"subscribed_events": EVENTS, "name": "n", "description": "d", "secret": file}
    first = await ensure(url=URL, **wanted)
    moved = await ensure(url=f"{URL}/new", move_from=URL, **wanted)
    assert (moved.id, moved.url, moved.action) == (first.id, f"{URL}/new", "updated")
    assert moved.secret is not None
    assert [each.reveal() for each in await file.read()][:1] == [moved.secret.reveal()]
    again = await ensure(url=f"{URL}/new", move_from=URL, **wanted)
    assert (again.id, again.action) == (first.id, "unchanged")
    assert len(await basiq.client.webhooks.list().collect()) == 1
    many = await asyncio.gather(*(ensure(url=f"{URL}/last", move_from=f"{URL}/new", **wanted) for _ in range(5)))
    assert {(each.id, each.url) for each in many} == {(first.id, f"{URL}/last")}


async def test_a_new_url_makes_a_second_webhook_and_says_so_where_another_has_the_same_name(
    basiq: Basiq, caplog: pytest.LogCaptureFixture
) -> None:
    ensure = basiq.client.webhooks.ensure
    first = await ensure(url=URL, subscribed_events=EVENTS, name="n", move_from=f"{URL}/nowhere")
    assert (first.action, first.same_name) == ("created", ())
    other = await ensure(url=f"{URL}/other", subscribed_events=EVENTS, name="another")
    assert (other.same_name, caplog.text) == ((), "")
    second = await ensure(url=f"{URL}/new", subscribed_events=EVENTS, name="n")
    assert (second.action, second.same_name) == ("created", (first.id,))
    assert f"was created beside {first.id}, which has the same name" in caplog.text
    with pytest.raises(ConfigurationError, match="both urls have a webhook"):
        await ensure(url=f"{URL}/new", subscribed_events=EVENTS, name="n", move_from=URL)
    with pytest.raises(ConfigurationError):
        await ensure(url=f"{URL}/new", subscribed_events=EVENTS, move_from="no url")
    found = await basiq.client.webhooks.list().collect()
    assert {each.url for each in found} == {URL, f"{URL}/new", f"{URL}/other"}


async def test_services_that_ensure_one_webhook_at_once_lose_no_subscription(basiq: Basiq) -> None:
    types = [each.id async for each in basiq.client.event_types.list()]
    ensured = await asyncio.gather(
        *(basiq.client.webhooks.ensure(url=URL, subscribed_events=[each], name="n") for each in types[:6])
    )
    assert len({each.id for each in ensured}) == 1
    (webhook,) = await basiq.client.webhooks.list().collect()
    assert set(webhook.subscribed_events) == set(types[:6])


async def disable(basiq: Basiq) -> None:
    """Let every attempt of a delivery fail, until Basiq gives the endpoint up."""
    basiq.fake.endpoint_down(URL)
    await basiq.fake.emit("consent.revoked")
    await basiq.fake.advance(hours=40)
    basiq.fake.endpoint_up(URL)


async def test_ensure_reactivates_a_disabled_webhook(basiq: Basiq) -> None:
    made = await basiq.client.webhooks.ensure(url=URL, subscribed_events=EVENTS, name="n", description="d")
    await basiq.fake.advance(minutes=20)
    await disable(basiq)
    assert (await basiq.client.webhooks.get(made.id)).status == "disabled"
    again = await basiq.client.webhooks.ensure(url=URL, subscribed_events=EVENTS)
    assert (again.id, again.action, again.status, again.name) == (made.id, "reactivated", "active", "n")
    assert again.secret is not None
    assert (await basiq.client.webhooks.ensure(url=URL, subscribed_events=EVENTS)).action == "unchanged"
    await disable(basiq)
    changed = await basiq.client.webhooks.ensure(url=URL, subscribed_events=["user.created"], remove_event_types=True)
    assert (changed.action, changed.subscribed_events) == ("reactivated", ("user.created",))


async def test_ensure_takes_no_event_type_away_unless_told_to_and_says_what_it_left(
    basiq: Basiq, caplog: pytest.LogCaptureFixture
) -> None:
    webhooks = basiq.client.webhooks
    made = await webhooks.ensure(url=URL, subscribed_events=["user.created", "consent.revoked", "user.deleted"])
    found = await webhooks.ensure(url=URL, subscribed_events=["user.created"])
    kept = ("consent.revoked", "user.deleted")
    assert (found.action, set(found.kept_event_types), found.removed_event_types) == ("unchanged", set(kept), ())
    assert "consent.revoked" in caplog.text
    wider = await webhooks.ensure(url=URL, subscribed_events=["user.updated"])
    assert (wider.action, len(wider.subscribed_events), len(wider.kept_event_types)) == ("updated", 4, 3)
    await basiq.fake.advance(minutes=20)
    await disable(basiq)
    again = await webhooks.ensure(url=URL, subscribed_events=["user.created"])
    assert (again.action, len(again.subscribed_events)) == ("reactivated", 4)
    less = await webhooks.ensure(url=URL, subscribed_events=["user.created"], remove_event_types=True)
    assert (less.action, less.subscribed_events, len(less.removed_event_types)) == ("updated", ("user.created",), 3)
    assert made.id == less.id


async def test_reactivate_changes_nothing_but_the_status(basiq: Basiq) -> None:
    made = await basiq.client.webhooks.create(url=URL, subscribed_events=EVENTS, name="n", description="d")
    await basiq.fake.advance(minutes=20)
    await disable(basiq)
    again = await basiq.client.webhooks.reactivate(made.id)
    assert (again.status, again.url, again.name, again.description) == ("active", URL, "n", "d")
    assert set(again.subscribed_events) == set(EVENTS)
    assert again.secret is not None
    with pytest.raises(NotFoundError):
        await basiq.client.webhooks.reactivate("3f0c9d1e-8f4b-4c1d-9a55-0d6b0f6f7a10")


async def test_ensure_gives_up_where_there_is_a_conflict_and_no_webhook(basiq: Basiq) -> None:
    basiq.fake.fail_next(10, status=409, method="POST", path="/notifications/webhooks")
    with pytest.raises(ConflictError):
        await basiq.client.webhooks.ensure(url=URL, subscribed_events=EVENTS)


async def test_waiting_until_active(basiq: Basiq) -> None:
    made = await create(basiq)
    await basiq.fake.advance(minutes=15)
    assert (await basiq.client.webhooks.wait_until_active(made.id, timeout=1)).status == "active"


async def test_waiting_for_a_webhook_that_stays_pending_times_out(basiq: Basiq) -> None:
    made = await create(basiq)
    with pytest.raises(RequestTimeoutError, match="still 'pending-approval' after 0 s"):
        await basiq.client.webhooks.wait_until_active(made.id, timeout=0)


@virtual.clocked
async def test_waiting_until_active_is_patient() -> None:
    transport = Scripted(answer({"id": "w", "url": "u", "status": "pending-approval"}))
    began = virtual.now()
    with pytest.raises(TimeoutError, match="after 1020 s"):
        await client(transport).webhooks.wait_until_active("w")
    assert virtual.now() - began == pytest.approx(1020)
    assert len(transport.requests) < 50


@virtual.clocked
async def test_the_pauses_between_looks_grow_from_two_seconds_to_thirty(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    def look(request: Request) -> Response:
        looks.append(virtual.now())
        return answer({"id": "w", "url": "u", "status": "pending-approval"})

    bounds: set[tuple[float, float]] = set()

    def longest(low: float, high: float) -> float:
        bounds.add((low, high))
        return high

    monkeypatch.setattr("random.uniform", longest)
    with pytest.raises(TimeoutError):
        await client(Scripted(look)).webhooks.wait_until_active("w", timeout=120)
    pauses = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert pauses[:8] == pytest.approx([2, 3, 4.5, 6.75, 10.125, 15.1875, 22.78125, 30])
    assert bounds == {(0.8, 1.0)}


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


async def test_a_secret_that_cannot_be_stored_says_so_and_how_to_get_it_again(basiq: Basiq, tmp_path: Path) -> None:
    async def fail(secret: Secret) -> None:
        raise RuntimeError("the vault is away")

    with pytest.raises(ConfigurationError, match=r"was not stored: RuntimeError: the vault is away\. Basiq returns it"):
        await basiq.client.webhooks.ensure(url=URL, subscribed_events=EVENTS, secret=fail)
    assert len(await basiq.client.webhooks.list().collect()) == 1


async def test_a_store_that_cannot_be_used_leaves_no_webhook(basiq: Basiq, tmp_path: Path) -> None:
    for store, said in (
        (SecretFile(tmp_path / "missing" / "secret"), "cannot be written: No such file"),
        (SecretFile, "secret must be a SecretFile"),
        (lambda secret: None, "must be an async function"),
        (SECRET, "secret must be a SecretFile"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            await basiq.client.webhooks.ensure(url=URL, subscribed_events=EVENTS, secret=store)  # type: ignore[arg-type]
    assert await basiq.client.webhooks.list().collect() == []


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


@virtual.clocked
async def test_text_that_cannot_be_sent_is_refused_before_the_first_request() -> None:
    transport = Scripted(answer({"type": "list", "data": []}))
    with pytest.raises(ConfigurationError, match="cannot be encoded"):
        await client(transport).webhooks.ensure(url=URL, subscribed_events=EVENTS, name="\ud800")
    assert transport.requests == transport.token_requests == []
