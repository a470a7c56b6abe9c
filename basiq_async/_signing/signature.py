"""Sign and verify webhooks by the Standard Webhooks scheme, version ``v1``, with the standard library's hmac.

The signed content is ``id.timestamp.body``, with the raw bytes of the body. The key is the base64-decoded part of the
secret after ``whsec_`` (the vendor's page on webhook security, and the Standard Webhooks specification). Headers are
accepted in the forms of the usual web frameworks.
"""

from __future__ import annotations

import time
from binascii import b2a_base64
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from hmac import HMAC, compare_digest
from hmac import digest as hmac_digest
from typing import cast

from .._arguments import Duration, check_seconds
from .._redaction.credentials import Unpicklable
from .._redaction.tracebacks import hide_arguments, remove_frames
from ..errors import BasiqError, ConfigurationError, SignatureVerificationError
from .secrets import SecretLike, UndecodableSecretError, read_keys

Headers = Mapping[str, str] | Iterable[tuple[str, str]] | Iterable[tuple[bytes, bytes]]
"""A mapping with names in any case, a multidict, or pairs of str or of bytes (as in ASGI)."""

Pair = tuple[str, str] | tuple[bytes, bytes]

ID = "webhook-id"
TIMESTAMP = "webhook-timestamp"
SIGNATURE = "webhook-signature"
MISTAKEN = "x-basiq-signature"
RESULT = "basiq-async-result"
"""The header of a receiver's response to a genuine delivery that has the result: several results have one status."""

_NAMES: Mapping[str | bytes, str] = {
    form: name for name in (ID, TIMESTAMP, SIGNATURE, MISTAKEN) for form in (name, name.encode())
}

SignatureHeaders = tuple[str, str, str]
"""The id, the timestamp and the signatures, as received."""

TOLERANCE = 300.0
"""In seconds."""

CheckedHeaders = tuple[str, str, str, int]
"""The id, the timestamp and the signatures of a fresh delivery, as received, and the timestamp as a number."""

_NO_MARKS: frozenset[bytes] = frozenset()
_LONGEST_SIGNATURE = 4096
"""In characters: enough for about eighty signatures. The limit exists because each is compared with each secret."""


@hide_arguments
def sign(secret: SecretLike, message_id: str, timestamp: datetime, body: bytes) -> dict[str, str]:
    """Return the three headers that Basiq would send with ``body``.

    ``timestamp`` must be aware; fractions of a second are dropped. With several secrets, the headers hold a signature
    for each. Raises ``ConfigurationError`` for an invalid secret, id, timestamp or body.
    """
    return SigningKeys.read(secret).headers(message_id, timestamp, body)


def verify(
    secret: SecretLike,
    *,
    headers: Headers,
    body: bytes,
    tolerance: Duration = TOLERANCE,
    now: datetime | None = None,
) -> None:
    """Raise ``SignatureVerificationError`` unless ``body`` is a genuine and fresh delivery.

    ``body`` is the raw bytes as they were received. A timestamp is refused if it is more than ``tolerance`` seconds
    before or after ``now`` (an aware datetime; the present time by default). The error's ``reason`` is one of
    ``missing-header``, ``duplicate-header``, ``bad-headers``, ``bad-id``, ``bad-timestamp``, ``too-old``,
    ``too-new``, ``bad-signature`` (a header of more than 4096 characters), ``no-signature`` (none of version ``v1``),
    ``no-match``, and ``bad-secret`` for a secret that cannot be decoded or can be guessed.

    Raises ``ConfigurationError`` for a mistake of the caller: a secret that is empty or missing, a naive ``now``, a
    negative ``tolerance``, or a ``body`` that is not bytes.
    """
    try:
        return _verify(secret, headers, body, tolerance, now)
    except BasiqError as exc:
        failure = remove_frames(exc)
    # As ``hide_arguments`` does, whose own call is a tenth of the time of a verification.
    del secret, headers, body
    try:
        raise failure
    finally:
        del failure


