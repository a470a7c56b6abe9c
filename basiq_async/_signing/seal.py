"""Seals: MACs on data that passes through other programs, such as a queue, with a key that these do not have. No I/O.

The key is derived from a secret and a purpose, so a seal for one purpose is not valid for another.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable
from hashlib import blake2b

from .._redaction.credentials import Unpicklable

_KEY_NAME, _MAC = 4, 16
"""Sizes in bytes: of the key's name, and of the MAC."""


class Seal(Unpicklable):
    """Makes seals with the first of ``secrets``, and checks seals of any. ``purpose`` has at most 16 letters."""

    def __init__(self, secrets: Iterable[bytes], purpose: str) -> None:
        self._keys: dict[bytes, bytes] = {}
        for secret in secrets:
            key = blake2b(secret, digest_size=32, person=purpose.encode()).digest()
            self._keys.setdefault(blake2b(key, digest_size=_KEY_NAME, person=b"basiq key name").digest(), key)

    def __repr__(self) -> str:
        return "Seal(**********)"

    def seal(self, *parts: bytes) -> str:
        """Return a seal on these parts, in their order; an empty one, which is never valid, if there is no key."""
        if not self._keys:
            return ""
        key_name, key = next(iter(self._keys.items()))
        return base64.urlsafe_b64encode(key_name + _mac(key, parts)).decode().rstrip("=")

    def find_fault(self, seal: str, *parts: bytes) -> str | None:
        """Return what is wrong with the seal on these parts, as text; None if it is valid."""
        if not seal:
            return "is not sealed"
        try:
            packed = base64.b64decode(seal.encode("ascii") + b"=" * (-len(seal) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            return "has a seal that cannot be decoded"
        key = self._keys.get(packed[:_KEY_NAME])
        if key is None:
            return "was sealed with another secret"
        if not hmac.compare_digest(packed[_KEY_NAME:], _mac(key, parts)):
            return "was changed after it was sealed"
        return None


def _mac(key: bytes, parts: Iterable[bytes]) -> bytes:
    mac = blake2b(digest_size=_MAC, key=key)
    for part in parts:  # each part after its length, so that two different lists of parts never give the same bytes
        mac.update(len(part).to_bytes(8, "big"))
        mac.update(part)
    return mac.digest()
