"""``ensure``: one webhook of a name, its url, its event types, its status, and the inbox that it joins."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from basiq_async import (
    BasiqClient,
    ConfigurationError,
    ConflictError,
    InboxError,
    InMemoryTransport,
    NotFoundError,
    Secret,
    Webhook,
)
from basiq_async.receiver import MemoryInbox, SecretFile, WebhookReceiver
from basiq_async.testing import FakeBasiq, Quirks
from tests.support import virtual
from tests.support.deliveries import SECRET
from tests.support.inboxes import fail_in
from tests.support.scripted import Scripted, answer, client, page

from .conftest import EVENTS, RULES, URL, Basiq, create, disable, in_memory


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


async def test_ensure_gives_up_where_there_is_a_conflict_and_no_webhook(basiq: Basiq) -> None:
    basiq.fake.fail_next(10, status=409, method="POST", path="/notifications/webhooks")
    with pytest.raises(ConflictError):
        await basiq.client.webhooks.ensure(url=URL, subscribed_events=EVENTS)


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


@virtual.clocked
async def test_text_that_cannot_be_sent_is_refused_before_the_first_request() -> None:
    transport = Scripted(answer({"type": "list", "data": []}))
    with pytest.raises(ConfigurationError, match="cannot be encoded"):
        await client(transport).webhooks.ensure(url=URL, subscribed_events=EVENTS, name="\ud800")
    assert transport.requests == transport.token_requests == []


async def test_a_webhook_that_basiq_has_removed_is_created_again_and_cannot_be_reactivated(tmp_path: Path) -> None:
    basiq, store, inbox = in_memory(), SecretFile(tmp_path / "secret"), MemoryInbox()
    basiq.fake.quirks = Quirks(disables="removed")
    ensure = partial(
        basiq.client.webhooks.ensure, url=URL, subscribed_events=EVENTS, name="n", secret=store, inbox=inbox
    )
    made = await ensure()
    await basiq.fake.advance(minutes=20)
    await disable(basiq)
    with pytest.raises(NotFoundError):
        await basiq.client.webhooks.reactivate(made.id)
    again = await ensure()
    assert (again.action, again.id != made.id, again.joined) == ("created", True, True)
    assert (await store.read())[0].reveal() == basiq.fake.secret(again.id)
