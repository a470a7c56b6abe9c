"""Signatures of webhooks: the Standard Webhooks scheme, version ``v1``, on the standard library's hmac.

The signed content is ``id.timestamp.body``, with the raw bytes of the body; the key is the base64-decoded part of the
secret after ``whsec_`` (the vendor's page on webhook security, and the Standard Webhooks specification). The headers
may come in whatever form a web framework has them.
"""

from __future__ import annotations

import time
from binascii import b2a_base64
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from hmac import HMAC, compare_digest
from hmac import digest as hmac_digest
from typing import cast

from multidict import CIMultiDictProxy

from .._redaction.credentials import Unpicklable
from ..errors import BasiqError, ConfigurationError, SignatureVerificationError
from .seal import Seal
from .secrets import SecretLike, UndecodableSecretError, read_keys

Headers = Mapping[str, str] | Iterable[tuple[str, str]] | Iterable[tuple[bytes, bytes]]
"""A mapping with names in any case, a multidict, or pairs of str or of bytes (as in ASGI)."""

Pair = tuple[str, str] | tuple[bytes, bytes]

ID = "webhook-id"
TIMESTAMP = "webhook-timestamp"
SIGNATURE = "webhook-signature"
MISTAKEN = "x-basiq-signature"

_NAMES: Mapping[str | bytes, str] = {
    form: name for name in (ID, TIMESTAMP, SIGNATURE, MISTAKEN) for form in (name, name.encode())
}

SignatureHeaders = tuple[str, str, str]
"""The id, the timestamp and the signatures, as they came."""

TOLERANCE = timedelta(minutes=5)

CheckedHeaders = tuple[str, str, str, int]
"""The id, the timestamp and the signatures of a fresh delivery, as they came, and the timestamp as a number."""

_NO_MARKS: frozenset[bytes] = frozenset()
_LONGEST_SIGNATURE = 4096
"""Room for some eighty signatures; each entry is compared with each secret."""


def sign(secret: SecretLike, message_id: str, timestamp: datetime, body: bytes) -> dict[str, str]:
    """The three headers that Basiq would send with ``body``.

    ``timestamp`` is aware; fractions of a second are cut off. With several secrets there is one signature for
    each. Raises ``ConfigurationError`` for a secret, id, timestamp or body that no delivery can have.
    """
    keys = SigningKeys.read(secret)
    del secret  # this frame may be in a traceback
    if isinstance(keys, ConfigurationError):
        del body
        raise keys
    try:
        return keys.headers(message_id, timestamp, body)
    except ConfigurationError:
        del body
        raise


def verify(
    secret: SecretLike,
    headers: Headers,
    body: bytes,
    *,
    tolerance: timedelta = TOLERANCE,
    now: datetime | None = None,
) -> None:
    """Return if ``body`` is a genuine and fresh delivery, raise ``SignatureVerificationError`` if not.

    ``body`` is the raw bytes as they were received. A timestamp more than ``tolerance`` away from ``now``
    (aware; the clock's time by default), past or future, is refused. The error's ``reason`` is one of
    ``missing-header``, ``duplicate-header``, ``bad-headers``, ``bad-id``, ``bad-timestamp``, ``too-old``,
    ``too-new``, ``bad-signature`` (a header of more than 4096 characters), ``no-signature`` (none of version ``v1``),
    ``no-match``, and ``bad-secret`` for a secret that cannot be decoded or can be guessed.

    Raises ``ConfigurationError`` where the fault is the caller's: an empty secret or none, a naive ``now``, a
    negative ``tolerance``, a ``body`` that is not bytes.
    """
    keys = read_keys(secret)
    del secret  # this frame may be in a traceback
    try:
        if isinstance(keys, ConfigurationError):
            if isinstance(keys, UndecodableSecretError):
                raise SignatureVerificationError(str(keys), reason="bad-secret")
            raise keys
        if type(body) is not bytes:
            body = check_body(body)
        seconds = 300.0 if tolerance is TOLERANCE else tolerance_seconds(tolerance)
        epoch = time.time() if now is None else _epoch(now, "now")
        message_id, timestamp, signature, _ = check_headers(headers, seconds, epoch)
        mismatch = _compare(keys, f"{message_id}.{timestamp}.".encode() + body, signature)
        if mismatch is not None:
            raise mismatch
    except BasiqError:
        del body  # as above
        keys, mismatch = (), None
        raise


