"""What a delivery can be handed to: a receiver or an application in this process, or an endpoint over HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from aiohttp import web

from basiq_async.errors import ConfigurationError
from basiq_async.receiver import Delivery, WebhookReceiver
from basiq_async.testing import FakeBasiq, ManualClock, serve
from tests.support import virtual
from tests.support.served import serving

from ..conftest import ENDPOINT, Caller, Endpoint, arranged, handling


async def test_a_receiver_of_this_project_is_routed_to_as_it_is() -> None:
    fake = FakeBasiq()
    webhook_id = fake.add_webhook(ENDPOINT)
    receiver = WebhookReceiver(fake.secret(webhook_id))
    seen: list[str] = []

    @receiver.on("user.created")
    async def created(delivery: Delivery) -> None:
        seen.append(delivery.event_id or "")

    fake.route(ENDPOINT, receiver)
    emitted = await fake.emit("user.created")
    fake.route(ENDPOINT, receiver.asgi)
    again = await fake.emit("user.created")
    assert seen == [emitted.event_id, again.event_id]
    assert [attempt.status for attempt in fake.deliveries] == [204, 204]


async def test_an_asgi_application_sees_an_ordinary_request() -> None:
    scopes: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scopes.append(scope)
        event = await receive()
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": b"taken: " + event["body"][:1], "more_body": True})
        await send({"type": "http.response.body", "body": b"x" * 2_000})

    fake = FakeBasiq()
    fake.add_webhook("https://example.com/a%20b?c=d")
    fake.route("https://example.com/a%20b?c=d", app)
    await fake.emit("user.created")
    assert (fake.deliveries[0].status, fake.deliveries[0].response) == (202, "taken: {" + "x" * 992)
    (scope,) = scopes
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c=d")
    assert (dict(scope["headers"])[b"host"], scope["server"]) == (b"example.com", ("example.com", 80))


async def test_an_asgi_application_that_says_nothing_is_a_failure() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        return None

    fake, _ = arranged(app)
    await fake.emit("user.created")
    assert (fake.deliveries[0].status, fake.deliveries[0].ok) == (None, False)


async def test_an_endpoint_that_raises_is_a_500_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    fake, _ = arranged(Endpoint(RuntimeError("broken")))
    with caplog.at_level(logging.ERROR, "basiq_async.testing"):
        await fake.emit("user.created")
    assert fake.deliveries[0].status == 500
    assert "broken" not in fake.deliveries[0].response
    assert "broken" in caplog.text


@pytest.mark.parametrize("result", [None, "200", True])
async def test_a_receiver_that_gives_no_status_is_a_configuration_error(result: Any) -> None:
    fake, _ = arranged(Endpoint(result))
    with pytest.raises(ConfigurationError, match="a receiver returns a status"):
        await fake.emit("user.created")


@pytest.mark.parametrize(("seconds", "shown"), [(30, []), (31, ["slow-acknowledgement"])])
async def test_an_acknowledgement_after_30_seconds_is_a_misuse(seconds: int, shown: list[str]) -> None:
    fake = FakeBasiq()
    clock = fake.clock
    assert isinstance(clock, ManualClock)

    async def dawdle(*_: object) -> None:
        clock.advance(seconds=seconds)

    handling(fake, dawdle)
    await fake.emit("user.created")
    assert fake.deliveries[0].duration == seconds
    assert [misuse.code for misuse in fake.misuses] == shown


@virtual.clocked
async def test_an_endpoint_has_30_seconds_unless_the_test_gives_it_others() -> None:
    fake = FakeBasiq()
    handling(fake, lambda *_: asyncio.Event().wait())
    began = virtual.now()
    await fake.emit("user.created")
    assert virtual.now() - began == pytest.approx(30)
    assert fake.deliveries[0].response == "no response within 30 s"


async def test_an_endpoint_that_never_answers_is_given_up() -> None:
    fake = FakeBasiq(delivery_timeout=0.01)
    webhook_id = handling(fake, lambda *_: asyncio.Event().wait())
    await fake.emit("user.created")
    (attempt,) = fake.deliveries
    assert (attempt.status, attempt.ok, attempt.response) == (None, False, "no response within 0.01 s")
    assert [misuse.code for misuse in fake.misuses] == ["slow-acknowledgement"]
    (message,) = Caller(fake).get(f"/notifications/webhooks/{webhook_id}/messages")["data"]
    assert message["attempts"][0]["responseStatusCode"] is None


async def test_a_url_without_a_route_is_not_called_outside_of_this_machine() -> None:
    fake = FakeBasiq()
    fake.add_webhook("https://example.com/hook")
    await fake.emit("user.created")
    assert fake.deliveries[0].status is None
    assert fake.deliveries[0].response.startswith("no route")


async def test_an_endpoint_on_this_machine_is_called_over_http_even_without_a_server() -> None:
    bodies: list[bytes] = []

    async def hook(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        return web.Response(text="thanks")

    fake = FakeBasiq()
    async with serving(hook) as url:
        fake.add_webhook(url)
        await fake.emit("user.created")
    assert json.loads(bodies[0])["eventTypeId"] == "user.created"
    assert (fake.deliveries[0].status, fake.deliveries[0].response) == (200, "thanks")
    await fake.emit("user.created")
    assert fake.deliveries[1].status is None
    assert fake.deliveries[1].response.startswith("the connection failed")


async def test_endpoints_elsewhere_are_called_only_where_that_is_asked_for() -> None:
    async def hook(request: web.Request) -> web.Response:
        return web.Response(status=204)

    async with serving(hook) as url:
        fake = FakeBasiq()
        # The address of every interface is none of loopback, and leads to this machine all the same.
        fake.add_webhook(url.replace("127.0.0.1", "0.0.0.0"))
        await fake.emit("user.created")
        async with serve(fake):
            await fake.emit("user.created")
        fake.add_webhook("http://no..host/")
        async with serve(fake, deliver_anywhere=True):
            await fake.emit("user.created")
    assert [attempt.status for attempt in fake.deliveries if attempt.url == fake.webhooks()[0].url] == [None, None, 204]
    refused, again, _, nonsense = sorted(fake.deliveries, key=lambda attempt: (attempt.url, attempt.at))
    assert refused.response.startswith("no route")
    assert again.response.startswith("no route")
    assert nonsense.response.startswith("the connection failed")


async def test_an_endpoint_that_redirects_has_failed_and_is_not_followed() -> None:
    asked: list[str] = []

    async def hook(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    fake = FakeBasiq()
    async with serving(hook) as url:
        fake.add_webhook(url)
        await fake.emit("user.created")
    assert ([attempt.status for attempt in fake.deliveries], len(asked)) == ([307], 1)


async def test_a_receiver_may_have_parameters_that_are_not_required() -> None:
    async def receive(headers: dict[str, str], body: bytes, retries: int = 3) -> int:
        return 200 + retries

    fake, _ = arranged(receive)
    await fake.emit("user.created")
    assert fake.deliveries[0].status == 203
