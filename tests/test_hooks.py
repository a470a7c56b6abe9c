"""What the hooks of a client get."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from basiq_async import (
    RetryPolicy,
    Webhook,
)
from basiq_async.hooks import RequestEvent
from tests.support import virtual
from tests.support.outcomes import QUICK, client_of, outcome
from tests.support.scripted import Scripted, answer, client, error
from tests.support.wire import WEBHOOK, Wire, http, ok


@virtual.clocked
async def test_hooks_are_told_the_correlation_id_and_the_template_of_the_url() -> None:
    requests: list[RequestEvent] = []
    retries: list[RequestEvent] = []
    transport = Scripted(error(500), answer({"id": "e"}))
    basiq = client(transport, retry=RetryPolicy(max_retries=1), on_request=requests.append, on_retry=retries.append)
    await basiq.events.get("e")
    ours = [event for event in requests if event.path != "/token"]
    assert [(event.url_template, event.attempt, event.status) for event in ours] == [
        ("/events/{event_id}", 1, 500),
        ("/events/{event_id}", 2, 200),
    ]
    assert ours[0].correlation_id is not None
    assert ours[1].correlation_id is None
    assert [(event.url_template, event.correlation_id) for event in retries] == [
        ("/events/{event_id}", ours[0].correlation_id)
    ]
    assert [event.url_template for event in requests if event.path == "/token"] == ["/token"]


@pytest.mark.parametrize("hook", ["on_request", "on_retry"])
async def test_a_hook_that_fails_does_not_undo_the_work(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: Any) -> None:
        raise ZeroDivisionError

    async with Wire(http(503), ok(WEBHOOK)) as wire, client_of(wire, retry=QUICK, **{hook: fail}) as client:
        with caplog.at_level(logging.ERROR, logger="basiq_async"):
            assert isinstance(await outcome(client.webhooks.get("w1")), Webhook)
    assert "hook" in caplog.text
