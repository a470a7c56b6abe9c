"""The headers of a delivery, from whatever a web framework hands out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import cast

from multidict import CIMultiDictProxy

from ..errors import SignatureVerificationError

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
