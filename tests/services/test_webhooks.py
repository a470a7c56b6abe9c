"""Webhooks: create, change, delete, reactivate, and wait for them."""

from __future__ import annotations

import itertools
import json
import pickle
from typing import Any

import attrs
import pytest

from basiq_async import (
    BadRequestError,
    ConfigurationError,
    ConflictError,
    NotFoundError,
    Request,
    RequestTimeoutError,
    Response,
)
from basiq_async.testing import Quirks
from tests.support import virtual
from tests.support.scripted import Scripted, answer, client

from .conftest import EVENTS, RULES, URL, Basiq, create, disable, in_memory


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


async def test_a_pattern_is_refused_before_the_request_and_the_types_are_named(basiq: Basiq) -> None:
    webhooks, before = basiq.client.webhooks, len(basiq.fake.request_log)
    for call in (
        webhooks.create(url=URL, subscribed_events=["user.created", "consent.*"]),
        webhooks.ensure(url=URL, subscribed_events=["consent.*"]),
        webhooks.update("w", subscribed_events=["consent.*"]),
        basiq.client.messages.send_test_to(URL, ["consent.*"]),
    ):
        with pytest.raises(ConfigurationError, match=r"'consent\.\*' is 'consent.created', .*events types"):
            await call
    with pytest.raises(ConfigurationError, match=r"'payout\.\*' is none of those that Basiq documents"):
        await webhooks.create(url=URL, subscribed_events=["payout.*"])
    assert len(basiq.fake.request_log) == before


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


@pytest.mark.parametrize("given", [{}, {"url": f"{URL}/new"}, {"name": "other", "subscribed_events": ["user.created"]}])
async def test_an_update_sends_the_whole_webhook(given: dict[str, Any]) -> None:
    found = {"id": "w", "url": URL, "name": "n", "description": "d", "subscribedEvents": EVENTS}
    transport = Scripted(answer(found))
    await client(transport).webhooks.update("w", **given)
    given = {{"subscribed_events": "subscribedEvents"}.get(name, name): value for name, value in given.items()}
    sent = [json.loads(each.body) for each in transport.requests if each.method == "POST"]
    assert sent == [{name: value for name, value in {**found, **given}.items() if name != "id"}]


@pytest.mark.parametrize("rule", RULES)
async def test_an_update_changes_only_what_is_named_whatever_basiq_makes_of_what_is_left_out(rule: Any) -> None:
    basiq = in_memory()
    basiq.fake.quirks = Quirks(update=rule)
    made, update = await create(basiq), basiq.client.webhooks.update
    for named in ({}, {"url": f"{URL}/new"}, {"name": "other"}, {"subscribed_events": ("user.created",)}):
        before = await basiq.client.webhooks.get(made.id)
        after = await update(made.id, **named)  # type: ignore[arg-type]
        assert attrs.evolve(before, **named, raw={}) == attrs.evolve(after, secret=None, raw={})


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
