"""Requests that are refused, each with its documented error."""

from __future__ import annotations

from typing import Any

import pytest

from ..conftest import ENDPOINT, Caller

NOWHERE = "11111111-2222-4333-8444-555555555555"
THERE = "https://example.com/there"
WEBHOOKS = "/notifications/webhooks"
ONE = f"{WEBHOOKS}/{{there}}"
MESSAGES = f"{ONE}/messages"
TEST = "/notifications/messages/test"
STATUSES = {"resource-not-found": 404, "resource-already-exists": 409}
# A webhook that cannot be, when it is created or updated.
WRONG_WEBHOOKS: list[tuple[Any, str]] = [
    ({}, "url"),
    ({"url": None}, "url"),
    ({"url": 5}, "url"),
    ({"url": "/relative"}, "url"),
    ({"url": "ftp://example.com/"}, "url"),
    ({"url": "https://"}, "url"),
    ({"url": "https://exa mple.com/"}, "url"),
    ({"url": "https://example.com:0/"}, "url"),
    ({"url": "https://example.com:99999/"}, "url"),
    ({"url": "https://[::1/"}, "url"),
    ({"url": ENDPOINT, "name": 5}, "name"),
    ({"url": ENDPOINT, "description": None}, "description"),
    ({"url": ENDPOINT, "subscribedEvents": []}, "subscribedEvents"),
    ({"url": ENDPOINT, "subscribedEvents": None}, "subscribedEvents"),
    ({"url": ENDPOINT, "subscribedEvents": {"user.created": True}}, "subscribedEvents"),
    ({"url": ENDPOINT, "subscribedEvents": ["user.created", 5]}, "subscribedEvents"),
    ({"url": ENDPOINT, "subscribedEvents": ["user.exploded"]}, "subscribedEvents"),
    ([], "body"),
    ("text", "body"),
]
WRONG_TEST_MESSAGES: list[tuple[Any, str]] = [
    ({}, "eventTypeId"),
    ({"eventTypeId": ["user.created"]}, "eventTypeId"),
    ({"eventTypeId": "user.exploded"}, "eventTypeId"),
    ({"eventTypeId": "user.created", "Text": 5}, "Text"),
    ({"URL": ENDPOINT}, "Events"),
    ({"URL": ENDPOINT, "Events": []}, "Events"),
    ({"URL": 5, "Events": ["user.created"]}, "URL"),
    ({"Events": ["user.created"]}, "URL"),
]
NOT_UUIDS = ("nonsense", NOWHERE[:-1], NOWHERE.replace("-", ""), NOWHERE[:-1] + "g", "..%2f..", "%C3%BC")
NO_PATHS = ("/", "", "/nowhere", "/events/a/b", "/notifications", f"{WEBHOOKS}/{NOWHERE}/x", "//")
NOT_THERE = (
    f"{MESSAGES}/{NOWHERE}",
    f"{WEBHOOKS}/{NOWHERE}/messages",
    "/events/types/user.exploded",
    "/events/12345",
    f"/users/{NOWHERE}",
    f"/users/{NOWHERE}/consents/{NOWHERE}",
    f"/users/{NOWHERE}/transactions",
)
NO_FILTERS = (
    "",
    "status",
    "status.eq",
    "status.eq()",
    "status.eq('Failed'",
    "status.eq('Failed)",
    "status.eq('Failed') status.eq('Failed')",
    "status.eq('Failed'),",
    "status.eq('Failed')OR status.eq('Failed') AND x",
    ",status.eq('Failed')",
    "status.gt('Failed')",
    "status.like('Failed')",
    "status.eq('a','b')",
    "status.bt('a')",
    "date.eq('yesterday')",
    "date.like('2026-01-01')",
    "date.gt('0001-01-01T00:00:00+14:00')",
    "date.bt('2026-01-01')",
    "colour.eq('red')",
    "status.eq(''')",
)
NO_CURSORS = ("", "nonsense", "%C3%BC", "AAAA", "a", "W10", "=" * 9)
NO_LIMITS = ("0", "501", "-1", "1.5", "ten", "", "%D9%A1", "%C2%B2", "9" * 5000, " 5")


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "parameter"),
    [
        *(("POST", path, *row[:1], "invalid-content", row[1]) for path in (WEBHOOKS, ONE) for row in WRONG_WEBHOOKS),
        *(("POST", TEST, body, "invalid-content", parameter) for body, parameter in WRONG_TEST_MESSAGES),
        ("POST", TEST, {"URL": "https://example.com/third", "Events": "user.created"}, "no-webhooks-found", "URL"),
        ("POST", WEBHOOKS, {"url": THERE}, "resource-already-exists", "url"),
        ("POST", f"{WEBHOOKS}/{{other}}", {"url": THERE}, "resource-already-exists", "url"),
        *(
            (method, f"{WEBHOOKS}/{text}", {"url": ENDPOINT}, "path-parameter-not-valid", "webhookId")
            for method in ("GET", "POST", "DELETE")
            for text in NOT_UUIDS
        ),
        ("GET", f"{MESSAGES}/nonsense", None, "path-parameter-not-valid", "messageId"),
        ("GET", "/events/types/nonsense", None, "path-parameter-not-valid", "eventTypeId"),
        ("GET", "/events/a%20b", None, "path-parameter-not-valid", "eventId"),
        *(
            (each, f"{WEBHOOKS}/{NOWHERE}", {"url": ENDPOINT}, "resource-not-found", None)
            for each in ("POST", "DELETE")
        ),
        *(("GET", path, None, "resource-not-found", None) for path in (*NO_PATHS, *NOT_THERE, f"{WEBHOOKS}/{NOWHERE}")),
        *(("GET", f"{MESSAGES}?filter={text}", None, "parameter-not-valid", "filter") for text in NO_FILTERS),
        *(("GET", f"{MESSAGES}?next={text}", None, "parameter-not-valid", "next") for text in NO_CURSORS),
        *(("GET", f"{MESSAGES}?limit={text}", None, "parameter-not-valid", "limit") for text in NO_LIMITS),
        ("GET", "/events?filter=a&limit=1&limit=2", None, "parameter-not-valid", "limit"),
        ("GET", "/events?=1&=2", None, "parameter-not-valid", "query"),
        ("GET", "/events?" + "a=1&" * 200, None, "parameter-not-valid", "query"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_is_refused_with_its_documented_error(
    caller: Caller, method: str, path: str, body: Any, code: str, parameter: str | None
) -> None:
    ids = {name: caller.fake.add_webhook(f"https://example.com/{name}") for name in ("there", "other")}
    caller.fake.seed_messages(3, ids["there"], event_types=["consent.created"])
    error = caller.error(method, path.format_map(ids), body, status=STATUSES.get(code, 400))
    assert (error["code"], error.get("source")) == (code, parameter and {"parameter": parameter})


def test_a_test_message_needs_a_webhook(caller: Caller) -> None:
    error = caller.error("POST", TEST, {"eventTypeId": "user.created"}, status=400)
    assert (error["code"], error["source"]) == ("no-webhooks-found", {"parameter": "eventTypeId"})


def test_an_update_may_keep_its_own_url(caller: Caller) -> None:
    there = caller.fake.add_webhook(THERE)
    caller.json("POST", f"{WEBHOOKS}/{there}", {"url": THERE})
