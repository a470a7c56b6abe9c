"""The objects of Basiq's API. They are immutable.

Their fields are those of the vendor's API reference for webhooks and events. Where its schemas and its examples
disagree, both forms are read. ``raw`` holds the whole object, with fields that the SDK does not know. If the API sends
another JSON type in place of a text, the field holds its JSON text. A field that is missing or null is None.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, TypeAlias

import attrs

JSON: TypeAlias = "dict[str, JSON] | list[JSON] | str | int | float | bool | None"
"""A decoded JSON value."""

DocumentedEventType = Literal[
    "account.updated",
    "connection.activated",
    "connection.created",
    "connection.deleted",
    "connection.invalidated",
    "consent.created",
    "consent.expired",
    "consent.reminder",
    "consent.revoked",
    "consent.updated",
    "consent.warning",
    "transactions.updated",
    "user.created",
    "user.deleted",
    "user.updated",
]
"""The event types that Basiq documents today."""

EventTypeId = DocumentedEventType | str
"""The id of an event type: one that is documented today, which an editor can suggest, or any other text."""

WebhookStatus = Literal["active", "pending-approval", "disabled"] | str
"""The known statuses of a webhook, or any other text. The vendor's reference names the first two."""

AttemptStatus = Literal["Success", "Failed"] | str

_MILLISECONDS_FROM = 1e11
"""A time since the epoch above this number (the year 5138 in seconds) is read as milliseconds."""


