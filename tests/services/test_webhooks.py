"""Webhooks: create, change, delete, ensure, and wait for them."""

from __future__ import annotations

import asyncio
import itertools
import json
import pickle
import random
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from basiq_async import (
    BadRequestError,
    BasiqClient,
    ConfigurationError,
    ConflictError,
    InboxError,
    InMemoryTransport,
    NotFoundError,
    Request,
    RequestTimeoutError,
    Response,
    Secret,
    Webhook,
)
from basiq_async.receiver import MemoryInbox, SecretFile, WebhookReceiver
from basiq_async.testing import FakeBasiq, Quirks
from tests.support import virtual
from tests.support.deliveries import SECRET
from tests.support.inboxes import fail_in
from tests.support.scripted import Scripted, answer, client, page

from .conftest import EVENTS, URL, Basiq, create, in_memory


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


async def test_ensure_makes_no_second_webhook_of_a_name(basiq: Basiq, caplog: pytest.LogCaptureFixture) -> None:
    ensure = basiq.client.webhooks.ensure
    first = await ensure(url=URL, subscribed_events=EVENTS, name="n", move_from=f"{URL}/nowhere")
    other = await ensure(url=f"{URL}/other?key=hidden", subscribed_events=EVENTS, name="another")
    assert [(each.action, each.same_name) for each in (first, other)] == [("created", ())] * 2
    await ensure(url=f"{URL}/new", subscribed_events=EVENTS, name="n", move_from=URL)
    assert caplog.text == ""
    # The former version of the service starts again, and so does a second service that has copied the name.
    for url in (URL, f"{URL}/second"):
        rolled_back = await ensure(url=url, subscribed_events=["user.created"], name="n", description="other")
        assert (rolled_back.id, rolled_back.url, rolled_back.action) == (first.id, f"{URL}/new", "elsewhere")
        (said,) = caplog.records
        assert (said.levelname, f"is at {URL}/new, and not at {url}" in said.getMessage()) == ("ERROR", True)
        caplog.clear()
    await ensure(url=f"{URL}/third", subscribed_events=EVENTS, name="another")
    assert "key=…" not in caplog.text != caplog.text.replace("/other?…", "")
    assert {each.url for each in await basiq.client.webhooks.list().collect()} == {f"{URL}/new", other.url}
    with pytest.raises(ConfigurationError):
        await ensure(url=f"{URL}/new", subscribed_events=EVENTS, move_from="no url")
    assert (await ensure(url=f"{URL}/unnamed", subscribed_events=EVENTS)).action == "created"


async def test_of_several_webhooks_of_a_name_elsewhere_one_that_gets_deliveries_is_returned() -> None:
    each = {"url": URL, "name": "n", "subscribedEvents": EVENTS}
    listed = [{**each, "id": name, "status": "disabled" if name != "b" else "active"} for name in "cba"]
    for order in (listed, listed[::-1]):
        webhooks = client(Scripted(page(order))).webhooks
        found = await webhooks.ensure(url=f"{URL}/d", subscribed_events=EVENTS, name="n")
        assert (found.id, found.action) == ("b", "elsewhere")


async def test_two_services_that_create_a_webhook_of_one_name_at_once_are_told(
    basiq: Basiq, caplog: pytest.LogCaptureFixture
) -> None:
    urls = [URL, f"{URL}/new"]
    ensured = await asyncio.gather(
        *(basiq.client.webhooks.ensure(url=url, subscribed_events=EVENTS, name="n") for url in urls)
    )
    told = [each for each in ensured if each.action == "elsewhere" or each.same_name]
    assert (len(told) >= 1, {each.levelname for each in caplog.records}) == (True, {"ERROR"})
    found = await basiq.client.webhooks.list().collect()
    assert len(found) == sum(each.action == "created" for each in ensured)


async def test_move_from_goes_on_with_the_new_url_if_both_have_a_webhook(
    basiq: Basiq, caplog: pytest.LogCaptureFixture
) -> None:
    former = await create(basiq)
    new = await create(basiq, f"{URL}/new")
    found = await basiq.client.webhooks.ensure(url=new.url, subscribed_events=EVENTS, name="n", move_from=URL)
    assert (found.id, found.action) == (new.id, "unchanged")
    assert f"{former.id} that of move_from" in caplog.text
    assert (await basiq.client.webhooks.get(former.id)).url == URL


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


@pytest.mark.documented_world("its webhook is disabled after one message", "disables")
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


