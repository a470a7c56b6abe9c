"""Bodies that arrive: what is refused before it is read, and what a body becomes that does not arrive as it should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from basiq_async._web.bodies import BodyReader
from basiq_async.receiver import Result
from basiq_async.receiver._bodies import (  # private: no adapter reaches each of these cases
    ends_connection,
    read_body,
    read_content_length,
    refuse,
)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("0", 0),
        ("12", 12),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("9" * 19, None),
        ("9" * 18, 10**18 - 1),
    ],
)
def test_a_content_length_is_a_number_of_digits_or_unknown(text: str, length: int | None) -> None:
    assert read_content_length(text) == length


@pytest.mark.parametrize(
    ("length", "encoding", "result"),
    [
        (None, None, None),
        (10, None, None),
        (11, None, Result.TOO_LARGE),
        (1, "gzip", Result.COMPRESSED),
        (1, "Identity ", None),
        (1, "", None),
        (1, "gzip, identity", Result.COMPRESSED),
        (11, "gzip", Result.TOO_LARGE),
    ],
)
def test_the_headers_show_a_body_that_is_too_large_or_compressed(
    length: int | None, encoding: str | None, result: Result | None
) -> None:
    outcome = refuse(length, encoding, 10)
    assert (None if outcome is None else outcome.result) is result


def test_a_connection_ends_with_the_rest_of_a_body_but_not_one_of_http_2() -> None:
    found = [
        ends_connection(fully_read=fully_read, http_version=version)
        for fully_read in (True, False)
        for version in ("1.1", "2")
    ]
    assert found == [False, False, True, False]


async def chunks(*parts: bytes, breaks: bool = False, hangs: bool = False) -> AsyncGenerator[bytes]:
    for part in parts:
        yield part
    if breaks:
        raise ConnectionError("the body broke off")
    if hangs:
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (chunks(b"a", b"b"), b"ab"),
        (chunks(), b""),
        (chunks(b"a" * 20_001), Result.TOO_LARGE),
        (chunks(b"a" * 16_484), b"a" * 16_484),  # the first 16 KiB of each do not count
        (chunks(b"a" * 16_485), Result.OVERLOADED),
        (chunks(b"a", breaks=True), Result.ABORTED),
        (chunks(b"a", hangs=True), Result.ABORTED),
    ],
)
async def test_a_body_is_its_bytes_or_the_reason_why_it_is_refused(
    body: AsyncGenerator[bytes], result: bytes | Result
) -> None:
    found = await read_body(BodyReader(max_size=20_000, max_total=100, timeout=0.02).open(), body, None)
    assert (found if isinstance(found, bytes) else found.result) == result


async def test_a_middleware_that_has_read_the_body_is_named(caplog: pytest.LogCaptureFixture) -> None:
    assert await read_body(BodyReader(max_size=10, max_total=10, timeout=1).open(), chunks(), 5) == b""
    assert "a middleware read the body" in caplog.text
