"""Sealed texts: JSON that passes through other programs, which can read it and cannot change it. No I/O.

The key is derived from a secret and a purpose, so a text for one purpose is not valid for another.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from .._redaction.credentials import Unpicklable
from ..errors import ConfigurationError

_KEY_NAME, _MAC = 4, 16
"""Sizes in bytes: of the key's name, and of the MAC."""
_LONGEST = 2**18


class Seal(Unpicklable):
    """Seals texts, and opens them. ``what`` is what errors call one; ``purpose`` has at most 16 letters."""

    def __init__(self, secret: bytes, purpose: str, what: str) -> None:
        self._key = blake2b(secret, digest_size=32, person=purpose.encode()).digest()
        self._name = blake2b(self._key, digest_size=_KEY_NAME, person=b"basiq key name").digest()
        self._what = what

    def __repr__(self) -> str:
        return "Seal(**********)"

    def seal(self, *fields: Any) -> str:
        """Return values of JSON as a text, in ASCII."""
        body = json.dumps(fields, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._name + self._mac(body) + body).decode().rstrip("=")

    def open(self, text: object) -> Sequence[Any]:
        """Return the values of a text. Raises ``ConfigurationError`` for one that this seal has not made."""
        if not isinstance(text, str) or not 0 < len(text) <= _LONGEST:
            raise ConfigurationError(f"{self._what} must be a text that was made for it")
        try:
            packed = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raise ConfigurationError(f"{self._what} is damaged: it cannot be decoded") from None
        name, mac, body = packed[:_KEY_NAME], packed[_KEY_NAME : _KEY_NAME + _MAC], packed[_KEY_NAME + _MAC :]
        if name != self._name:
            raise ConfigurationError(f"{self._what} was sealed with another API key")
        if not hmac.compare_digest(mac, self._mac(body)):
            raise ConfigurationError(f"{self._what} was changed after it was sealed")
        found: list[Any] = json.loads(body)
        return found

    def _mac(self, body: bytes) -> bytes:
        return blake2b(body, digest_size=_MAC, key=self._key).digest()