def _verify(secret: SecretLike, headers: Headers, body: bytes, tolerance: Duration, now: datetime | None) -> None:
    try:
        keys = read_keys(secret)
    except UndecodableSecretError as exc:
        raise SignatureVerificationError(str(exc), reason="bad-secret") from None
    if type(body) is not bytes:
        body = check_body(body)
    seconds = TOLERANCE if tolerance is TOLERANCE else check_seconds("tolerance", tolerance, from_zero=True)
    epoch = time.time() if now is None else _epoch(now, "now")
    message_id, timestamp, signature, _ = check_headers(headers, seconds, epoch)
    mismatch = _compare(keys, f"{message_id}.{timestamp}.".encode() + body, signature)
    if mismatch is not None:
        raise mismatch


class SigningKeys(Unpicklable):
    """The keys of one or several secrets. ``repr`` does not show them.

    ``for_many``: prepare an HMAC for each key. That costs as much as one signature, so it pays for several signatures.
    """

    __slots__ = ("_keys", "_marks")

    def __init__(self, keys: tuple[bytes, ...] = (), *, for_many: bool = False) -> None:
        self._keys: tuple[bytes | HMAC, ...] = keys
        self._marks = _NO_MARKS
        if for_many:
            self._keys = tuple([HMAC(key, digestmod="sha256") for key in keys])
            self._marks = frozenset([hmac_digest(key, b"", "sha256") for key in keys])

    @classmethod
    @hide_arguments
    def read(cls, secret: SecretLike, *, for_many: bool = False) -> SigningKeys:
        """Read secrets into keys. Raises ``ConfigurationError`` for an invalid one."""
        return cls(read_keys(secret), for_many=for_many)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def has_same_keys(self, other: SigningKeys) -> bool:
        """Return whether both have the same keys. Both must have been made with ``for_many``."""
        return self._marks == other._marks

    def has_key_of(self, other: SigningKeys) -> bool:
        """Return whether both have a key in common. Both must have been made with ``for_many``."""
        return not self._marks.isdisjoint(other._marks)

    def __repr__(self) -> str:
        return f"<SigningKeys: {len(self._keys)}>"

    @hide_arguments
    def headers(self, message_id: str, timestamp: datetime, body: bytes) -> dict[str, str]:
        """Return the three headers of a delivery; see the function ``sign``."""
        if not self._keys:
            raise ConfigurationError("there is no signing secret yet: the log of basiq_async.receiver says why")
        if not isinstance(message_id, str) or not _is_id(message_id):
            raise ConfigurationError('message_id must be printable ASCII, without spaces and without a "."')
        seconds = _epoch(timestamp, "timestamp")
        if seconds < 0:
            raise ConfigurationError("timestamp must not be before 1970: a signature has the seconds since then")
        if type(body) is not bytes:
            body = check_body(body)
        text = str(int(seconds))
        return {ID: message_id, TIMESTAMP: text, SIGNATURE: self.sign(message_id, text, body)}

    def sign(self, message_id: str, timestamp: str, body: bytes) -> str:
        """Return the value of the signature header, with an entry for each key."""
        content = f"{message_id}.{timestamp}.".encode() + body
        digests = [_mac(key, content) for key in self._keys]
        return " ".join(["v1," + b2a_base64(digest, newline=False).decode() for digest in digests])

    def find_mismatch(self, checked: CheckedHeaders, body: bytes) -> SignatureVerificationError | None:
        """Return the error if no signature matches, else None. ``checked`` comes from ``check_headers``."""
        if not self._keys:
            return SignatureVerificationError("this receiver has no signing secret yet", reason="no-match")
        message_id, timestamp, signature, _ = checked
        return _compare(self._keys, f"{message_id}.{timestamp}.".encode() + body, signature)


def _compare(keys: tuple[bytes | HMAC, ...], content: bytes, signature: str) -> SignatureVerificationError | None:
    """Return an error if no signature was made with one of the keys, else None."""
    # Characters outside ASCII become "?", which is not in base64, so that such an entry never matches.
    entries = [signature.encode("ascii", "replace")]
    if " " in signature:
        entries = entries[0].split(b" ")
    # The base64 texts are compared, not their decoded bytes, so that only canonical base64 matches. Every entry is
    # compared with every key, so that the time does not show which secret matched.
    matched = False
    for key in keys:
        # For a single signature, saving this call is measurable: see benchmarks/signature.py.
        mac = hmac_digest(key, content, "sha256") if type(key) is bytes else _mac(key, content)
        expected = b"v1," + b2a_base64(mac, newline=False)
        for entry in entries:
            matched |= compare_digest(expected, entry)
    return None if matched else _explain_mismatch(entries)