@pytest.mark.documented_world("its webhook is disabled after one message", "disables")
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


@pytest.mark.parametrize("call", ["ensure", "move", "reactivate"])
@pytest.mark.parametrize("status", ["disabled", "pending-approval", None])
async def test_a_webhook_is_active_after_an_update_only_if_basiq_does_not_say_otherwise(
    tmp_path: Path, call: str, status: str | None
) -> None:
    found = {"id": "w", "url": URL, "name": "n", "status": "disabled", "subscribedEvents": EVENTS}
    written = {**found, "status": status, "secret": SECRET}
    listed = answer(found) if call == "reactivate" else page([found])
    webhooks = client(Scripted(listed, *([answer(found)] * (call != "reactivate")), answer(written))).webhooks
    store = SecretFile(tmp_path / "secret")
    url = f"{URL}/new" if call == "move" else URL
    work = (
        webhooks.reactivate("w")
        if call == "reactivate"
        else webhooks.ensure(url=url, subscribed_events=EVENTS, move_from=URL, secret=store)
    )
    if status != "disabled":
        assert (await work).status == status
        return
    with pytest.raises(ConfigurationError, match=r"its status is still disabled: .*recover what it missed"):
        await work
    if call != "reactivate":
        assert await store.read() == (Secret(SECRET),)


@pytest.mark.parametrize("given", [{}, {"url": f"{URL}/new"}, {"name": "other", "subscribed_events": ["user.created"]}])
async def test_an_update_sends_the_whole_webhook(given: dict[str, Any]) -> None:
    found = {"id": "w", "url": URL, "name": "n", "description": "d", "subscribedEvents": EVENTS}
    transport = Scripted(answer(found))
    await client(transport).webhooks.update("w", **given)
    given = {{"subscribed_events": "subscribedEvents"}.get(name, name): value for name, value in given.items()}
    sent = [json.loads(each.body) for each in transport.requests if each.method == "POST"]
    assert sent == [{name: value for name, value in {**found, **given}.items() if name != "id"}]


RULES: list[Any] = ["mixed", "replaces", "patches"]


@pytest.mark.parametrize("rule", RULES)
async def test_an_update_changes_only_what_is_named_whatever_basiq_makes_of_what_is_left_out(rule: Any) -> None:
    basiq = in_memory()
    basiq.fake.quirks = Quirks(update=rule)
    made, update = await create(basiq), basiq.client.webhooks.update
    for named in ({}, {"url": f"{URL}/new"}, {"name": "other"}, {"subscribed_events": ("user.created",)}):
        before = await basiq.client.webhooks.get(made.id)
        after = await update(made.id, **named)  # type: ignore[arg-type]
        assert attrs.evolve(before, **named, raw={}) == attrs.evolve(after, secret=None, raw={})


@pytest.mark.parametrize("rule", RULES)
async def test_a_disabled_webhook_is_reactivated_or_said_to_be_disabled_still(rule: Any, tmp_path: Path) -> None:
    basiq, store = in_memory(), SecretFile(tmp_path / "secret")
    basiq.fake.quirks = Quirks(update=rule, signing_key_on_update="new")
    ensure = partial(basiq.client.webhooks.ensure, subscribed_events=EVENTS, secret=store)
    made = await ensure(url=URL)
    calls = (
        lambda: ensure(url=URL),
        lambda: ensure(url=f"{URL}/new", move_from=URL),
        lambda: basiq.client.webhooks.reactivate(made.id, secret=store),
    )
    for number, call in enumerate(calls):
        await basiq.fake.advance(minutes=20)
        await disable(basiq)
        if rule == "patches":
            with pytest.raises(ConfigurationError, match="still disabled"):
                await call()
        else:
            assert (await call()).status == "active"
        secrets = [each.reveal() for each in await store.read()]
        assert (secrets[0], len(secrets)) == (basiq.fake.secret(made.id), number + 2)


