"""Cursors: what is opened, and every way in which a text is none."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from basiq_async import ConfigurationError
from basiq_async._wire.cursors import DAMAGED, Cursor, CursorSeal, _digest, id_in_cursor

KEY = "an-api-key-of-the-tests"
LIST = "messages of w1"
SEAL = CursorSeal(KEY)
PLACE = Cursor("/messages?page=2", 7, "m-1")
STORED = "sMqnnW5rEc5j8H_PoHfn_98LklfDhJmwWzIsIjg5ZGJhMmVmNjU5NiIsIi9tZXNzYWdlcz9wYWdlPTIiLDcsIm0tMSJd"


def made(fields: Any, *, key: str = KEY) -> str:
    """A cursor with these fields, sealed as an owner of the key can."""
    seal = CursorSeal(key)
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    sealed = seal._key_name + seal._mac(body) + body
    return base64.urlsafe_b64encode(_digest(sealed, 4) + sealed).decode().rstrip("=")


def fault_of(text: Any, listing: str = LIST) -> str:
    """What is said of a text that is not usable."""
    with pytest.raises(ConfigurationError) as caught:
        SEAL.open(text, listing)
    return str(caught.value)


@pytest.mark.parametrize("place", [PLACE, Cursor("/a"), Cursor("/é", 0, None), Cursor("", 2**53, "x" * 200)], ids=repr)
def test_a_cursor_is_opened_as_it_was_sealed(place: Cursor) -> None:
    text = SEAL.seal(place, LIST)
    assert SEAL.open(text, LIST) == CursorSeal(KEY).open(text, LIST) == place
    assert text.isascii()
    assert "=" not in text


def test_a_cursor_of_another_list_says_so() -> None:
    assert "belongs to another list" in fault_of(SEAL.seal(PLACE, LIST), "messages of w2")


def test_a_cursor_of_another_key_says_so() -> None:
    assert "with another API key" in fault_of(CursorSeal("another-key").seal(PLACE, LIST))


def test_every_byte_counts() -> None:
    text = SEAL.seal(PLACE, LIST)
    packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    for index in range(len(packed)):
        for right_sum in (False, True):
            changed = bytearray(packed)
            changed[index] ^= 1
            if right_sum:  # by someone who can count, and has no key
                changed[:4] = _digest(bytes(changed[4:]), 4)
            sealed = base64.urlsafe_b64encode(bytes(changed)).decode().rstrip("=")
            if right_sum and index < 4:
                assert SEAL.open(sealed, LIST) == PLACE
            else:
                assert fault_of(sealed).startswith("cursor "), (index, right_sum)


@pytest.mark.parametrize("odd", ["!", " ", "\n", "*", "é"])
def test_a_character_that_no_cursor_has_is_not_read_over(odd: str) -> None:
    text = SEAL.seal(PLACE, LIST)
    assert fault_of(text[:10] + odd + text[10:]).startswith("cursor ")


@pytest.mark.parametrize("text", [None, 7, b"abc", "x" * (2**18 + 1)], ids=lambda text: repr(text)[:10])
def test_what_cannot_be_a_cursor_is_told_what_one_is(text: Any) -> None:
    assert fault_of(text) == "cursor must be the text of a paginator's .cursor"


@pytest.mark.parametrize("text", ["", "é", "a", "****", "AAAA", "x" * 2**18], ids=lambda text: text[:4])
def test_a_damaged_text_is_told_so(text: str) -> None:
    assert fault_of(text) == DAMAGED


OWNER = _digest(LIST.encode(), 6).hex()


@pytest.mark.parametrize(
    "fields",
    [
        b"", b"{", b"[]", b"[" * 100_000, [2, OWNER, "/a", 0], [2, OWNER, "/a", 0, None, 1], [2, OWNER, 7, 0, None],
        [2, OWNER, "/a", -1, None], [2, OWNER, "/a", True, None], [2, OWNER, "/a", 1.5, None], [2, OWNER, "/a", 0, 7],
    ],
    ids=lambda fields: repr(fields)[:24],
)  # fmt: skip
def test_fields_that_no_release_writes_are_damage(fields: Any) -> None:
    assert fault_of(made(fields)) == DAMAGED


def test_the_fields_of_this_release_are_these_and_another_version_is_named() -> None:
    assert SEAL.open(made([2, OWNER, "/a", 0, None]), LIST) == Cursor("/a", 0, None)
    for version in (1, 3):
        said = f"cursor is of version {version}, which this release does not know"
        assert fault_of(made([version, OWNER, "/a", 0, None])) == said


def test_a_cursor_of_an_earlier_process_stays_usable() -> None:
    assert SEAL.seal(PLACE, LIST) == STORED


def test_a_long_id_is_held_as_a_digest() -> None:
    assert id_in_cursor("x" * 200) == "x" * 200
    assert id_in_cursor("x" * 201) == "#" + _digest(b"x" * 201, 16).hex()
    assert len(id_in_cursor("\ud800" * 300)) == 33


def test_no_key_shows() -> None:
    assert KEY not in repr(SEAL)
