"""Each field of each object missing, null, of every other type, enormous, in another case: an object whose every part
can be used, or one error when it is read."""

from __future__ import annotations

import copy
import functools
import json
import operator
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from basiq_async import DeliveryAttempt, Event, EventType, Message, ResponseDecodeError, Secret, Webhook
from basiq_async._wire.codec import Codec
from tests.support.outcomes import assert_hidden
from tests.support.wire import MARK, SIGNING

WEBHOOK = {
    "id": "6a52015e-e0d6-4c69-8bd8-d44c7d0a1a3c",
    "type": "webhook",
    "name": "A name",
    "description": "A description",
    "url": "https://example.com/hook",
    "status": "active",
    "secret": SIGNING,
    "subscribedEvents": ["user.created", "consent.revoked"],
    "links": {"self": "https://au-api.basiq.io/notifications/webhooks/6a52"},
}
MESSAGE = {
    "id": "2d1a",
    "type": "message",
    "webhookId": "6a52",
    "event": {"id": "e1"},
    "eventTypeId": "user.created",
    "eventId": "e1",
    "payload": {
        "eventTypeId": "user.created",
        "eventId": "e1",
        "links": {"event": "https://au-api.basiq.io/events/e1", "eventEntity": "https://au-api.basiq.io/users/u1"},
    },
    "attempts": [
        {
            "id": "a1",
            "url": "https://example.com/hook",
            "response": "ok",
            "responseStatusCode": 200,
            "timestamp": "2024-04-17T23:57:17Z",
            "status": "Success",
        }
    ],
    "links": {"self": "https://au-api.basiq.io/x", "webhook": "https://au-api.basiq.io/notifications/webhooks/6a52"},
}
EVENT = {
    "id": "e1",
    "type": "event",
    "createdDate": "2024-04-17T23:57:17Z",
    "entity": "consent",
    "eventType": "revoked",
    "eventTypeId": "consent.revoked",
    "userId": "u1",
    "dataRef": "https://au-api.basiq.io/users/u1/consents",
    "data": {"id": "c1"},
    "links": {"self": "https://au-api.basiq.io/events/e1"},
}
EVENT_TYPE = {"id": "user.created", "type": "event-type", "description": "A text", "links": {"self": "/x"}}
OBJECTS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "webhook": (Webhook, WEBHOOK),
    "message": (Message, MESSAGE),
    "event": (Event, EVENT),
    "event type": (EventType, EVENT_TYPE),
}
MISSING = object()
VALUES: dict[str, Any] = {
    "missing": MISSING,
    "null": None,
    "true": True,
    "zero": 0,
    "a fraction": 0.5,
    "a huge number": 10**300,
    "1e300": 1e300,
    "an empty text": "",
    "blank": "  ",
    "text": "text",
    "a control text": "\0\n\x1b[31m\u202e",
    "digits": "123",
    "an empty list": [],
    "a list": ["a", "b"],
    "a list of null": [None],
    "a list of numbers": [1, 2.5, -3],
    "a list of lists": [[["a"]]],
    "a list of objects": [{"a": 1}],
    "an empty object": {},
    "an object": {"a": "b"},
    "an object of odd keys": {"": None, "\0": [], "a.b": {}},
    "a nested object": {"id": {"id": {"id": 1}}},
}


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each part of a JSON value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in entries:
        yield (*at, name)
        yield from paths(inner, (*at, name))


