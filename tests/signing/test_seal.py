"""Sealed texts: what is opened, and every way in which a text is refused."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from basiq_async import ConfigurationError
from basiq_async._signing.seal import Seal

SECRET = b"a secret of the tests"
FIELDS: list[Any] = ["refill", ["é\ud800", None, 1.5, {"a": True}]]
OTHER_KEY, CHANGED = "a page was sealed with another API key", "a page was changed after it was sealed"


def seal(secret: bytes = SECRET, purpose: str = "tests") -> Seal:
    return Seal(secret, purpose, "a page")


def refusal(text: object, of: Seal | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        (of or seal()).open(text)
    return str(caught.value)


def flipped(text: str, byte: int) -> str:
    packed = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    packed[byte] ^= 1
    return base64.urlsafe_b64encode(bytes(packed)).decode().rstrip("=")


def test_what_was_sealed_is_opened_by_another_process_too() -> None:
    text = seal().seal(*FIELDS)
    assert text.isascii()
    assert seal().open(text) == FIELDS
    assert seal().open("RjC4pxW5hosTRfXaLapgPnAa-vNbMV0") == [1]


def test_every_byte_counts() -> None:
    text = seal().seal(*FIELDS)
    size = len(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    for byte in range(size):
        assert refusal(flipped(text, byte)) == (OTHER_KEY if byte < 4 else CHANGED), byte


def test_a_text_that_is_cut_is_refused() -> None:
    text = seal().seal(*FIELDS)
    for kept in range(1, len(text)):
        assert refusal(text[:kept]).startswith("a page was ") or "cannot be decoded" in refusal(text[:kept])


def test_a_seal_is_of_one_secret_and_for_one_purpose() -> None:
    assert refusal(seal().seal(1), seal(b"another secret")) == OTHER_KEY
    assert refusal(seal().seal(1), seal(purpose="others")) == OTHER_KEY


@pytest.mark.parametrize("text", ["", None, b"AAAA", 7, "A" * (2**18 + 1)])
def test_what_is_no_text_that_was_made_is_refused(text: object) -> None:
    assert refusal(text) == "a page must be a text that was made for it"


@pytest.mark.parametrize("text", ["*" * 27, "é", "A" * 25])
def test_what_cannot_be_decoded_is_refused(text: str) -> None:
    assert refusal(text) == "a page is damaged: it cannot be decoded"


def test_a_seal_shows_no_secret() -> None:
    assert SECRET.decode() not in repr(seal())
