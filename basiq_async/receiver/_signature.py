"""Signatures of webhooks: the Standard Webhooks scheme, version ``v1``, on the standard library's hmac.

What is signed is ``id.timestamp.body``, the raw bytes of the body; the key is the base64-decoded part of the
secret after ``whsec_`` (the vendor's page on webhook security, and the Standard Webhooks specification).
"""

from __future__ import annotations

import time
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from datetime import datetime, timedelta
from hmac import HMAC, compare_digest
from hmac import digest as hmac_digest

from ..errors import ConfigurationError, SignatureVerificationError
from ..models import Secret
from ._headers import ID, SIGNATURE, TIMESTAMP, Headers, signature_headers

__all__ = ["TOLERANCE", "SecretLike", "SigningKeys", "sign", "verify"]

SecretLike = str | Secret | Sequence[str | Secret]
"""One secret, or several while one replaces another."""

TOLERANCE = timedelta(minutes=5)

_LONGEST_SIGNATURE = 4096
"""Room for some eighty signatures; each entry is compared with each secret."""

_PREFIX = "whsec_"
_URL_SAFE = str.maketrans("-_", "+/")


def sign(secret: SecretLike, message_id: str, timestamp: datetime, body: bytes) -> dict[str, str]:
    """The three headers that Basiq would send with ``body``.

    ``timestamp`` is aware; fractions of a second are cut off. With several secrets there is one signature for
    each. Raises ``ConfigurationError`` for a secret, id, timestamp or body that no delivery can have.
    """
    if not isinstance(message_id, str) or not _is_id(message_id):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError('message_id must be printable ASCII, without spaces and without a "."')
    seconds = _epoch(timestamp, "timestamp")
    if seconds < 0:
        raise ConfigurationError("timestamp is before 1970; what is signed is seconds since then")
    text = str(int(seconds))
    return {
        ID: message_id,
        TIMESTAMP: text,
        SIGNATURE: SigningKeys(secret).sign(message_id, text, _raw(body)),
    }


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
    ``no-match``, and ``bad-secret`` for a secret that
    cannot be decoded: with it nothing can be trusted.

    Raises ``ConfigurationError`` where the fault is the caller's: an empty secret or none, a naive ``now``, a
    negative ``tolerance``, a ``body`` that is not bytes.
    """
    try:
        keys = SigningKeys(secret)
    except _UndecodableSecretError as exc:
        raise SignatureVerificationError(str(exc), reason="bad-secret") from None
    keys.verify(
        headers,
        body if type(body) is bytes else _raw(body),
        tolerance=300.0 if tolerance is TOLERANCE else tolerance_seconds(tolerance),
        now=time.time() if now is None else _epoch(now, "now"),
    )


class _UndecodableSecretError(ConfigurationError):
    """A secret that is text, but no base64."""


class SigningKeys:
    """The keys of one or several secrets, ready for use; they do not show themselves.

    A secret is read as leniently as can be done without guessing: spaces around it, a missing ``whsec_``,
    missing or excess padding and the URL-safe alphabet are all right, and a last character that is too little
    for a byte is dropped. Raises ``ConfigurationError``, which never holds the secret, for one that is empty
    or is not base64.

    ``for_many`` signatures it pays to let hmac begin with each key once; that costs as much as one signature.
    """

    __slots__ = ("_keys",)

    def __init__(self, secret: SecretLike, *, for_many: bool = False) -> None:
        if isinstance(secret, (str, Secret)):
            keys: tuple[bytes, ...] = (_key(secret),)
        else:
            secrets = secret
            if not isinstance(secrets, Sequence) or not secrets:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError("secret must be a text, a Secret, or a sequence of at least one of those")
            keys = tuple([_key(each) for each in secrets])
        self._keys: tuple[bytes | HMAC, ...] = (
            tuple([HMAC(key, digestmod="sha256") for key in keys]) if for_many else keys
        )

    def __repr__(self) -> str:
        return f"<SigningKeys: {len(self._keys)}>"

    def sign(self, message_id: str, timestamp: str, body: bytes) -> str:
        """The signature header: an entry for each key."""
        content = f"{message_id}.{timestamp}.".encode() + body
        digests = [_mac(key, content) for key in self._keys]
        return " ".join(["v1," + b2a_base64(digest, newline=False).decode() for digest in digests])

    def verify(self, headers: Headers, body: bytes, *, tolerance: float, now: float) -> tuple[str, int]:
        """The id and the timestamp of a genuine delivery; ``tolerance`` and ``now`` are in seconds.

        Raises ``SignatureVerificationError``, as ``verify`` does.
        """
        message_id, timestamp, signature, sent = self.check_headers(headers, tolerance=tolerance, now=now)
        content = f"{message_id}.{timestamp}.".encode() + body
        # What is not ASCII becomes "?", which no base64 text holds: such an entry just never matches.
        entries = signature.encode("ascii", "replace").split(b" ")
        if not self._match(content, entries):
            raise _unmatched(entries)
        return message_id, sent

    @staticmethod
    def check_headers(headers: Headers, *, tolerance: float, now: float) -> tuple[str, str, str, int]:
        """All checks that need no body: the id, the timestamp, the signatures, and the timestamp as a number.

        Raises ``SignatureVerificationError``, as ``verify`` does.
        """
        message_id, timestamp, signature = signature_headers(headers)
        if not _is_id(message_id):
            raise SignatureVerificationError(
                f'{ID} is empty, or has a "." or a character that is not printable ASCII', reason="bad-id"
            )
        # int() and float() would take signs, spaces, exponents and the digits of other scripts as well.
        if not (timestamp.isdigit() and timestamp.isascii() and len(timestamp) < 16):
            raise SignatureVerificationError(
                f"{TIMESTAMP} is not a number of seconds since 1970 in ASCII digits", reason="bad-timestamp"
            )
        sent = int(timestamp)
        if not -tolerance <= now - sent <= tolerance:
            raise _out_of_time(now - sent, tolerance)
        if len(signature) > _LONGEST_SIGNATURE:
            raise SignatureVerificationError(
                f"{SIGNATURE} has {len(signature)} characters; {_LONGEST_SIGNATURE} are allowed", reason="bad-signature"
            )
        return message_id, timestamp, signature, sent

    def _match(self, content: bytes, entries: list[bytes]) -> bool:
        """Whether an entry is the signature of a key.

        Returns instead of raising: the keys are in this frame, which a traceback must not hold.
        """
        # Texts are compared, not what they decode to, so that only canonical base64 matches; and all of them
        # are, so that the time taken does not tell which secret it was.
        matched = False
        for key in self._keys:
            # A single signature is worth the call that is spared here; see the mark in benchmarks/signature.py.
            mac = hmac_digest(key, content, "sha256") if type(key) is bytes else _mac(key, content)
            expected = b"v1," + b2a_base64(mac, newline=False)
            for entry in entries:
                matched |= compare_digest(expected, entry)
        return matched


def _is_id(text: str) -> bool:
    # Anything else could end a header early, or part what is signed in another place.
    return text.isascii() and text.isprintable() and "." not in text and " " not in text and text != ""


def _mac(key: bytes | HMAC, content: bytes) -> bytes:
    if isinstance(key, bytes):
        return hmac_digest(key, content, "sha256")
    begun = key.copy()
    begun.update(content)
    return begun.digest()


def _out_of_time(age: float, tolerance: float) -> SignatureVerificationError:
    allowed = f"more than the {tolerance:.0f} s allowed"
    if age > 0:
        return SignatureVerificationError(f"the delivery was signed {age:.0f} s ago, {allowed}", reason="too-old")
    return SignatureVerificationError(
        f"the delivery was signed {-age:.0f} s in the future, {allowed}: is this machine's clock right?",
        reason="too-new",
    )


def _unmatched(entries: list[bytes]) -> SignatureVerificationError:
    if not any(entry.startswith(b"v1,") for entry in entries):
        return SignatureVerificationError(f"{SIGNATURE} holds no signature of version v1", reason="no-signature")
    return SignatureVerificationError(
        "no signature matches: the body was changed (it must be the raw bytes), or the secret is another one",
        reason="no-match",
    )


def tolerance_seconds(tolerance: timedelta) -> float:
    """In seconds; raises ``ConfigurationError`` for what is negative or no timedelta."""
    if not isinstance(tolerance, timedelta) or tolerance < timedelta(0):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError("tolerance must be a timedelta that is not negative")
    return tolerance.total_seconds()


def _epoch(moment: datetime, argument: str) -> float:
    # A naive datetime can be UTC or local time; which one, only its author knows.
    if not isinstance(moment, datetime) or moment.tzinfo is None:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"{argument} must be a datetime with a time zone, such as datetime.now(UTC)")
    return moment.timestamp()


def _raw(body: object) -> bytes:
    if isinstance(body, bytes):
        return body
    if isinstance(body, (bytearray, memoryview)):
        return bytes(body)
    raise ConfigurationError("body must be the raw bytes as received, not text and not decoded JSON")


def _key(secret: object) -> bytes:
    text = secret if isinstance(secret, str) else secret.reveal() if isinstance(secret, Secret) else None
    if text is None:
        raise ConfigurationError("a signing secret must be a text or a Secret")
    try:
        key = a2b_base64(text.removeprefix(_PREFIX), strict_mode=True)
    except ValueError:
        key = None
    if key is None:  # out here: an error must not have that one as its context
        key = _lenient(text)
    if not key:
        raise ConfigurationError("the signing secret is empty")
    return key


def _lenient(text: str) -> bytes:
    bare = text.strip()
    if bare.startswith(("whpk_", "whsk_")):
        raise _UndecodableSecretError("the secret is a key for asymmetric signatures; Basiq's begins with whsec_")
    bare = bare.removeprefix(_PREFIX).rstrip("=").translate(_URL_SAFE)
    if len(bare) % 4 == 1:
        bare = bare[:-1]
    try:
        return a2b_base64(bare + "=" * (-len(bare) % 4), strict_mode=True)
    except ValueError:
        pass
    # Without a cause or context, whose traceback would lead to the secret.
    raise _UndecodableSecretError("the secret is not base64, with or without whsec_ before it")
