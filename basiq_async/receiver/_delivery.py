"""A delivery: a webhook that Basiq posted, verified and parsed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs

from .._wire.payloads import delivered_payload, encode_payload
from .._work.keys import inbox_key, key_of_repeat
from ..models import Event, Message, read_links, read_text

if TYPE_CHECKING:
    from ..client import BasiqClient

try:
    from orjson import loads as _orjson_loads
except ImportError:
    _quick_loads: Callable[[bytes], Any] = json.loads
else:
    _quick_loads = _orjson_loads


@attrs.frozen(slots=False)
class Delivery:
    """One genuine delivery of a webhook.

    ``id`` is the ``webhook-id``, the same for each attempt at a message. ``event_type_id`` (such as
    ``consent.revoked``) and ``event_id`` (an opaque text) are empty if the payload does not have them.
    ``links`` are the payload's: ``event`` and ``eventEntity``. ``body`` is the bytes as received, and ``raw`` the
    JSON object in them, decoded; ``repr`` shows neither. ``timestamp`` is the time of the signature. ``again`` is the
    name under which a replay handles an event again that may have been handled: ``key`` then has that name, so that a
    partner who is given ``key`` as an idempotency key carries out the repeat too. None for any other delivery.
    """

    id: str
    event_type_id: str
    event_id: str
    links: Mapping[str, str] = attrs.field(hash=False, repr=False)
    body: bytes = attrs.field(repr=False)
    raw: Mapping[str, Any] = attrs.field(hash=False, repr=False)
    timestamp: datetime
    again: str | None = None

    @property
    def key(self) -> str:
        """The inbox key of the event, which is its id: the same for each attempt, and in a replay without ``again``."""
        key = inbox_key(self.event_id, self.id)
        return key if self.again is None else key_of_repeat(self.again, key)

    async def event(self, client: BasiqClient) -> Event:
        """Fetch the full event from Basiq, with a ``BasiqClient``. A delivery holds only its id and links.

        Raises the errors of a request.
        """
        return await client.events.fetch(self)

    @classmethod
    def from_message(cls, message: Message, *, timestamp: datetime | None = None) -> Delivery:
        """Return the delivery that Basiq made, or should have made, for a message of the webhook's history.

        The delivery's timestamp is that of the message's first attempt, else ``timestamp``, else now. Its ``body`` is
        encoded again from the payload, because the history does not hold the bytes that were sent.
        """
        first = message.first_attempt
        payload = delivered_payload(message)
        return cls(
            id=message.id,
            event_type_id=message.event_type_id or "",
            event_id=message.event_id or "",
            links=read_links(payload.get("links")),
            body=encode_payload(payload),
            raw=payload,
            timestamp=(first and first.timestamp) or timestamp or datetime.now(UTC),
        )


class UnreadableBodyError(ValueError):
    """The body is not a JSON object. The error's text says why, and shows nothing of the body."""


def read_delivery(message_id: str, sent: int, body: bytes) -> Delivery:
    """Parse a verified body. ``sent`` is in seconds since 1970. Raises ``UnreadableBodyError``."""
    try:
        try:
            raw = _quick_loads(body)
        except ValueError:
            raw = json.loads(body)  # it accepts more: halves of surrogate pairs, a byte order mark, UTF-16
        if not isinstance(raw, dict):
            raise UnreadableBodyError(f"the body is JSON but not an object ({type(raw).__name__})")
        event_type_id, event_id = raw.get("eventTypeId"), raw.get("eventId")
        return Delivery(
            message_id,
            event_type_id if type(event_type_id) is str else read_text(event_type_id) or "",
            event_id if type(event_id) is str else read_text(event_id) or "",
            read_links(raw.get("links")),
            body,
            raw,
            datetime.fromtimestamp(sent, UTC),
        )
    except UnreadableBodyError:
        raise
    except (ValueError, OverflowError, OSError, RecursionError) as exc:
        # No cause is attached: a JSONDecodeError holds the whole body.
        raise UnreadableBodyError(f"the body cannot be read as JSON: {type(exc).__name__}") from None