class Secret:
    """A signing secret whose text is not printed.

    ``repr``, ``str`` and ``format`` return a placeholder; ``reveal()`` returns the text. Two secrets are compared in
    constant time. A pickle holds a digest in place of the text, so that a ``Webhook`` can go through a task queue. The
    unpickled secret is equal to the original, but its ``reveal`` raises ``ValueError``. Pass the text in another way,
    which you trust.
    """

    __slots__ = ("_digest", "_value")

    def __init__(self, value: str) -> None:
        self._value: str | None = value
        self._digest: bytes | None = None

    def reveal(self) -> str:
        """The secret as Basiq sent it, usually ``whsec_`` and base64."""
        if self._value is None:
            raise ValueError("a pickle does not hold the secret; pass the text of secret.reveal() instead")
        return self._value

    def __repr__(self) -> str:
        return "Secret('**********')"

    def __str__(self) -> str:
        return "**********"

    def __format__(self, format_spec: str) -> str:
        return format(str(self), format_spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        from hmac import compare_digest  # loads OpenSSL, which not every program needs

        return compare_digest(self._hash(), other._hash())

    def __hash__(self) -> int:
        return hash((Secret, self._hash()))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return (_secret_of_digest, (self._hash(),))

    def _hash(self) -> bytes:
        if self._digest is None:
            from hashlib import blake2b

            text = (self._value or "").encode(errors="surrogatepass")
            self._digest = blake2b(text, digest_size=32, person=b"basiq secret").digest()
        return self._digest


def _secret_of_digest(digest: bytes) -> Secret:
    secret = Secret("")
    secret._value, secret._digest = None, digest
    return secret


class _ByValue:
    """Compares JSON values of any depth. ``==`` alone raises ``RecursionError`` for deeply nested values."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _ByValue):
            return NotImplemented
        try:
            return bool(self._value == other._value)
        except RecursionError:
            return _equal(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # as Python marks a class that is not hashable


def _equal(one: object, other: object) -> bool:
    left = [(one, other)]
    while left:
        a, b = left.pop()
        if isinstance(a, dict) and isinstance(b, dict):
            if a.keys() != b.keys():
                return False
            left += [(a[name], b[name]) for name in a]
        elif isinstance(a, list) and isinstance(b, list):
            if len(a) != len(b):
                return False
            left += zip(a, b, strict=True)
        elif a != b:
            return False
    return True


def read_text(value: object) -> str | None:
    """Return a text field: text unchanged, null as None, any other JSON value as its JSON text."""
    if value is None or isinstance(value, str):
        return value
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    except RecursionError:
        return None


def read_links(value: object) -> dict[str, str]:
    """Return links from an object or a list of objects. Values that are not texts are left out."""
    if isinstance(value, dict):
        for link in value.values():
            if type(link) is not str:
                return {name: link for name, link in value.items() if isinstance(link, str)}
        return value  # all values are texts: no copy is needed
    merged: dict[str, str] = {}
    if isinstance(value, list):
        for entry in value:
            merged.update(read_links(entry) if isinstance(entry, dict) else {})
    return merged


def read_status_code(value: object) -> int | None:
    """Return a status code from a number or a text of digits; None for any other value."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and len(value) < 10 and value.strip().isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None


def read_datetime(value: object) -> datetime | None:
    """Return an aware datetime from ISO 8601, an HTTP date, or seconds or milliseconds since the epoch.

    A time without a zone is read as UTC. Null and an empty text are None. Raises ``ValueError`` for any other value.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            found = _read_odd_datetime(value.strip())
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found = _from_epoch(value)
    else:
        raise ValueError("expected a date as text or number")
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _read_odd_datetime(text: str) -> datetime:
    from email.utils import parsedate_to_datetime  # imported here: it is slow to import, and rarely needed

    for read in (_from_epoch_text, datetime.fromisoformat, parsedate_to_datetime):
        try:
            return read(text.upper())
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    raise ValueError("expected a date such as 2024-04-17T23:57:17Z")


def _from_epoch_text(text: str) -> datetime:
    if not text.isascii():
        raise ValueError("digits are ASCII")
    return _from_epoch(float(text))


def _from_epoch(value: float) -> datetime:
    try:
        seconds = value / 1000 if abs(value) > _MILLISECONDS_FROM else value
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        raise ValueError("expected a date within the years 1 to 9999") from None


JSON_NAME, KIND = "basiq_async json name", "basiq_async kind"
RAW = "(raw)"
"""The JSON name of the field that holds the whole object."""


def _json(name: str, kind: str = "text") -> dict[str, str]:
    """Return the metadata of a field: its name in Basiq's JSON, and its kind, which ``_wire/codec.py`` reads."""
    return {JSON_NAME: name, KIND: kind}


_ID, _LINKS, _RAW = _json("id", "id"), _json("links", "links"), _json(RAW, "json")
_EVENT_TYPES = _json("subscribedEvents", "event types")


@attrs.frozen
class DeliveryAttempt:
    """One attempt to deliver a message. The documented values of ``status`` are ``Success`` and ``Failed``.

    ``status_code`` is None if the endpoint did not respond; the code 0 in ``raw`` says the same. If the API sends an
    attempt as a text, that text is its ``id``, and all other fields are None.
    """

    id: str | None
    url: str | None = None
    response: str | None = None
    status_code: int | None = None
    timestamp: datetime | None = None
    status: AttemptStatus | None = None

    @property
    def succeeded(self) -> bool | None:
        """Whether ``status`` is ``Success``, or, without a known ``status``, ``status_code`` is from 200 to 299.

        None if it has neither: then Basiq did not say.
        """
        status = "" if self.status is None else self.status.lower()
        if status in ("success", "failed"):
            return status == "success"
        return None if self.status_code is None else 200 <= self.status_code <= 299


def read_attempt(value: object) -> DeliveryAttempt:
    """Return an attempt from an object or a text. Raises ``ValueError`` for an invalid timestamp."""
    if not isinstance(value, dict):
        return DeliveryAttempt(read_text(value))
    return DeliveryAttempt(
        read_text(value.get("id")),
        read_text(value.get("url")),
        read_text(value.get("response")),
        read_status_code(value.get("responseStatusCode")) or None,
        read_datetime(value.get("timestamp")),
        read_text(value.get("status")),
    )


_NO_TIME = datetime.min.replace(tzinfo=UTC)


def _attempt_order(attempt: DeliveryAttempt) -> tuple[datetime, bool]:
    """Return a sort key: by time, and of attempts within the same second, a successful one last."""
    return attempt.timestamp or _NO_TIME, attempt.succeeded is True


@attrs.frozen(repr=False)
class Message:
    """One message of a webhook: its payload, and each attempt to deliver it.

    A list may not tell the attempts: the vendor's reference shows objects only for a single message, ids in the schema
    of a list, and nothing in its example. ``messages.get`` then tells more.

    ``raw`` is the message as Basiq sent it. All properties are read from it on access.
    """

    id: str
    raw: Mapping[str, Any] = attrs.field(hash=False, eq=_ByValue, repr=False)

    @property
    def payload(self) -> Mapping[str, Any]:
        """The body that was delivered: ``eventTypeId``, ``eventId`` and ``links``."""
        return self.raw.get("payload") or {}

    @property
    def event_type_id(self) -> EventTypeId | None:
        """The id of the event type, such as ``consent.revoked``, from the payload or else from the message itself."""
        return read_text(self.payload.get("eventTypeId") or self.raw.get("eventTypeId"))

    @property
    def event_id(self) -> str | None:
        """The id of the event, an opaque text, from the payload or else from the message itself."""
        return read_text(self.payload.get("eventId") or self.raw.get("eventId"))

    @cached_property
    def attempts(self) -> tuple[DeliveryAttempt, ...]:
        """Each attempt to deliver the message, in Basiq's order. In the vendor's example, the newest comes first.

        It is empty if there was none, and also if the answer does not tell: then ``delivered`` is None. Rely on an
        attempt's time and not on its position: see ``first_attempt``, ``last_attempt`` and ``attempts_by_time``.
        """
        return tuple(read_attempt(attempt) for attempt in self.raw.get("attempts") or ())

    @property
    def attempts_by_time(self) -> tuple[DeliveryAttempt, ...]:
        """The attempts by their ``timestamp``, oldest first. Attempts without one come before the others."""
        attempts = self.attempts
        return attempts if len(attempts) < 2 else tuple(sorted(attempts, key=_attempt_order))

    @property
    def first_attempt(self) -> DeliveryAttempt | None:
        """The earliest attempt that has a ``timestamp``; None if none has one."""
        attempts = self.attempts
        if len(attempts) == 1:  # the most frequent case
            return attempts[0] if attempts[0].timestamp is not None else None
        timed = [attempt for attempt in attempts if attempt.timestamp is not None]
        return min(timed, key=_attempt_order, default=None)

    @property
    def last_attempt(self) -> DeliveryAttempt | None:
        """The latest attempt by ``timestamp``, or the only attempt. None if several attempts have no ``timestamp``."""
        attempts = self.attempts
        if len(attempts) == 1:
            return attempts[0]
        timed = [attempt for attempt in attempts if attempt.timestamp is not None]
        return max(timed, key=_attempt_order, default=None)

    @property
    def links(self) -> Mapping[str, str]:
        """The links ``self`` and ``webhook``. The links of the event are in ``payload["links"]``."""
        return read_links(self.raw.get("links"))

    @property
    def webhook_id(self) -> str | None:
        """The webhook's id: the message's ``webhookId``, or else the last part of its link to the webhook."""
        given = read_text(self.raw.get("webhookId"))
        return given or self.links.get("webhook", "").rstrip("/").rpartition("/")[2] or None

    @property
    def delivered(self) -> bool | None:
        """Whether any attempt succeeded. None if the answer does not tell: compare it with ``is True`` or ``is False``.

        That is so where ``attempts`` is missing, or holds ids, or attempts whose result is not told.
        """
        if self.raw.get("attempts") is None:
            return None
        results = {attempt.succeeded for attempt in self.attempts}
        return True if True in results else None if None in results else False

    def __repr__(self) -> str:
        return (
            f"Message(id={self.id!r}, event_type_id={self.event_type_id!r}, event_id={self.event_id!r}, "
            f"attempts={len(self.attempts)}, delivered={self.delivered})"
        )


@attrs.frozen
class Webhook:
    """A subscription: a url, and the event types whose messages are delivered to it.

    The documented values of ``status`` are ``active`` and ``pending-approval``. Only the responses to create and update
    have the ``secret`` (the vendor's reference). ``raw`` holds it as a ``Secret`` too.
    """

    id: str = attrs.field(metadata=_ID)
    url: str = attrs.field(metadata=_json("url", "required text"))
    status: WebhookStatus | None = attrs.field(default=None, metadata=_json("status"))
    subscribed_events: tuple[EventTypeId, ...] = attrs.field(default=(), metadata=_EVENT_TYPES)
    name: str | None = attrs.field(default=None, metadata=_json("name"))
    description: str | None = attrs.field(default=None, metadata=_json("description"))
    secret: Secret | None = attrs.field(default=None, metadata=_json("secret", "secret"))
    links: Mapping[str, str] = attrs.field(factory=dict[str, str], hash=False, metadata=_LINKS)
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], hash=False, eq=_ByValue, repr=False, metadata=_RAW)


