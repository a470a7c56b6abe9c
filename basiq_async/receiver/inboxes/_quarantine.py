"""Deliveries whose handler failed too often, kept for a person to look at."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import datetime

import attrs

from ..._causes import UnshownText, drop_tracebacks
from ...errors import InboxError

__all__ = ["QuarantinedDelivery", "pack", "unpack", "unpack_all"]


@attrs.frozen
class QuarantinedDelivery:
    """A delivery in the quarantine: everything that it takes to hand it to a handler again.

    ``key`` is its inbox key and ``delivery_id`` its ``webhook-id``. ``body`` is the bytes as received, ``signed_at``
    the time in its signature. ``error`` describes the last failure, ``failures`` counts them, and ``quarantined_at``
    is when it was set aside. Both times are aware. ``seal`` is what the receiver put on it; an inbox that others may
    write to keeps it, and returns an empty one where there is none. None is for an inbox that is trusted.
    """

    key: str
    delivery_id: str
    event_type_id: str
    event_id: str
    body: bytes = attrs.field(repr=False)
    signed_at: datetime
    error: str
    failures: int
    quarantined_at: datetime
    seal: str | None = attrs.field(default=None, eq=False, repr=False)

    def sealed_parts(self) -> Sequence[bytes]:
        """What a seal covers: all that a handler is given."""
        ids = (self.key, self.delivery_id, self.event_type_id, self.event_id, self.signed_at.isoformat())
        return [*(text.encode("utf-8", "surrogatepass") for text in ids), self.body]


def pack(letter: QuarantinedDelivery, *, seal: bool = False) -> UnshownText:
    """Write it as JSON, in ASCII: any storage can hold that, whatever text an error or an id has.

    With its ``seal`` where the storage is one that others may write to.
    """
    fields = attrs.asdict(letter)
    if not seal:
        del fields["seal"]
    fields["body"] = b64encode(letter.body).decode()
    fields["signed_at"] = letter.signed_at.isoformat()
    fields["quarantined_at"] = letter.quarantined_at.isoformat()
    return UnshownText(json.dumps(fields))


def unpack(text: str | bytes) -> QuarantinedDelivery:
    """Read what ``pack`` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    fields = json.loads(text)
    fields["body"] = b64decode(fields["body"])
    fields["signed_at"] = datetime.fromisoformat(fields["signed_at"])
    fields["quarantined_at"] = datetime.fromisoformat(fields["quarantined_at"])
    return QuarantinedDelivery(**fields)


def unpack_all(texts: Sequence[str], where: str) -> Sequence[QuarantinedDelivery]:
    """Read what ``pack`` wrote. Raises ``InboxError`` for anything else; ``where`` names the storage."""
    try:
        return [unpack(text) for text in texts]
    except (ValueError, TypeError, KeyError) as exc:
        del texts  # error reporters show local variables
        raise InboxError(f"the quarantine of {where} holds what no inbox has written") from drop_tracebacks(exc)
