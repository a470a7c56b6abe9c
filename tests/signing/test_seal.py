"""Seals: what is valid, and every way in which one is not."""

from __future__ import annotations

import base64

import pytest

from basiq_async._signing.seal import Seal

SECRET, OLD = b"a secret of the tests", b"the secret before it"
PARTS = (b"id", b"body")
CHANGED = "was changed after it was sealed"


def test_a_seal_in_a_store_stays_valid() -> None:
    assert Seal([SECRET], "tests").seal(*PARTS) == "RjC4px3Rmi_Zq5AeIXvEP66QJ6g"


def flipped(seal: str, byte: int) -> str:
    packed = bytearray(base64.urlsafe_b64decode(seal + "=" * (-len(seal) % 4)))
    packed[byte] ^= 1
    return base64.urlsafe_b64encode(bytes(packed)).decode().rstrip("=")


def test_a_seal_is_valid_for_its_parts_alone() -> None:
    seal = Seal([SECRET], "tests")
    made = seal.seal(*PARTS)
    assert seal.find_fault(made, *PARTS) is None
    for other in ((b"i", b"dbody"), (b"idbody",), (b"body", b"id"), (*PARTS, b""), (b"id",), (b"id", b"bodz"), ()):
        assert seal.find_fault(made, *other) == CHANGED, other


def test_every_byte_of_a_seal_counts() -> None:
    seal = Seal([SECRET], "tests")
    made = seal.seal(*PARTS)
    assert len(base64.urlsafe_b64decode(made + "=" * (-len(made) % 4))) == 20
    for byte in range(4):
        assert seal.find_fault(flipped(made, byte), *PARTS) == "was sealed with another secret", byte
    for byte in range(4, 20):
        assert seal.find_fault(flipped(made, byte), *PARTS) == CHANGED, byte


@pytest.mark.parametrize("kept", range(6, 26))
def test_a_seal_that_is_cut_is_not_valid(kept: int) -> None:
    seal = Seal([SECRET], "tests")
    assert seal.find_fault(seal.seal(*PARTS)[:kept], *PARTS) in (CHANGED, "has a seal that cannot be decoded")


def test_the_first_secret_seals_and_each_one_checks() -> None:
    both, old, new = Seal([SECRET, OLD], "tests"), Seal([OLD], "tests"), Seal([SECRET], "tests")
    assert both.find_fault(old.seal(*PARTS), *PARTS) is None
    assert both.find_fault(new.seal(*PARTS), *PARTS) is None
    assert new.find_fault(both.seal(*PARTS), *PARTS) is None
    assert old.find_fault(both.seal(*PARTS), *PARTS) == "was sealed with another secret"


def test_a_seal_is_for_one_purpose() -> None:
    made = Seal([SECRET], "tests").seal(*PARTS)
    assert Seal([SECRET], "others").find_fault(made, *PARTS) == "was sealed with another secret"


@pytest.mark.parametrize(
    ("seal", "fault"),
    [
        ("", "is not sealed"),
        ("*" * 27, "has a seal that cannot be decoded"),
        ("\u00e9", "has a seal that cannot be decoded"),
        ("A" * 25, "has a seal that cannot be decoded"),
        ("A" * 27, "was sealed with another secret"),
    ],
)
def test_what_is_not_a_seal_says_so(seal: str, fault: str) -> None:
    assert Seal([SECRET], "tests").find_fault(seal, *PARTS) == fault


def test_a_seal_shows_no_secret() -> None:
    assert SECRET.decode() not in repr(Seal([SECRET], "tests"))