EnsureAction = Literal["created", "updated", "reactivated", "unchanged", "elsewhere"]


@attrs.frozen
class EnsuredWebhook(Webhook):
    """The webhook that ``webhooks.ensure`` found or made.

    ``action`` says what was done. ``reactivated``: the webhook was disabled, and is active again. ``elsewhere``: it has
    the name that was asked for, and another url; nothing was done. ``secret`` is None if nothing was done.
    ``kept_event_types`` are types that the webhook stays subscribed to though they were not asked for.
    ``removed_event_types`` are types that it was subscribed to and is no longer. ``same_name`` are the ids of webhooks
    with this name that another process created at the same moment as this one. ``joined`` is whether the ``inbox`` has
    noted the webhook; None without one.
    """

    action: EnsureAction = "unchanged"
    kept_event_types: tuple[EventTypeId, ...] = ()
    removed_event_types: tuple[EventTypeId, ...] = ()
    same_name: tuple[str, ...] = ()
    joined: bool | None = None


@attrs.frozen
class EventType:
    """A type of event that a webhook can subscribe to, such as ``user.created``."""

    id: str = attrs.field(metadata=_ID)
    description: str | None = attrs.field(default=None, metadata=_json("description"))
    links: Mapping[str, str] = attrs.field(factory=dict[str, str], hash=False, metadata=_LINKS)
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], hash=False, eq=_ByValue, repr=False, metadata=_RAW)


@attrs.frozen
class Event:
    """Something that happened to an entity of a user.

    ``type`` is the event type as webhooks name it, such as ``consent.revoked``; ``entity`` and ``event_type`` are its
    two halves. ``data`` is the entity as JSON: an object or a list, depending on the entity. ``data_ref`` is its url.
    """

    id: str = attrs.field(metadata=_ID)
    type: EventTypeId = attrs.field(default="", metadata=_json("type", "json"))
    entity: str | None = attrs.field(default=None, metadata=_json("entity", "json"))
    event_type: str | None = attrs.field(default=None, metadata=_json("eventType", "json"))
    user_id: str | None = attrs.field(default=None, metadata=_json("userId"))
    created: datetime | None = attrs.field(default=None, metadata=_json("createdDate", "time"))
    data_ref: str | None = attrs.field(default=None, metadata=_json("dataRef"))
    data: JSON = attrs.field(default=None, hash=False, eq=_ByValue, repr=False, metadata=_json("data", "json"))
    links: Mapping[str, str] = attrs.field(factory=dict[str, str], hash=False, metadata=_LINKS)
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], hash=False, eq=_ByValue, repr=False, metadata=_RAW)