class SigningKeys(Unpicklable):
    """The keys of one or several secrets, ready for use; they do not show themselves.

    ``for_many`` signatures it pays to let hmac begin with each key once; that costs as much as one signature.
    """

    __slots__ = ("_keys", "_marks")

    def __init__(self, keys: tuple[bytes, ...], *, for_many: bool = False) -> None:
        self._keys: tuple[bytes | HMAC, ...] = keys
        self._marks = _NO_MARKS
        if for_many:
            self._keys = tuple([HMAC(key, digestmod="sha256") for key in keys])
            self._marks = frozenset([hmac_digest(key, b"", "sha256") for key in keys])

    @classmethod
    def read(cls, secret: SecretLike, *, for_many: bool = False) -> SigningKeys | ConfigurationError:
        """Read secrets into keys. Returns the error, as ``read_keys``: the caller has the secret among its locals."""
        keys = read_keys(secret)
        return keys if isinstance(keys, ConfigurationError) else cls(keys, for_many=for_many)

    def has_key_of(self, other: SigningKeys) -> bool:
        """Whether both have a key in common; for keys that were made ``for_many`` signatures."""
        return not self._marks.isdisjoint(other._marks)

    @property
    def digests(self) -> tuple[str, ...]:
        """A name of each key, from which nobody learns the key; for keys that were made ``for_many`` signatures."""
        return tuple(sorted(sha256(b"basiq inbox\0" + mark).hexdigest()[:40] for mark in self._marks))

    def __repr__(self) -> str:
        return f"<SigningKeys: {len(self._keys)}>"

    def make_seal(self, purpose: str) -> Seal:
        """A seal on what this receiver keeps where others may write: no signature of a delivery can be one."""
        return Seal([_mac(key, purpose.encode()) for key in self._keys], purpose)

    def headers(self, message_id: str, timestamp: datetime, body: bytes) -> dict[str, str]:
        """The three headers of a delivery; see ``sign``."""
        try:
            if not isinstance(message_id, str) or not _is_id(message_id):
                raise ConfigurationError('message_id must be printable ASCII, without spaces and without a "."')
            seconds = _epoch(timestamp, "timestamp")
            if seconds < 0:
                raise ConfigurationError("timestamp is before 1970; what is signed is seconds since then")
            if type(body) is not bytes:
                body = check_body(body)
        except ConfigurationError:
            del body  # this frame may be in a traceback
            raise
        text = str(int(seconds))
        return {ID: message_id, TIMESTAMP: text, SIGNATURE: self.sign(message_id, text, body)}

    def sign(self, message_id: str, timestamp: str, body: bytes) -> str:
        """The signature header: an entry for each key."""
        content = f"{message_id}.{timestamp}.".encode() + body
        digests = [_mac(key, content) for key in self._keys]
        return " ".join(["v1," + b2a_base64(digest, newline=False).decode() for digest in digests])

    def verify(self, checked: CheckedHeaders, body: bytes) -> None:
        """Raise ``SignatureVerificationError`` where no signature is that of ``body``; see ``check_headers``."""
        message_id, timestamp, signature, _ = checked
        mismatch = _compare(self._keys, f"{message_id}.{timestamp}.".encode() + body, signature)
        if mismatch is not None:
            del body  # this frame may be in a traceback
            raise mismatch


def _compare(keys: tuple[bytes | HMAC, ...], content: bytes, signature: str) -> SignatureVerificationError | None:
    """Return the error if no signature is that of a key.

    It does not raise: the keys are in this frame, which a traceback must not hold.
    """
    # Characters outside ASCII become "?", which no base64 text holds: such an entry just never matches.
    entries = [signature.encode("ascii", "replace")]
    if " " in signature:
        entries = entries[0].split(b" ")
    # Texts are compared, not what they decode to, so that only canonical base64 matches; and all of them are, so that
    # the time does not show which secret it was.
    matched = False
    for key in keys:
        # A single signature is worth the call that is spared here; see the mark in benchmarks/signature.py.
        mac = hmac_digest(key, content, "sha256") if type(key) is bytes else _mac(key, content)
        expected = b"v1," + b2a_base64(mac, newline=False)
        for entry in entries:
            matched |= compare_digest(expected, entry)
    return None if matched else _explain_mismatch(entries)


def check_headers(headers: Headers, tolerance: float, now: float) -> CheckedHeaders:
    """Make all checks that need no body; ``tolerance`` and ``now`` are in seconds.

    Raises ``SignatureVerificationError``, as ``verify`` does.
    """
    message_id, timestamp, signature = signature_headers(headers)
    # Anything else could end a header early, or split the signed content at another place.
    if (
        not message_id
        or not message_id.isascii()
        or not message_id.isprintable()
        or "." in message_id
        or " " in message_id
    ):
        raise SignatureVerificationError(
            f'{ID} is empty, or has a "." or a character that is not printable ASCII', reason="bad-id"
        )
    # int() and float() would accept signs, spaces, exponents and the digits of other scripts as well.
    if not (timestamp.isdigit() and timestamp.isascii() and len(timestamp) < 16):
        raise SignatureVerificationError(
            f"{TIMESTAMP} is not a number of seconds since 1970 in ASCII digits", reason="bad-timestamp"
        )
    sent = int(timestamp)
    if not -tolerance <= now - sent <= tolerance:
        raise _describe_age(now - sent, tolerance)
    if len(signature) > _LONGEST_SIGNATURE:
        raise SignatureVerificationError(
            f"{SIGNATURE} has {len(signature)} characters; {_LONGEST_SIGNATURE} are allowed", reason="bad-signature"
        )
    return message_id, timestamp, signature, sent


