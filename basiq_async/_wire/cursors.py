"""A paginator's place in its list, as a short opaque text from which another process can resume. No I/O.

A cursor often passes through a browser or a queue. It is sealed with a key that is derived from the API key, so that
only the owner of the API key can make one. Anyone can decode it; it holds no secret.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from hashlib import blake2b

import attrs

from .._redaction.credentials import Unpicklable
from ..errors import ConfigurationError

_VERSION = 2
_CHECK, _KEY_NAME, _SEAL = 4, 4, 16
"""Sizes in bytes: of the checksum, which shows damage; of the name of the API key; and of the seal."""
_LIST_NAME = 6
_MAX_LENGTH = 2**18
MAX_ID = 200
ANYWHERE = 2**53
"""The offset of a cursor that names no page: its place is after the item ``after``, on any page of the list."""

_NOT_A_CURSOR = "cursor must be the text of a paginator's .cursor"
DAMAGED = "cursor is damaged: pass the text of a paginator's .cursor unchanged"


@attrs.frozen
class Cursor:
    """A place in a list: a page, by its URL below the base, and the number of its items before the place.

    ``after`` is the id of the last item before the place (see ``id_in_cursor``). It is used if that item has moved, or
    if the page can no longer be requested.
    """

    page: str
    offset: int = 0
    after: str | None = None


class CursorSeal(Unpicklable):
    """Seals cursors, and opens them, with a key derived from an API key."""

    def __init__(self, api_key: str) -> None:
        self._key = blake2b(api_key.encode(), digest_size=32, person=b"basiq cursor").digest()
        self._key_name = blake2b(self._key, digest_size=_KEY_NAME, person=b"basiq key name").digest()

    def __repr__(self) -> str:
        return "CursorSeal(**********)"

    def seal(self, cursor: Cursor, listing: str) -> str:
        """Return the cursor as text. ``listing`` names its list; the text contains a digest of that name."""
        fields = [_VERSION, _digest(listing.encode(), _LIST_NAME).hex(), cursor.page, cursor.offset, cursor.after]
        body = json.dumps(fields, separators=(",", ":")).encode()
        sealed = self._key_name + self._mac(body) + body
        return base64.urlsafe_b64encode(_digest(sealed, _CHECK) + sealed).decode().rstrip("=")

    def open(self, text: str, listing: str) -> Cursor:
        """Return the cursor in a text. Raises ``ConfigurationError``, which says what is wrong."""
        if not isinstance(text, str) or len(text) > _MAX_LENGTH:
            raise ConfigurationError(_NOT_A_CURSOR)
        try:
            packed = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raise ConfigurationError(DAMAGED) from None
        check, sealed = packed[:_CHECK], packed[_CHECK:]
        key_name, mac, body = sealed[:_KEY_NAME], sealed[_KEY_NAME : _KEY_NAME + _SEAL], sealed[_KEY_NAME + _SEAL :]
        if check != _digest(sealed, _CHECK):
            raise ConfigurationError(DAMAGED)
        if key_name != self._key_name:
            raise ConfigurationError(
                "cursor was made with another API key or by another release, and cannot be used: start without cursor"
            )
        if not hmac.compare_digest(mac, self._mac(body)):
            raise ConfigurationError(DAMAGED)
        return _read(body, listing)

    def _mac(self, body: bytes) -> bytes:
        return blake2b(self._key_name + body, digest_size=_SEAL, key=self._key).digest()


def _read(body: bytes, listing: str) -> Cursor:
    try:
        version, owner, page, offset, after = json.loads(body)
        cursor = Cursor(_text(page), _count(offset), None if after is None else _text(after))
    except (ValueError, TypeError, RecursionError):
        raise ConfigurationError(DAMAGED) from None
    if version != _VERSION:
        raise ConfigurationError(f"cursor is of version {version}, which this release does not know")
    if owner != _digest(listing.encode(), _LIST_NAME).hex():
        raise ConfigurationError("cursor belongs to another list: another webhook, filter or kind of object")
    return cursor


def id_in_cursor(item_id: str) -> str:
    """Return an id as a cursor holds it: unchanged, or a digest of it if it is longer than ``MAX_ID`` characters."""
    if len(item_id) <= MAX_ID:
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


def _digest(data: bytes, size: int) -> bytes:
    return blake2b(data, digest_size=size).digest()