def with_value(original: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(original)
    inner = functools.reduce(operator.getitem, path[:-1], changed)
    inner[path[-1]] = value
    if value is MISSING:
        del inner[path[-1]]
    return changed


KINDS: dict[str, Any] = {
    "attempts": tuple, "subscribed_events": tuple, "delivered": (bool, type(None)), "succeeded": (bool, type(None)), "status_code": (int, type(None)),
    "created": (datetime, type(None)), "timestamp": (datetime, type(None)),
}  # fmt: skip


def touch(thing: Any) -> None:
    """Use every part of an object: nothing may come out but what is declared."""
    assert MARK not in f"{thing!r}{thing}{getattr(thing, 'raw', None)}"
    assert copy.deepcopy(thing) == thing != 5
    assert hash(thing) == hash(copy.copy(thing))
    parts = {name: getattr(thing, name) for name in dir(type(thing)) if not name.startswith("_")}
    for name in KINDS.keys() & parts:
        assert isinstance(parts[name], KINDS[name]), name
        assert getattr(parts[name], "tzinfo", UTC) is not None, name
    if not isinstance(thing, DeliveryAttempt):
        assert all(isinstance(part, str) and part for part in (thing.id, parts.get("url", "no url")))
        assert all(isinstance(link, str) for link in thing.links.values())
    for attempt in parts.get("attempts", ()):
        touch(attempt)


CODEC = Codec()


def read(model: type[Any], value: Any) -> Any:
    try:
        found = CODEC.read(model, json.dumps(value).encode())
    except ResponseDecodeError as exc:
        assert_hidden(exc)
        assert exc.location.startswith("$")
        assert len(str(exc)) < 300
        return exc
    touch(found)
    return found


CASES = [(name, path) for name, (_, original) in OBJECTS.items() for path in paths(original)]


@pytest.mark.parametrize(
    ("name", "path"), CASES, ids=lambda part: part if isinstance(part, str) else ".".join(map(str, part))
)
def test_each_field_with_each_kind_of_value(name: str, path: tuple[Any, ...]) -> None:
    model, original = OBJECTS[name]
    for kind, value in VALUES.items():
        got = read(model, with_value(original, path, value))
        if path == ("id",) and kind in ("missing", "null", "an empty text", "a list", "true", "an object"):
            assert isinstance(got, ResponseDecodeError), kind
            assert got.location == "$.id", kind


@pytest.mark.parametrize("name", OBJECTS)
def test_unknown_fields_and_names_in_another_case_are_kept_and_do_no_harm(name: str) -> None:
    model, original = OBJECTS[name]
    unknown = {
        **original,
        **{name.upper(): [None] for name in original},
        "type": "something-new",
        "status": "on-fire",
        "eventType": "exploded",
        "(raw)": 5,
        "raw": 6,
        "self": 7,
    }
    got = read(model, unknown)
    assert isinstance(got, model)
    assert got.raw["(raw)"] == 5
    assert got.raw["raw"] == 6


DATES: dict[str, str | None] = {
    "2024-04-17T23:57:17Z": "2024-04-17T23:57:17+00:00",
    "2024-04-17T23:57:17z": "2024-04-17T23:57:17+00:00",
    "2024-04-17t23:57:17Z": "2024-04-17T23:57:17+00:00",
    "2024-04-17t23:57:17z": "2024-04-17T23:57:17+00:00",
    "2024-04-17T23:57:17": "2024-04-17T23:57:17+00:00",
    "2024-04-17T23:57:17.000000000Z": "2024-04-17T23:57:17+00:00",
    "2024-04-17 23:57:17": "2024-04-17T23:57:17+00:00",
    "2024-04-17T23:57:17.123Z": "2024-04-17T23:57:17.123000+00:00",
    "2024-04-17T23:57:17.123456789Z": "2024-04-17T23:57:17.123456+00:00",
    "2024-04-17T23:57:17+10:00": "2024-04-17T23:57:17+10:00",
    "2024-04-17T23:57:17+1000": "2024-04-17T23:57:17+10:00",
    "2024-04-17": "2024-04-17T00:00:00+00:00",
    "20240417T235717Z": "2024-04-17T23:57:17+00:00",
    "  2024-04-17T23:57:17Z ": "2024-04-17T23:57:17+00:00",
    "Wed, 17 Apr 2024 23:57:17 GMT": "2024-04-17T23:57:17+00:00",
    "1713398237": "2024-04-17T23:57:17+00:00",
    "1713398237000": "2024-04-17T23:57:17+00:00",
    "9999-12-31T23:59:59.999999Z": "9999-12-31T23:59:59.999999+00:00",
    "0001-01-01T00:00:00Z": "0001-01-01T00:00:00+00:00",
    "": None,
}
NO_DATES = [
    "soon", "2024-13-01", "2024-02-30T00:00:00Z", "2024-04-17T25:00:00Z", "17/04/2024", "T", "Z", "1e400", "nan", "inf", "-inf", "9" * 20, "9" * 400, "٣",
    "99999-01-01", "0000-00-00", "２０２４-04-17", "2024-04-17T23:57:17+99:99", "\0", "x" * 100_000, "[]", "null",
]  # fmt: skip
EPOCHS: dict[Any, str | None] = {
    0: "1970-01-01T00:00:00+00:00",
    1713398237: "2024-04-17T23:57:17+00:00",
    1713398237.5: "2024-04-17T23:57:17.500000+00:00",
    1713398237000: "2024-04-17T23:57:17+00:00",
    -1: "1969-12-31T23:59:59+00:00",
    None: None,
}


@pytest.mark.parametrize(("text", "expected"), [*DATES.items(), *EPOCHS.items()], ids=repr)
def test_every_plausible_form_of_a_date(text: Any, expected: str | None) -> None:
    event = read(Event, {**EVENT, "createdDate": text})
    attempt = {**MESSAGE["attempts"][0], "timestamp": text}
    message = read(Message, {**MESSAGE, "attempts": [attempt]})
    for found in (event.created, message.attempts[0].timestamp):
        assert (found.isoformat() if found else None) == expected


@pytest.mark.parametrize(
    "value", [*NO_DATES, True, [], {}, 1e300, 10**300, -(10**300), 2**63], ids=lambda v: repr(v)[:30]
)
def test_what_is_no_date_is_an_error_at_its_place_when_the_item_is_read(value: Any) -> None:
    event = read(Event, {**EVENT, "createdDate": value})
    assert (type(event), event.location) == (ResponseDecodeError, "$.createdDate")
    attempt = {**MESSAGE["attempts"][0], "timestamp": value}
    message = read(Message, {**MESSAGE, "attempts": [MESSAGE["attempts"][0], attempt]})
    assert (type(message), message.location) == (ResponseDecodeError, "$.attempts[1].timestamp")


@pytest.mark.parametrize("hours", [14, -14, 23, -23])
@pytest.mark.parametrize("text", ["0001-01-01T00:00:00", "9999-12-31T23:59:59"])
def test_a_date_at_the_end_of_time_can_be_used(text: str, hours: int) -> None:
    got = read(Event, {**EVENT, "createdDate": f"{text}{hours:+03d}:00"})
    if isinstance(got, Event):
        assert got.created is not None
        assert hash(got.created) == hash(got.created)
        assert got.created == got.created


def test_a_secret_is_never_shown_in_whatever_shape_it_comes() -> None:
    for secret in (SIGNING, [SIGNING], {"value": SIGNING}, SIGNING * 100, f" {SIGNING} "):
        got = read(Webhook, {**WEBHOOK, "secret": secret})
        if isinstance(got, Webhook):
            assert isinstance(got.secret, Secret)
            assert got.secret.reveal() == secret
            assert MARK not in repr(got.raw)
    for name in ("Secret", "SECRET", "sEcret"):
        got = read(Webhook, {**WEBHOOK, "secret": None, name: SIGNING})
        assert got.secret is None
        assert MARK not in repr(got.raw)