def check_headers(headers: Headers, tolerance: float, now: float) -> CheckedHeaders:
    """Make the checks that need no body, and return the headers. ``tolerance`` and ``now`` are in seconds.

    Raises ``SignatureVerificationError``, as ``verify`` does.
    """
    message_id, timestamp, signature = signature_headers(headers)
    # Any other character could end a header early, or let the signed content be split at another place.
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
    # int() and float() would also accept signs, spaces, exponents, and digits of other scripts.
    if not (timestamp.isdigit() and timestamp.isascii() and len(timestamp) < 16):
        raise SignatureVerificationError(
            f"{TIMESTAMP} is not a number of seconds since 1970 in ASCII digits", reason="bad-timestamp"
        )
    sent = int(timestamp)
    if not -tolerance <= now - sent <= tolerance:
        raise _describe_age(now - sent, tolerance)
    if len(signature) > _LONGEST_SIGNATURE:
        raise SignatureVerificationError(
            f"{SIGNATURE} has {len(signature)} characters; at most {_LONGEST_SIGNATURE} are allowed",
            reason="bad-signature",
        )
    return message_id, timestamp, signature, sent


def signature_headers(headers: Headers) -> SignatureHeaders:
    """Return the values of the three headers of the Standard Webhooks scheme.

    A header that is repeated with the same value counts once. Raises ``SignatureVerificationError`` with the reason
    ``missing-header``, ``duplicate-header`` (different values) or ``bad-headers``.
    """
    if type(headers) is dict:  # the usual case where one verifies alone: a fast path with the same result
        try:
            message_id, timestamp, signature = headers[ID], headers[TIMESTAMP], headers[SIGNATURE]
            # No two names may differ only in case.
            alone = len(headers) == 3 or len({*map(str.lower, headers)}) == len(headers)
        except (KeyError, TypeError):
            pass  # a name has capitals or is bytes, or a header is missing
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
                        "a header of the delivery is repeated with different values",
                        reason="duplicate-header",
                    )
    except (TypeError, ValueError, AttributeError) as exc:
        raise SignatureVerificationError(
            "the headers must be a mapping of str to str, or pairs of str or bytes",
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
            f"; it has {MISTAKEN}, which Basiq does not send: Basiq signs its webhooks with {ID}, {TIMESTAMP} "
            f"and {SIGNATURE}"
        )
    return SignatureVerificationError(text, reason="missing-header")


def _is_id(text: str) -> bool:
    # The same checks as in check_headers, which has them inline to be fast.
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
        return SignatureVerificationError(
            f"the delivery was signed {age:.0f} s ago, {allowed}: it was held up, or this machine's clock is wrong",
            reason="too-old",
        )
    return SignatureVerificationError(
        f"the delivery was signed {-age:.0f} s in the future, {allowed}: is this machine's clock right?",
        reason="too-new",
    )


def _explain_mismatch(entries: list[bytes]) -> SignatureVerificationError:
    if not any(entry.startswith(b"v1,") for entry in entries):
        return SignatureVerificationError(f"{SIGNATURE} holds no signature of version v1", reason="no-signature")
    return SignatureVerificationError(
        "no signature matches: the body was changed (pass the raw bytes), or the secret is not this webhook's",
        reason="no-match",
    )


def _epoch(moment: datetime, argument: str) -> float:
    # A naive datetime can be UTC or local time, and nothing tells which.
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ConfigurationError(f"{argument} must be a datetime with a time zone, such as datetime.now(UTC)")
    return moment.timestamp()


@hide_arguments
def check_body(body: object) -> bytes:
    """Return the body as bytes. Raises ``ConfigurationError`` for a body that was decoded already."""
    if isinstance(body, bytes):
        return body
    if isinstance(body, (bytearray, memoryview)):
        return bytes(body)
    raise ConfigurationError(
        f"body must be the raw bytes as received, not {type(body).__name__}, because these bytes are signed: pass the "
        "result of `await request.body()` (Starlette, FastAPI) or `await request.read()` (aiohttp)"
    )
