"""Properties: whatever goes in, one of the declared outcomes comes out."""

from __future__ import annotations

import json
import math
import urllib.parse
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from basiq_async import (
    APIError,
    BasiqError,
    ConfigurationError,
    Event,
    EventType,
    Message,
    Response,
    ResponseDecodeError,
    Webhook,
)
from basiq_async._redaction.credentials import Redactor
from basiq_async._wire.codec import Codec, _strict_loads, default_loads
from basiq_async._wire.urls import BaseURL, LinkError, absolute_url, quote_segment
from basiq_async.transports.responses import error_from, parse_retry_after
from tests.faults.test_schema import touch

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=75)
NOW = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
CODECS = [Codec(loads=default_loads()), Codec(loads=_strict_loads)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["id", "url", "type", "status", "name", "secret", "subscribedEvents", "links", "payload", "attempts", "eventTypeId", "eventId",
     "createdDate", "entity", "eventType", "userId", "dataRef", "data", "webhookId", "timestamp", "responseStatusCode", "response"]
)  # fmt: skip
OBJECTS = st.recursive(
    JSON, lambda inner: st.dictionaries(NAMES, inner, max_size=8) | st.lists(inner, max_size=3), max_leaves=8
)
BASE = BaseURL.parse("https://proxy.example:8443/basiq")


@relaxed
@given(st.binary(max_size=300))
def test_any_bytes_are_json_or_a_decode_error_with_both_decoders_alike(body: bytes) -> None:
    found: list[Any] = []
    for codec in CODECS:
        try:
            found.append(codec.json(body))
        except ResponseDecodeError:
            found.append(ResponseDecodeError)
    assert found[0] == found[1] or any(isinstance(value, float) for value in found)


@relaxed
@given(st.sampled_from([Webhook, Message, Event, EventType]), st.dictionaries(NAMES, OBJECTS, max_size=6))
def test_any_object_is_a_model_whose_parts_can_be_used_or_a_decode_error(model: type[Any], value: Any) -> None:
    try:
        touch(CODECS[0].read(model, json.dumps(value).encode()))
    except ResponseDecodeError as exc:
        assert exc.location.startswith("$")


@relaxed
@given(OBJECTS)
def test_any_value_is_a_page_or_a_decode_error(value: Any) -> None:
    try:
        page = CODECS[0].page(json.dumps(value).encode())
    except ResponseDecodeError:
        return
    assert isinstance(page.items, list)


@relaxed
@given(st.integers(100, 999), st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_answer_is_an_error_of_its_status(status: int, body: bytes) -> None:
    error = error_from(Response(status, {}, body), method="GET", path="/x", now=NOW)
    assert isinstance(error, APIError)
    assert error.status == status
    assert str(error).isprintable()


@relaxed
@given(st.text(max_size=60))
def test_any_retry_after_is_a_wait_or_none(text: str) -> None:
    wait = parse_retry_after(text, NOW)
    assert wait is None or (wait >= 0 and math.isfinite(wait))


@relaxed
@given(st.text(max_size=60))
def test_any_identifier_is_one_segment_that_reads_back_or_refused(text: str) -> None:
    try:
        found = quote_segment(text, "id")
    except ConfigurationError:
        return
    assert not set("/?#\\ ") & set(found)
    assert found.isascii()
    assert found.isprintable()
    assert urllib.parse.unquote(found) == text
    assert found not in ("", ".", "..")


LINK_PARTS = st.lists(
    st.sampled_from(
        ["http://", "https://", "//", "/", "\\", "..", ".", "%2e", "@", ":", "?", "#", "proxy.example", ":8443", "/basiq", "au-api.basiq.io",
         "evil.example", "\t", "\n", " ", "\0", "é", "javascript:", "[::1]", "%", "%00", "a=b", "&", "next", "HTTPS://"]
    )
    | st.text(max_size=3),
    max_size=8,
).map("".join)  # fmt: skip


@relaxed
@given(LINK_PARTS)
def test_any_link_leads_to_the_base_or_is_refused(link: str) -> None:
    try:
        url = BASE.resolve(link, BASE.url("/notifications/webhooks/w/messages"))
    except LinkError:
        return
    assert url.startswith("https://proxy.example:8443/basiq")
    assert url[len("https://proxy.example:8443/basiq") :][:1] in ("", "/", "?")
    assert url.isascii()
    assert url.isprintable()
    assert " " not in url
    # What a url parser of others makes of it is the same place.
    parts = urllib.parse.urlsplit(url)
    assert (parts.scheme, parts.hostname, parts.port, parts.username) == ("https", "proxy.example", 8443, None)


@relaxed
@given(LINK_PARTS)
def test_any_base_url_is_taken_whole_or_refused(text: str) -> None:
    try:
        base = BaseURL.parse(text)
    except ConfigurationError:
        return
    parts = urllib.parse.urlsplit(base.url("/x"))
    assert parts.scheme in ("http", "https")
    assert parts.hostname
    assert parts.username is None
    assert base.owns(base.url("/x"))


@relaxed
@given(LINK_PARTS | st.text())
def test_any_url_of_an_endpoint_is_taken_as_it_is_or_refused(text: str) -> None:
    try:
        assert absolute_url(text) == text
    except ConfigurationError:
        return
    assert urllib.parse.urlsplit(text).hostname


@relaxed
@given(JSON, st.text(min_size=6, max_size=20))
def test_a_redactor_leaves_no_trace_of_what_it_knows(value: Any, secret: str) -> None:
    redactor = Redactor(secret)
    assert secret not in redactor.text(f"a{secret}b{secret}{json.dumps(value)}") or secret in "[redacted]"
    assert secret not in str(redactor.value([secret, {secret: secret}])) or secret in str(
        [{"[redacted]": "[redacted]"}]
    )


@relaxed
@given(st.text())
def test_any_key_is_taken_as_it_is_or_refused_without_being_shown(key: str) -> None:
    from basiq_async.transports.auth import ApiKey

    try:
        header = ApiKey(key).header()
    except BasiqError as exc:
        assert len(key) < 3 or key not in str(exc)
        return
    assert header == f"Basic {key}"
    assert header.isascii()
    assert header.isprintable()
