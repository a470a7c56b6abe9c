"""Long texts are left out of a body as it arrives, however it is cut: the rest stays as it was."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basiq_async._wire.abridging import LEFT_OUT, LONGEST_TEXT, Abridger
from basiq_async._wire.broken_items import BrokenItem, mend_list


def abridge(chunks: Iterable[bytes]) -> bytes:
    abridger = Abridger()
    return b"".join(map(abridger.feed, chunks))


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


LONG = 'a\\"\u2028\n' * LONGEST_TEXT
TEXTS = st.sampled_from(
    ["", "response", "id", 'a"b', "\\", "\\\\", "\n", "é", ":", LONG, LONG + "\\", "x" * LONGEST_TEXT]
)
VALUES = st.recursive(
    TEXTS | st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20
)


def expected(value: Any, name: str = "") -> Any:
    """What is left of a value by the plain way: all of it is in memory."""
    if isinstance(value, dict):
        return {expected(key): expected(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [expected(inner) for inner in value]
    is_long = isinstance(value, str) and len(json.dumps(value, ensure_ascii=False).encode()) - 2 > LONGEST_TEXT
    return value if not is_long else None if name == "response" else LEFT_OUT


@given(VALUES, st.sampled_from([1, 2, 3, 7, 10_000, 10**9]), st.sampled_from([None, 2]))
def test_a_body_keeps_all_but_its_long_texts_however_it_is_cut(value: Any, size: int, indent: int | None) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=False).encode()
    found = abridge(cut(body, max(size, len(body) // 5_000)))
    assert json.loads(found, strict=False) == expected(value)


def test_what_is_short_stays_byte_for_byte_also_if_it_is_no_json() -> None:
    for body in (b"", b'{"a" : "b\\u00e9"}\r\n', b"<html>it's down</html>", b'\xff"\xfe"', b"12"):
        assert abridge(cut(body, 2)) == body


def test_an_item_that_lost_another_text_than_a_response_is_broken_and_says_why() -> None:
    items = [{"id": "a", "attempts": [{"response": LONG, "status": "Failed"}]}, {"id": "b", "payload": {"x": LONG}}]
    body = json.dumps({"data": items, "links": {"next": "n"}}).encode()
    found = mend_list(abridge([body]))
    assert found["data"][0] == {"id": "a", "attempts": [{"response": None, "status": "Failed"}]}
    broken = found["data"][1]
    assert isinstance(broken, BrokenItem)
    assert (broken.id, "a text of over 8,192 bytes was left out" in broken.fault) == ("b", True)
    assert found["links"] == {"next": "n"}


@pytest.mark.parametrize("escaped", [b"x", b'\\"'])
def test_a_text_of_any_length_needs_little_memory(escaped: bytes) -> None:
    abridger, chunk = Abridger(), escaped * 32_768
    abridger.feed(b'{"response": "')
    tracemalloc.start()
    try:
        assert not any(abridger.feed(chunk) for _ in range(300))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert abridger.feed(b'"}') == b"null}"
    assert peak < 2**20