async def test_a_webhook_without_event_types_gets_all_of_them_and_stays_so(caplog: pytest.LogCaptureFixture) -> None:
    found = {"id": "w", "url": URL, "name": "n", "description": "d", "status": "disabled"}
    for call in ("update", "reactivate", "ensure", "unchanged", "remove"):
        existing = {**found, "status": "active" if call in ("unchanged", "remove") else "disabled"}
        several = [page([existing])] * (call not in ("update", "reactivate"))
        transport = Scripted(*several, answer({**existing, "status": "active"}))
        webhooks = client(transport).webhooks
        if call in ("update", "reactivate"):
            await getattr(webhooks, call)("w")
        else:
            await webhooks.ensure(url=URL, subscribed_events=EVENTS, remove_event_types=call == "remove")
        sent = [json.loads(each.body) for each in transport.requests if each.method == "POST"]
        types = {"subscribedEvents": EVENTS} if call == "remove" else {}
        whole = {"url": URL, "name": "n", "description": "d", **types}
        assert sent == ([] if call == "unchanged" else [whole]), call


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


async def test_a_webhook_that_was_made_again_joins_the_inbox_of_its_service(caplog: pytest.LogCaptureFixture) -> None:
    basiq, inbox = in_memory(), MemoryInbox()
    ensure = partial(basiq.client.webhooks.ensure, url=URL, subscribed_events=EVENTS, name="n", inbox=inbox)
    first = await ensure()
    assert (first.action, first.joined) == ("created", True), "an empty inbox is founded"
    assert (await ensure(inbox=None)).joined is None
    await basiq.client.webhooks.delete(first.id)
    again = await ensure()
    assert (again.action, again.joined, caplog.text) == ("created", True, "")
    for webhook_id in (first.id, again.id):
        async with WebhookReceiver(SECRET, webhook_id=webhook_id, inbox=inbox):
            pass


@pytest.mark.parametrize(
    "case", ["another name", "no name", "the first is still there", "another key", "a mistyped id"]
)
async def test_a_webhook_that_may_be_of_another_service_does_not_join(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    basiq, inbox = in_memory(), MemoryInbox()
    webhooks = basiq.client.webhooks
    if case == "a mistyped id":
        async with WebhookReceiver(SECRET, webhook_id="mistyped", inbox=inbox):
            pass
        first = "mistyped"
    else:
        made = await webhooks.ensure(url=URL, subscribed_events=EVENTS, name="n", inbox=inbox)
        first = made.id
    if case == "another key":
        fake = FakeBasiq(api_keys=["YW5vdGhlcjprZXk="])
        basiq = Basiq(BasiqClient(fake.api_key, transport=InMemoryTransport(fake)), fake)
    elif case not in ("the first is still there", "a mistyped id"):
        await webhooks.delete(first)
    name = {"no name": None, "another name": "m", "the first is still there": "m"}.get(case, "n")
    found = await basiq.client.webhooks.ensure(url=f"{URL}/2", subscribed_events=EVENTS, name=name, inbox=inbox)
    assert (found.action, found.joined) == ("created", False)
    assert f"{found.id} has not joined the inbox, which is of {first}: " in caplog.text
    with pytest.raises(ConfigurationError, match="inbox join"):
        async with WebhookReceiver(SECRET, webhook_id=found.id, inbox=inbox):
            pass


async def test_a_second_service_with_a_copied_name_founds_no_inbox_with_the_webhook_of_the_first() -> None:
    basiq, inbox = in_memory(), MemoryInbox()
    ensure = basiq.client.webhooks.ensure
    await ensure(url=URL, subscribed_events=EVENTS, name="n")
    found = await ensure(url=f"{URL}/second", subscribed_events=EVENTS, name="n", inbox=inbox)
    assert (found.action, found.joined) == ("elsewhere", False)
    own = await ensure(url=f"{URL}/second", subscribed_events=EVENTS, name="second", inbox=inbox)
    assert (own.action, own.joined) == ("created", True)


@pytest.mark.parametrize("call", ["check", "note"])
async def test_an_inbox_that_is_away_is_found_before_anything_is_created_or_moved(call: str) -> None:
    basiq, inbox = in_memory(), fail_in(call, error=InboxError("away"))
    ensure = partial(basiq.client.webhooks.ensure, subscribed_events=EVENTS, name="n", inbox=inbox)
    with pytest.raises(InboxError, match="away"):
        await ensure(url=URL)
    assert await basiq.client.webhooks.list().collect() == []
    made = await create(basiq)
    with pytest.raises(InboxError, match="away"):
        await ensure(url=f"{URL}/new", move_from=URL)
    assert (await basiq.client.webhooks.get(made.id)).url == URL
    for wrong in (MemoryInbox, "inbox.db"):
        with pytest.raises(ConfigurationError, match="inbox must be an Inbox"):
            await ensure(url=URL, inbox=wrong)


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