def signature_headers(headers: Headers) -> SignatureHeaders:
    """Find the three headers of the Standard Webhooks scheme.

    A header that comes twice with the same value counts once. Raises ``SignatureVerificationError`` with the
    reason ``missing-header``, ``duplicate-header`` (different values) or ``bad-headers``.
    """
    if type(headers) is CIMultiDictProxy:  # of aiohttp, as nearly always: the same for a fraction
        try:
            (message_id,), (timestamp,), (signature,) = (
                headers.getall(ID),
                headers.getall(TIMESTAMP),
                headers.getall(SIGNATURE),
            )
        except (KeyError, ValueError):
            pass  # missing, or there more than once
        else:
            return message_id, timestamp, signature
    elif type(headers) is dict:
        try:
            message_id, timestamp, signature = headers[ID], headers[TIMESTAMP], headers[SIGNATURE]
            # No two names may be the same but for their case.
            alone = len(headers) == 3 or len({*map(str.lower, headers)}) == len(headers)
        except (KeyError, TypeError):
            pass  # a name in capitals, one of bytes, or a header that is missing
        else:
            if alone and type(message_id) is type(timestamp) is type(signature) is str:
                return message_id, timestamp, signature
    found: dict[str, str] = {}
    try:
        # Starlette, werkzeug and multidict give each value of a repeated header from items().
        items: Callable[[], Iterable[Pair]] | None = getattr(headers, "items", None)
        pairs = cast("Iterable[Pair]", headers) if items is None else items()
        for name, value in pairs:
            key = _NAMES.get(name.lower())
            if key is not None:
                text = value if isinstance(value, str) else str(value, "latin-1")
                if found.setdefault(key, text) != text:
                    raise SignatureVerificationError(
                        "a header of the delivery came twice, with different values",
                        reason="duplicate-header",
                    )
    except (TypeError, ValueError, AttributeError) as exc:
        raise SignatureVerificationError(
            "the headers are neither a mapping of text to text nor pairs of str or bytes",
            reason="bad-headers",
        ) from exc
    try:
        return found[ID], found[TIMESTAMP], found[SIGNATURE]
    except KeyError:
        raise _name_missing(found) from None


def _name_missing(found: Mapping[str, str]) -> SignatureVerificationError:
    absent = [name for name in (ID, TIMESTAMP, SIGNATURE) if name not in found]
    text = f"the delivery has no header {', '.join(absent)}"
    if MISTAKEN in found:
        text += (
            f"; it has {MISTAKEN}, which Basiq does not send: its webhooks are signed by {ID}, {TIMESTAMP} "
            f"and {SIGNATURE}"
        )
    return SignatureVerificationError(text, reason="missing-header")


def _is_id(text: str) -> bool:
    # As in check_headers, where each call counts.
    return text.isascii() and text.isprintable() and "." not in text and " " not in text and text != ""


def _mac(key: bytes | HMAC, content: bytes) -> bytes:
    if isinstance(key, bytes):
        return hmac_digest(key, content, "sha256")
    begun = key.copy()
    begun.update(content)
    return begun.digest()


def _describe_age(age: float, tolerance: float) -> SignatureVerificationError:
    allowed = f"more than the {tolerance:.0f} s allowed"
    if age > 0:
        return SignatureVerificationError(f"the delivery was signed {age:.0f} s ago, {allowed}", reason="too-old")
    return SignatureVerificationError(
        f"the delivery was signed {-age:.0f} s in the future, {allowed}: is this machine's clock right?",
        reason="too-new",
    )


def _explain_mismatch(entries: list[bytes]) -> SignatureVerificationError:
    if not any(entry.startswith(b"v1,") for entry in entries):
        return SignatureVerificationError(f"{SIGNATURE} holds no signature of version v1", reason="no-signature")
    return SignatureVerificationError(
        "no signature matches: the body was changed (it must be the raw bytes), or the secret is another one",
        reason="no-match",
    )


def tolerance_seconds(tolerance: timedelta) -> float:
    """Return the tolerance in seconds. Raises ``ConfigurationError`` unless it is a timedelta of at least 0."""
    if not isinstance(tolerance, timedelta) or tolerance < timedelta(0):
        raise ConfigurationError("tolerance must be a timedelta that is not negative")
    return tolerance.total_seconds()


def _epoch(moment: datetime, argument: str) -> float:
    # A naive datetime can be UTC or local time; which one, only its author knows.
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ConfigurationError(f"{argument} must be a datetime with a time zone, such as datetime.now(UTC)")
    return moment.timestamp()


def check_body(body: object) -> bytes:
    """Return the body as bytes. Raises ``ConfigurationError`` for a body that was decoded already."""
    if isinstance(body, bytes):
        return body
    if isinstance(body, (bytearray, memoryview)):
        return bytes(body)
    kind = type(body).__name__
    del body  # this frame may be in a traceback
    raise ConfigurationError(
        f"body must be the raw bytes as received, not text and not decoded JSON; it is of type {kind}. Pass what "
        "`await request.body()` (Starlette, FastAPI) or `await request.read()` (aiohttp) returns: those are signed"
    )
