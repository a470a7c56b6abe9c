"""Seals on data in a store that others may write to: a MAC with a key that the store does not hold. Pure.

Anyone who can write to a Redis could otherwise plant data there that a worker signs with the webhook's secret, or hands
to a handler. The key is derived from a secret of ours, and for one purpose: a seal of another one does not fit.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable
from hashlib import blake2b

_KEY_NAME, _MAC = 4, 16
"""Sizes in bytes: which key it was, and the seal."""


class Seal:
    """Seals with the first of ``secrets``, and opens what any of them sealed. ``purpose`` has at most 16 letters."""

    def __init__(self, secrets: Iterable[bytes], purpose: str) -> None:
        self._keys: dict[bytes, bytes] = {}
        for secret in secrets:
            key = blake2b(secret, digest_size=32, person=purpose.encode()).digest()
            self._keys.setdefault(blake2b(key, digest_size=_KEY_NAME, person=b"basiq key name").digest(), key)

    def __repr__(self) -> str:
        return "Seal(**********)"

    def seal(self, *parts: bytes) -> str:
        """A seal on these parts, in their order."""
        key_name, key = next(iter(self._keys.items()))
        return base64.urlsafe_b64encode(key_name + _mac(key, parts)).decode().rstrip("=")

    def find_fault(self, seal: str, *parts: bytes) -> str | None:
        """Say in words what is wrong with the seal on these parts; None where it is sound."""
        if not seal:
            return "is not sealed"
        try:
            packed = base64.b64decode(seal.encode("ascii") + b"=" * (-len(seal) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            return "has no seal of ours"
        key = self._keys.get(packed[:_KEY_NAME])
        if key is None:
            return "was sealed with another secret"
        if not hmac.compare_digest(packed[_KEY_NAME:], _mac(key, parts)):
            return "was changed after it was sealed"
        return None


def _mac(key: bytes, parts: Iterable[bytes]) -> bytes:
    mac = blake2b(digest_size=_MAC, key=key)
    for part in parts:  # each after its length, so that no two lists of parts are alike
        mac.update(len(part).to_bytes(8, "big"))
        mac.update(part)
    return mac.digest()
