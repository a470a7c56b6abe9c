"""Whatever a program passes in: refused with the argument's name before anything is sent, or sent as exactly one segment."""

from __future__ import annotations

import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from basiq_async import AiohttpTransport, BasiqClient, ConfigurationError, F, RetryPolicy
from tests.support.outcomes import client_of, outcome
from tests.support.wire import KEY, MESSAGE, WEBHOOK, Wire, ok, page

UNKNOWN = ...
"""An object of no type that is known."""
SEGMENTS = ["user@host;a&b=c", "100%", "...", "\u202e标识符\U0001f600"]
"""With what has a meaning in a url; tests/wire/test_urls.py has more."""
REFUSED: list[Any] = [
    "a/b", "a\r\nX-Injected: 1", "..", "", "a" * 100_000, "a\ud800",
    None, 5, 1.5, True, b"w1", ["w1"], {}, UNKNOWN,
]  # fmt: skip
"""tests/faults/test_paths.py has what leads to another path."""
Call = Callable[[BasiqClient, Any], Awaitable[Any]]
BY_ID: dict[str, tuple[Call, str, str]] = {
    "webhooks.get": (lambda c, v: c.webhooks.get(v), "/notifications/webhooks/{}", "webhook_id"),
    "webhooks.update": (
        lambda c, v: c.webhooks.update(v, url="https://example.com"),
        "/notifications/webhooks/{}",
        "webhook_id",
    ),
    "webhooks.delete": (lambda c, v: c.webhooks.delete(v), "/notifications/webhooks/{}", "webhook_id"),
    "webhooks.wait_until_active": (
        lambda c, v: c.webhooks.wait_until_active(v, timeout=1),
        "/notifications/webhooks/{}",
        "webhook_id",
    ),
    "messages.list": (lambda c, v: c.messages.list(v).collect(), "/notifications/webhooks/{}/messages", "webhook_id"),
    "messages.get, webhook": (
        lambda c, v: c.messages.get(v, "m1"),
        "/notifications/webhooks/{}/messages/m1",
        "webhook_id",
    ),
    "messages.get, message": (
        lambda c, v: c.messages.get("w1", v),
        "/notifications/webhooks/w1/messages/{}",
        "message_id",
    ),
    "event_types.get": (lambda c, v: c.event_types.get(v), "/events/types/{}", "event_type_id"),
    "events.get": (lambda c, v: c.events.get(v), "/events/{}", "event_id"),
}


async def made(call: Call, client: BasiqClient, value: Any) -> Any:
    return await call(client, value)


@pytest.mark.parametrize(("call", "path", "name"), BY_ID.values(), ids=BY_ID)
async def test_an_identifier_is_exactly_one_segment_or_refused_before_anything_is_sent(
    call: Call, path: str, name: str
) -> None:
    answer = ok({**WEBHOOK, **MESSAGE, "data": []})
    async with Wire(answer) as wire, client_of(wire, timeout=5.0) as client:
        for value in REFUSED:
            got = await outcome(made(call, client, value))
            assert type(got) is ConfigurationError, value
            assert name in str(got)
            assert len(str(got)) < 300
        assert wire.connections == 0
        for value in SEGMENTS:
            got = await outcome(made(call, client, value))
            assert not isinstance(got, Exception), got
            target = wire.requests[-1].target.partition("?")[0]
            before, after = path.split("{}")
            assert target.startswith(before)
            assert target.endswith(after)
            segment = target.removeprefix(before).removesuffix(after)
            assert "/" not in segment
            assert urllib.parse.unquote(segment, errors="strict") == value
            assert "x-injected" not in wire.requests[-1].headers


LONE = "\ud800"
EVENTS: list[Any] = [[], (), "user.created", b"user.created", None, 5, [None], [""], ["  "], [5], [b"x"], ["a", None], {},
                     [f"a{LONE}"]]  # fmt: skip
URLS: list[Any] = ["", " ", "/x", "example.com", "ftp://example.com", "http://", "https:///x", "https://exa mple.com",
                   "https://x\n.com", "https://example.com:0/", "https://example.com:99999/", "https://[::1",
                   f"https://{LONE}.com", "javascript:x", None, 5, b"https://x.com", []]  # fmt: skip
