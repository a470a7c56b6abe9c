"""What users pass to be called: with annotations that only a type checker can read, and mocks of their tests."""

import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from basiq_async import BasiqClient, ConfigurationError, InMemoryTransport
from basiq_async.receiver import MemoryInbox, SQLInbox, WebhookReceiver
from basiq_async.replay import Replay
from basiq_async.testing import FakeBasiq
from tests.support.deliveries import SECRET

URL = "https://service.example/webhooks"
SQL = SQLInbox(create_async_engine("sqlite+aiosqlite://"))
CLIENT = BasiqClient("key", transport=InMemoryTransport())

# As a module of a user's has it: the names are imported under `if TYPE_CHECKING`, so they do not exist.
SOURCE = """
from typing import Annotated
async def one(delivery: Delivery) -> Missing: ...
async def prepared(delivery: Delivery, *, prepared: Account) -> None: ...
async def session(delivery: Delivery, session: AsyncSession) -> None: ...
async def endpoint(headers: Mapping[str, str], body: Body) -> Status: ...
async def asgi(scope: Scope, receive: Receive, send: Send) -> None: ...
def where(message: Message) -> Verdict: ...
async def two(first: Delivery, second: Delivery) -> None: ...
async def depends(delivery: Delivery, session: Annotated[AsyncSession, Depends(open)]) -> None: ...
class Service:
    async def method(self, delivery: Delivery) -> None: ...
    async def __call__(self, delivery: Delivery) -> None: ...
"""


def _functions() -> dict[str, Any]:
    lazy = "" if sys.version_info >= (3, 14) else "from __future__ import annotations\n"
    names: dict[str, Any] = {}
    exec(compile(lazy + SOURCE, "service.py", "exec", dont_inherit=True), names)
    return names


USERS = _functions()
ONE, SESSION, WHERE, ENDPOINT = (USERS[name] for name in ("one", "session", "where", "endpoint"))

TAKEN: dict[str, Callable[[], object]] = {
    "a handler": lambda: WebhookReceiver(SECRET).on("*")(ONE),
    "a method": lambda: WebhookReceiver(SECRET).on("*")(USERS["Service"]().method),
    "an object": lambda: WebhookReceiver(SECRET).on("*")(USERS["Service"]()),
    "a handler and what prepares": lambda: WebhookReceiver(SECRET).on("*", prepare=ONE)(USERS["prepared"]),
    "a handler with a session": lambda: WebhookReceiver(SECRET, inbox=SQL, webhook_id="w").on("*")(SESSION),
    "a deferred handler": lambda: WebhookReceiver(SECRET, inbox=SQL, webhook_id="w").on("*", deferred=True)(ONE),
    "a function for a replay": lambda: Replay(CLIENT, "w", ONE, inbox=MemoryInbox()),
    "one with a session": lambda: Replay(CLIENT, "w", SESSION, inbox=SQL),
    "where": lambda: Replay(CLIENT, "w", ONE, inbox=MemoryInbox(), where=WHERE),
    "an endpoint": lambda: FakeBasiq().route(URL, ENDPOINT),
    "an application": lambda: FakeBasiq().route(URL, USERS["asgi"]),
    "a mock as a handler": lambda: WebhookReceiver(SECRET).on("*")(AsyncMock()),
    "a mock as a deferred handler": lambda: WebhookReceiver(SECRET, inbox=SQL, webhook_id="w").on("*", deferred=True)(
        AsyncMock()
    ),
    "a mock for a replay": lambda: Replay(CLIENT, "w", AsyncMock(), inbox=MemoryInbox()),
    "a mock as an endpoint": lambda: FakeBasiq().route(URL, AsyncMock()),
}


@pytest.mark.parametrize("what", TAKEN)
async def test_annotations_of_a_users_callable_need_not_exist_and_a_mock_is_one(what: str) -> None:
    TAKEN[what]()


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda: WebhookReceiver(SECRET).on("*")(USERS["two"]), "must take one argument, the delivery"),
        (lambda: WebhookReceiver(SECRET).on("*")(USERS["depends"]), "the receiver calls it, not FastAPI"),
        (lambda: WebhookReceiver(SECRET).on("*")(USERS["prepared"]), "has a parameter `prepared`"),
        (lambda: Replay(CLIENT, "w", ONE, inbox=MemoryInbox(), where=USERS["two"]), "where must be a function, not an"),
        (lambda: Replay(CLIENT, "w", ONE, inbox=MemoryInbox(), where=AsyncMock()), "where must be a function, not an"),
        (lambda: FakeBasiq().route(URL, ONE), "a receiver is an async callable"),
    ],
)
def test_what_is_wrong_with_such_a_callable_is_found_as_ever(wrong: Callable[[], object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        wrong()


async def test_a_mock_is_an_endpoint_that_is_called_with_headers_and_body() -> None:
    fake, endpoint = FakeBasiq(), AsyncMock(return_value=202)
    fake.add_webhook(URL)
    fake.route(URL, endpoint)
    await fake.emit("user.created")
    assert fake.deliveries[0].status == 202
    endpoint.assert_awaited_once()
