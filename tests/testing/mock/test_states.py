"""One served fake holds isolated states, and each control call names the mock and the state that it is for."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from basiq_async import AuthenticationError, BasiqClient, NotFoundError, PermissionDeniedError
from basiq_async.errors import BadRequestError, ConfigurationError
from basiq_async.testing import FakeBasiq, ManualClock, SystemClock, serve

from ..conftest import Endpoint
from .conftest import Controller

URL = "http://127.0.0.1:9/basiq"


@pytest.fixture
async def two(control: Controller) -> tuple[Controller, Controller]:
    one, other = [control.named((await control.post("/states"))["apiKey"]) for _ in range(2)]
    return one, other


def client(of: Controller) -> BasiqClient:
    return BasiqClient(of.api_key, base_url=of.base_url)


async def test_what_happens_in_one_state_shows_in_no_other(two: tuple[Controller, Controller]) -> None:
    one, other = two
    async with client(one) as basiq, client(other) as basiq_other:
        webhook = await basiq.webhooks.create(url=URL, subscribed_events=["user.created"])
        await basiq_other.webhooks.create(url=URL, subscribed_events=["user.created"])
        before = (await other.get("/state"))["now"]
        await one.post("/advance", hours=1)
        assert (await other.get("/state"))["now"] == before
        emitted = await one.post("/emit", eventTypeId="user.created", wait=True)
        await one.post("/fail", status=500)
        with pytest.raises(NotFoundError):
            await basiq_other.events.get(emitted["eventId"])
        with pytest.raises(NotFoundError):
            await basiq_other.messages.list(webhook.id).collect()
        assert (await basiq.events.get(emitted["eventId"])).id == emitted["eventId"]
    counts = [
        {name: state[name] for name in ("webhooks", "messages", "deliveries", "misuses")}
        for state in (await one.get("/states"))["items"]
    ]
    assert counts == [
        {"webhooks": 0, "messages": 0, "deliveries": 0, "misuses": 0},
        {"webhooks": 1, "messages": 1, "deliveries": 1, "misuses": 0},
        {"webhooks": 1, "messages": 0, "deliveries": 0, "misuses": 0},
    ]
    await one.post("/messages/" + emitted["messageIds"][0] + "/redeliver")
    await other.post("/messages/" + emitted["messageIds"][0] + "/redeliver", expect=404)


async def test_ids_of_states_are_their_own_and_a_seed_repeats_them(control: Controller) -> None:
    made = [await control.post("/states", **body) for body in ({}, {}, {"seed": "s"}, {"seed": "s"})]
    ids = [(await control.named(each["apiKey"]).post("/webhooks", url=URL))["webhookId"] for each in made]
    assert (len(set(ids)), ids[2]) == (3, ids[3])


async def test_reset_forgets_all_of_one_state_and_nothing_of_another(two: tuple[Controller, Controller]) -> None:
    one, other = two
    for state in two:
        await state.post("/webhooks", url=URL)
        await state.post("/emit", eventTypeId="user.created", wait=True)
        await state.post("/fail", status=500)
        await state.post("/deliveries/fail", status=500, times=3)
        await state.post("/endpoint/down")
        await state.post("/disable-account")
        async with client(state) as basiq:
            with pytest.raises(PermissionDeniedError, match="disabled"):
                await basiq.event_types.get("user.created")
    left = await other.get("/state")
    await one.post("/reset")
    counts = ("webhooks", "messages", "requests", "deliveries", "misuses", "pending")
    lists = ("faults", "deliveryFaults", "endpointsDown")
    empty, kept = await one.get("/state"), await other.get("/state")
    assert [empty[name] for name in (*counts, *lists)] == [*[0] * 6, *[[]] * 3]
    assert kept == left
    assert all(left[name] for name in (*counts, *lists) if name != "misuses")
    async with client(one) as basiq:
        assert await basiq.event_types.get("user.created")


async def test_a_state_that_was_removed_is_gone_and_the_first_one_stays(two: tuple[Controller, Controller]) -> None:
    one, other = two
    async with client(one) as basiq:
        await basiq.event_types.get("user.created")
        await one.post("/states/remove")
        with pytest.raises((AuthenticationError, BadRequestError)):
            await basiq.event_types.get("user.created")
    await one.post("/emit", expect=403, eventTypeId="user.created")
    assert [state["name"] for state in (await other.get("/states"))["items"]] == ["first", "state 2"]
    first = other.named(other.fake.api_key)
    assert "the first state" in (await first.post("/states/remove", expect=400))["error"]["message"]


async def test_the_clock_of_a_state_stands_still_where_that_is_asked_for() -> None:
    fake = FakeBasiq(clock=SystemClock(speed=1000))
    running, still = fake.add_state("running"), fake.add_state("still", clock=ManualClock())
    assert isinstance(running.clock, SystemClock)
    assert running.clock.speed == 1000
    async with serve(fake) as base_url, aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Basic {fake.api_key}"}
        async with session.post(f"{base_url}/_fake/states", json={"still": True}, headers=headers) as response:
            made = await response.json()
        headers = {"Authorization": f"Basic {made['apiKey']}"}
        async with session.get(f"{base_url}/_fake/state", headers=headers) as response:
            shown = await response.json()
        assert (shown["now"], shown["clock"]) == (made["now"], {"running": False, "speed": None})
        headers = {"Authorization": f"Basic {fake.api_key}"}
        async with session.post(f"{base_url}/_fake/states", json={}, headers=headers) as response:
            made = await response.json()
        assert isinstance(fake.states[made["apiKey"]].clock, SystemClock)
    assert still.now() == ManualClock()()


async def test_a_state_is_served_whenever_it_was_added_and_its_events_are_delivered() -> None:
    endpoint, fake = Endpoint(200), FakeBasiq()
    before = fake.add_state("before")
    async with serve(fake) as base_url:
        during = fake.add_state("during")
        for state in (before, during):
            state.route(URL, endpoint)
            state.add_webhook(URL)
            await state.emit("user.created")
            async with BasiqClient(state.api_key, base_url=base_url) as basiq:
                assert len(await basiq.events.list().collect()) == 1
        links = [json.loads(body)["links"]["event"] for _, body in endpoint.got]
        assert [link.startswith(base_url) for link in links] == [True, True]
        fake.remove_state(before.api_key)
        with pytest.raises(ConfigurationError, match="no state"):
            fake.remove_state(before.api_key)
        with pytest.raises(ConfigurationError, match="another state has this API key"):
            fake.add_state(api_key=during.api_key)


# --- whose mock ---


@pytest.mark.parametrize("authorization", ["Basic d3Jvbmc=", "Bearer d3Jvbmc=", "Basic", "", "\u00e9"])
async def test_a_call_with_the_key_of_another_mock_is_refused(control: Controller, authorization: str) -> None:
    headers = {"Authorization": authorization}
    for method, path in (("POST", "/emit"), ("GET", "/state"), ("GET", "/health"), ("GET", "/misuses")):
        body: Any = {"eventTypeId": "user.created"} if method == "POST" else None
        url = f"{control.base_url}/_fake{path}"
        async with control.session.request(method, url, json=body, headers=headers) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (403, "another-mock")
    assert not control.fake.misuses


async def test_a_call_that_changes_something_names_its_mock(control: Controller) -> None:
    url = f"{control.base_url}/_fake/emit"
    async with control.session.post(url, json={"eventTypeId": "user.created"}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (401, "key-missing")
    async with control.session.get(f"{control.base_url}/_fake/state") as response:
        assert (await response.json())["name"] == "first"


async def test_each_key_that_the_fake_was_made_with_has_a_state() -> None:
    fake = FakeBasiq(api_keys=["b25l", "dHdv"])
    async with serve(fake) as base_url, aiohttp.ClientSession() as session:
        two = Controller(fake, base_url, session, api_key="dHdv", document={"paths": {}})
        await two.post("/seed", messages=3)
        await two.post("/disable-account")
        async with BasiqClient("b25l", base_url=base_url) as basiq:
            assert await basiq.webhooks.list().collect() == []
            assert await basiq.events.list().collect() == []
        async with BasiqClient("dHdv", base_url=base_url) as basiq:
            with pytest.raises(PermissionDeniedError):
                await basiq.webhooks.list().collect()
    assert (fake.count_messages(), fake.states["dHdv"].count_messages()) == (0, 3)


async def test_everybody_may_ask_whether_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basiq_async._web.access.is_loopback", lambda request: False)
    async with serve(FakeBasiq(), prefix="/basiq") as base_url, aiohttp.ClientSession() as session:
        url = base_url.removesuffix("/basiq") + "/_fake/health"
        async with session.get(url) as response:
            found = await response.json()
        assert (found["status"], found["baseUrl"]) == ("ok", base_url)
        async with session.get(url.replace("health", "state")) as response:
            assert response.status == 403