ARGUMENTS: dict[str, tuple[str, Call, list[Any]]] = {
    "create": ("url", lambda c, v: c.webhooks.create(url=v, subscribed_events=["user.created"]), URLS),
    "ensure": ("url", lambda c, v: c.webhooks.ensure(url=v, subscribed_events=["user.created"]), URLS),
    "update": ("url", lambda c, v: c.webhooks.update("w1", url=v), [each for each in URLS if each is not None]),
    "create, events": (
        "subscribed_events", lambda c, v: c.webhooks.create(url="https://x.com", subscribed_events=v), EVENTS,
    ),
    "ensure, events": (
        "subscribed_events", lambda c, v: c.webhooks.ensure(url="https://x.com", subscribed_events=v), EVENTS,
    ),
    "update, events": (
        "subscribed_events", lambda c, v: c.webhooks.update("w1", url="https://x.com", subscribed_events=v),
        [[], "user.created", [""], 5],
    ),
    "create, name": (
        "name", lambda c, v: c.webhooks.create(url="https://x.com", subscribed_events=["a"], name=v),
        [5, b"x", [], {}, True, LONE],
    ),
    "update, description": (
        "description", lambda c, v: c.webhooks.update("w1", url="https://x.com", description=v), [5, b"x", LONE],
    ),
    "send_test": ("event_type_id", lambda c, v: c.messages.send_test(v), ["", " ", None, 5, b"x", [], LONE]),
    "send_test, text": ("text", lambda c, v: c.messages.send_test("user.created", text=v), [5, b"x", [], LONE]),
    "send_test_to": ("url", lambda c, v: c.messages.send_test_to(v, ["a"]), ["", "x", None, 5, b"x", LONE]),
    "send_test_to, types": (
        "event_type_ids", lambda c, v: c.messages.send_test_to("https://x.com", v), [[], "a", None, [None], [LONE]],
    ),
    "list, limit": (
        "page_size", lambda c, v: c.messages.list("w1", page_size=v).collect(), [0, -1, 501, 10**9, 1.5, "5", None, True, float("nan")],
    ),
    "list, filter": ("filter", lambda c, v: c.messages.list("w1", filter=v).collect(), [5, b"x", [], F("a"), LONE, f"a{LONE}"]),
    "list, cursor": (
        "cursor", lambda c, v: c.messages.list("w1", cursor=v).collect(),
        ["", "x", "é", LONE, "=" * 9, "A" * 1_000_000, 5, b"x", [], "AAAA", "\0"],
    ),
    "list, prefetch": ("prefetch", lambda c, v: c.messages.list("w1", prefetch=v).collect(), [-1, 2, "1", None, True, 1.5]),
    "collect": ("max_items", lambda c, v: c.messages.list("w1").collect(max_items=v), [-1, 1.5, "1", True]),
    "wait_until_active": (
        "timeout", lambda c, v: c.webhooks.wait_until_active("w1", timeout=v),
        [-1, "1", None, True, float("nan"), float("inf")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "call", "values"), ARGUMENTS.values(), ids=ARGUMENTS)
async def test_a_bad_argument_is_refused_by_its_name_before_anything_is_sent(
    name: str, call: Call, values: list[Any]
) -> None:
    async with Wire() as wire, client_of(wire) as client:
        for value in values:
            got = await outcome(made(call, client, value))
            assert type(got) is ConfigurationError, (value, got)
            assert name in str(got) or "UTF-8" in str(got)
            assert len(str(got)) < 400
        assert wire.connections == 0


@pytest.mark.parametrize("source", [None, 5, "text", UNKNOWN, {}, []], ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("name", ["fetch", "fetch_entity"])
async def test_a_source_of_links_that_is_none_is_refused(source: Any, name: str) -> None:
    async with Wire() as wire, client_of(wire) as client:
        assert type(await outcome(getattr(client.events, name)(source))) is ConfigurationError
        assert wire.connections == 0


LONG = {
    "name": lambda c: c.webhooks.create(url="https://x.com", subscribed_events=["a"], name="n" * 100_000),
    "control characters": lambda c: c.webhooks.create(url="https://x.com", subscribed_events=["a"], name="\0\r\n\x7f"),
    "url": lambda c: c.webhooks.create(url="https://x.com/" + "u" * 100_000, subscribed_events=["a"]),
    "events": lambda c: c.webhooks.create(url="https://x.com", subscribed_events=["a" * 100_000]),
    "text": lambda c: c.messages.send_test("user.created", text="\r\nX-Injected: 1" * 10_000),
}


@pytest.mark.parametrize("call", LONG.values(), ids=LONG)
async def test_a_long_or_odd_text_in_a_body_is_sent_as_it_is(call: Any) -> None:
    async with Wire(ok(WEBHOOK)) as wire, client_of(wire, timeout=2.0) as client:
        assert not isinstance(await outcome(call(client)), Exception)
        assert "x-injected" not in wire.requests[0].headers


async def test_a_filter_cannot_break_out_of_the_query() -> None:
    async with Wire(page([])) as wire, client_of(wire) as client:
        for text in ["a&limit=1", "a#b", "a\r\nX-Injected: 1", "a b", "é", "?x", "%00", "a" * 5000, "'; drop"]:
            for filter_ in (text, F("a.b").eq("\\' " + text.replace("\r\n", "")) & F("c").bt(1, 2)):
                assert await outcome(client.messages.list("w1", filter=filter_).collect()) == []
                query = urllib.parse.parse_qs(wire.requests[-1].target.partition("?")[2], strict_parsing=True)
                assert query == {"limit": ["500"], "filter": [str(filter_)]}


BAD_KEYS = [
    "",
    " ",
    "a b",
    "a\nb",
    "a\r\nX: 1",
    "a\tb",
    "é",
    "\0",
    "\ud800",
    "a" * 70_000,
    "Basic abc",
    b"abc",
    5,
    True,
    [],
    UNKNOWN,
]


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: repr(key)[:20])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        BasiqClient(key)
    text = str(caught.value)
    assert "API key" in text
    assert len(text) < 300
    assert not isinstance(key, str) or len(key) < 4 or key not in text


OPTIONS: dict[str, list[Any]] = {
    "base_url": ["", "x", 5, b"http://x"],
    "timeout": [0, None, "1", True, b"1", []],
    "retry": [0, {}, "x", RetryPolicy],
    "transport": [0, {}, "x", UNKNOWN],
}


@pytest.mark.parametrize(
    ("option", "value"),
    [(name, value) for name, values in OPTIONS.items() for value in values],
    ids=lambda v: repr(v)[:30],
)
def test_a_bad_option_of_the_client_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=option):
        BasiqClient(KEY, **{option: value})


@pytest.mark.parametrize("session", [0, "x", UNKNOWN], ids=["0", "text", "object"])
def test_a_session_that_is_none_is_refused(session: Any) -> None:
    with pytest.raises(ConfigurationError, match="session"):
        AiohttpTransport(session)
