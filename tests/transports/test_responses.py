"""What the status, headers and error body of a response say."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from basiq_async import Response
from basiq_async.transports.responses import (
    error_from,
    parse_date,
    parse_retry_after,
    read_correlation_id,
    read_retry_after,
)

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
AT_ONCE, LATER = "Mon, 05 Jan 2026 12:00:00 GMT", "Mon, 05 Jan 2026 12:01:00 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0), ("7", 7.0), ("1.5", 1.5), (" 7 ", 7.0), (LATER, 60.0), (AT_ONCE, 0.0),
        (f"7, {LATER}", 60.0), ("90, 7", 90.0),
        ("Mon, 05 Jan 2026 12:01:00", 60.0), ("Mon, 05 Jan 2026 11:59:00 GMT", None), ("-7", None), ("", None),
        (None, None), ("soon", None), ("soon, 7", 7.0), ("inf", None), ("nan", None), ("1e3", None), ("\u0667", None),
        ("9" * 20, 1e20), ("9" * 400, sys.float_info.max),
    ],
)  # fmt: skip
def test_a_retry_after_is_the_longest_of_its_waits(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


def test_a_header_is_read_up_to_a_thousand_characters() -> None:
    assert parse_retry_after("7".rjust(1_000), NOW) == 7.0
    assert parse_retry_after("7".rjust(1_001), NOW) is None
    assert parse_date(LATER + " " * 2_000) == datetime(2026, 1, 5, 12, 1, tzinfo=UTC)
    assert parse_date(LATER.rjust(1_000 + len(LATER))) is None


@pytest.mark.parametrize("value", ["", "soon", "99", "Mon, 99 Jan 2026 12:00:00 GMT"])
def test_a_date_that_cannot_be_read_is_none(value: str) -> None:
    assert parse_date(value) is None


@pytest.mark.parametrize(("status", "found"), [(200, None), (399, None), (400, "HIDDEN"), (500, "HIDDEN")])
def test_only_an_error_has_a_correlation_id_and_no_credential_is_in_it(status: int, found: str | None) -> None:
    body = json.dumps({"type": "list", "correlationId": "secret", "data": []}).encode()
    assert read_correlation_id(Response(status, {}, body), lambda text: text.replace("secret", "HIDDEN")) == found


@pytest.mark.parametrize("body", [b"", b"[]", b"no", b'{"correlationId": 7}', b"\xff"])
def test_an_error_without_a_readable_correlation_id_has_none(body: bytes) -> None:
    assert read_correlation_id(Response(500, {}, body), str) is None


@pytest.mark.parametrize("size", [500, 501, 5_000])
def test_a_text_of_an_error_is_cut_after_500_characters(size: int) -> None:
    body = json.dumps({"correlationId": "x" * size}).encode()
    assert read_correlation_id(Response(500, {}, body), str) == "x" * min(size, 500) + "…" * (size > 500)


@pytest.mark.parametrize(("more", "read"), [(0, True), (1, False)])
def test_an_error_body_is_read_up_to_a_mib(more: int, read: bool) -> None:
    body = json.dumps({"correlationId": "abc"}).encode().ljust(2**20 + more)
    assert read_correlation_id(Response(500, {}, body), str) == ("abc" if read else None)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (199, "not a final status: it is below 200"), (200, ""), (299, ""), (300, "a redirect, which is not followed"),
        (399, "a redirect, which is not followed"), (400, ""),
    ],
)  # fmt: skip
def test_an_error_explains_a_redirect_and_what_is_no_final_status(status: int, said: str) -> None:
    found = error_from(Response(status, {}, b""), method="GET", path="/things").args[0]
    assert found.startswith(said)
    assert bool(found) == bool(said)


@pytest.mark.parametrize(
    ("data", "code", "count"),
    [
        ([{"code": "a"}, {"code": "b"}], "a", 2),
        ({"code": "a"}, "a", 1),
        ({"code": ""}, None, 1),
        ({"code": 7}, None, 1),
        (["no", {"code": "b"}], "b", 1),
        ("no", None, 0),
        (None, None, 0),
        ([], None, 0),
    ],
    ids=repr,
)
def test_the_first_entry_of_an_error_body_describes_it_and_all_are_kept(data: object, code: str, count: int) -> None:
    body = json.dumps({"data": data}).encode()
    found = error_from(Response(400, {}, body), method="GET", path="/things")
    assert (found.code, len(found.errors)) == (code, count)


@pytest.mark.parametrize(("source", "parameter"), [({"parameter": "limit"}, "limit"), ({}, None), ("limit", None)])
def test_the_parameter_of_an_error_is_that_of_its_source(source: object, parameter: str | None) -> None:
    body = json.dumps({"data": [{"source": source}]}).encode()
    assert error_from(Response(400, {}, body), method="GET", path="/things").parameter == parameter


@pytest.mark.parametrize(
    ("date", "now", "seconds"), [(LATER, NOW, 60.0), ("Mon, 01 Jan 1990 12:00:00 GMT", None, None)]
)
def test_a_wait_until_a_date_is_counted_from_now(date: str, now: datetime | None, seconds: float | None) -> None:
    response = Response(503, {"retry-after": date}, b"")
    found = error_from(response, method="GET", path="/things", now=now).retry_after
    assert found == seconds, "a date that has passed asks for no wait"


@pytest.mark.parametrize(
    ("date", "seconds"), [({"date": AT_ONCE}, 60.0), ({"date": "soon"}, None), ({"date": 5}, None), ({}, None)]
)
def test_such_a_date_is_by_the_clock_of_whoever_responded(date: dict[str, Any], seconds: float | None) -> None:
    response = Response(429, {"retry-after": LATER, **date}, b"")
    assert read_retry_after(response, NOW + timedelta(hours=1)) == seconds
    assert error_from(response, method="GET", path="/x", now=NOW + timedelta(hours=1)).retry_after == seconds
