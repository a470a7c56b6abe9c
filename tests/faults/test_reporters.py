"""What Sentry and structlog send of an error: with every frame's local variables, and no credential or body in them.

Sentry captures local variables by default; structlog's ``dict_tracebacks`` does. The reports stay in memory.
"""

from __future__ import annotations

import inspect
import json
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sentry_sdk
import structlog
from redis.asyncio import Redis

from basiq_async import BasiqClient, BasiqError, Message
from basiq_async.receiver import (
    InboxEntry,
    RedisInbox,
    SQLInbox,
    WebhookReceiver,
    sign,
    verify,
)
from basiq_async.replay import HttpTarget
from tests.support.databases import engine_of, run
from tests.support.frames import FORMS, leaks
from tests.support.outcomes import ONCE, client_of
from tests.support.wire import KEY, MARK, SIGNING, TOKEN, WEBHOOK, Wire, http, ok, page, resetting

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


async def call(wire: Wire, work: Callable[[BasiqClient], Awaitable[Any]]) -> None:
    async with wire, client_of(wire, retry=ONCE) as client:
        await work(client)


async def post() -> None:
    async with Wire(resetting()) as wire, HttpTarget(wire.url, SIGNING, retry=ONCE, timeout=0.2) as target:
        await target.deliver(Message("m", {"id": "m", "payload": {"x": MARK}}))


QUARANTINED = InboxEntry("k", "msg_1", "user.created", "e-1", f'{{"x": "{MARK}"}}'.encode(), NOW, "no", 3, NOW)


async def sql_inbox_without_a_server() -> None:
    async with engine_of(f"postgresql+asyncpg://basiq:{MARK}@127.0.0.1:1/nowhere") as engine:
        await SQLInbox(engine).claim("k", "a", lease=60)


async def sql_delivery_that_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with engine_of(f"sqlite+aiosqlite:///{folder}/inbox.db") as engine, SQLInbox(engine) as inbox:
            await run(engine, "ALTER TABLE basiq_inbox RENAME COLUMN entry_json TO x")
            await inbox.quarantine("k", "a", QUARANTINED)


async def delivery_without_redis() -> None:
    async with Redis.from_url(f"redis://:{MARK}@127.0.0.1:1/0", retry=None) as client:
        await RedisInbox(client).quarantine("k", "a", QUARANTINED)


# One of each kind: every test of an error that is expected looks through the frames of that one.
PATHS: dict[str, Callable[[], object]] = {
    "a token call that breaks": lambda: call(Wire(tokens=[resetting()]), lambda client: client.webhooks.get("w1")),
    "a call that breaks": lambda: call(Wire(resetting()), lambda client: client.webhooks.get("w1")),
    "a call that is refused": lambda: call(Wire(http(403, TOKEN)), lambda client: client.webhooks.get("w1")),
    "a create whose response is unreadable": lambda: call(
        Wire(ok({**WEBHOOK, "id": None, "secret": SIGNING})),
        lambda client: client.webhooks.create(url="https://example.com", subscribed_events=["user.created"]),
    ),
    "an item of a list that is unreadable": lambda: call(
        Wire(page([{"id": {"x": MARK}}])), lambda client: client.messages.list("w1").collect()
    ),
    "a target that breaks": post,
    "a base url with a password": lambda: BasiqClient(KEY, base_url=f"https://user:{MARK}@example.com"),
    "a malformed key": lambda: BasiqClient(f"Basic {KEY} "),
    "a malformed secret": lambda: WebhookReceiver(f"{SIGNING}!"),
    "a delivery of another signature": lambda: verify(
        SIGNING, headers={**sign(SIGNING, "m", datetime.now(UTC), b""), "webhook-id": "x"}, body=MARK.encode()
    ),
    "an id that cannot be signed": lambda: sign(SIGNING, "a.b", NOW, MARK.encode()),
    "a SQL inbox without a server": sql_inbox_without_a_server,
    "a quarantined delivery that the database refuses": sql_delivery_that_is_refused,
    "a quarantined delivery for a Redis that is away": delivery_without_redis,
}


async def error_of(path: Callable[[], object]) -> BasiqError:
    with pytest.raises(BasiqError) as caught:
        if inspect.isawaitable(work := path()):
            await work
    return caught.value


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
async def test_neither_sentry_nor_structlog_nor_a_traceback_gets_a_credential_or_a_body(
    path: Callable[[], object],
) -> None:
    error = await error_of(path)
    sent: list[str] = []

    class Memory(sentry_sdk.transport.Transport):
        def capture_envelope(self, envelope: Any) -> None:
            sent.append(envelope.serialize().decode())

    client = sentry_sdk.Client(
        dsn="http://k@localhost/1", default_integrations=False, include_local_variables=True, transport=Memory
    )
    event, hint = sentry_sdk.utils.event_from_exception(error, client_options=client.options)
    client.capture_event(event, hint=hint, scope=sentry_sdk.Scope(client=client))
    client.close()
    assert len(sent) == 1
    assert '"vars"' in sent[0]
    assert_clean(sent[0])
    logged = structlog.processors.dict_tracebacks(None, "error", {"event": "failed", "exc_info": error})
    text = json.dumps(logged, default=repr)
    assert '"locals"' in text
    assert_clean(text)
    assert_clean("".join(traceback.format_exception(error)))


def assert_clean(text: str) -> None:
    for form in FORMS:
        assert form not in text, text[max(0, text.index(form) - 300) :][:400]


async def test_a_variable_that_holds_a_credential_would_be_found() -> None:
    async def fails(api_key: str) -> None:
        raise BasiqError("x")

    try:
        await fails(KEY)
    except BasiqError as exc:
        logged = structlog.processors.dict_tracebacks(None, "error", {"exc_info": exc})
        with pytest.raises(AssertionError):
            assert_clean(json.dumps(logged, default=repr))
        assert leaks(exc) == []  # the frames of tests are left out there


async def test_the_cause_of_an_error_says_where_it_came_from() -> None:
    error = await error_of(PATHS["a call that breaks"])
    assert error.__cause__ is not None
    assert error.__cause__.__traceback__ is None
    assert any("raised at " in note for note in error.__cause__.__notes__)
