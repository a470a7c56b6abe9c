"""Where a paginator stands, as a short opaque text that another process can go on from. Pure."""

from __future__ import annotations

import base64
import binascii
import json

import attrs

from .errors import ConfigurationError

_VERSION = 1
_DIGEST = 6
_MAX_LENGTH = 2**18
_MAX_ID = 200


@attrs.frozen
class Cursor:
    """A page, by its url below the base, and how many of its items are behind us.

    ``after`` is the id of the last of those (see ``id_in_cursor``): should items have been added before it, it is
    looked for.
    """

    page: str
    offset: int = 0
    after: str | None = None

    def encode(self, listing: str) -> str:
        """As text. ``listing`` names the list that the cursor belongs to; it is kept as a digest alone."""
        body = json.dumps(
            [_VERSION, _digest(listing.encode()).hex(), self.page, self.offset, self.after],
            separators=(",", ":"),
        ).encode()
        return base64.urlsafe_b64encode(_digest(body) + body).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str, listing: str) -> Cursor:
        """Read a cursor's text. Raises ``ConfigurationError`` for one that is mangled, or another list's."""
        if not isinstance(text, str) or len(text) > _MAX_LENGTH:
            raise ConfigurationError("cursor must be the text that a paginator's .cursor gave")
        try:
            packed = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            packed = b""
        digest, body = packed[:_DIGEST], packed[_DIGEST:]
        try:
            if digest != _digest(body):
                raise ValueError
            version, owner, page, offset, after = json.loads(body)
            cursor = cls(_text(page), _count(offset), None if after is None else _text(after))
        except (ValueError, TypeError, RecursionError):
            raise ConfigurationError("cursor is damaged: pass the text of a paginator's .cursor as it was") from None
        if version != _VERSION:
            raise ConfigurationError(f"cursor is of version {version}, which this release does not know")
        if owner != _digest(listing.encode()).hex():
            raise ConfigurationError("cursor belongs to another list: another webhook, filter or kind of object")
        return cursor


def id_in_cursor(item_id: str) -> str:
    """An id as a cursor holds it: the digest of one that would make the cursor longer than it can be."""
    if len(item_id) <= _MAX_ID:
        return item_id
    return "#" + _digest(item_id.encode(errors="surrogatepass"), 16).hex()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError
    return value


def _digest(data: bytes, size: int = _DIGEST) -> bytes:
    from hashlib import blake2b  # loads OpenSSL, which not every program needs

    return blake2b(data, digest_size=size).digest()
