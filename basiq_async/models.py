"""The objects of Basiq's API, immutable.

Shapes: the vendor's API reference for webhooks and events. Where its schemas and its examples disagree, both
are read. Fields that are unknown here are kept in ``raw``. A text that came as another JSON type is kept as
its JSON text; a field that is missing or null is None.
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
"""The id of an event type. New ones appear; an editor offers those of today."""

WebhookStatus = Literal["active", "pending-approval", "disabled"] | str
"""As far as is known; the reference names the first two."""

AttemptStatus = Literal["Success", "Failed"] | str

_MILLISECONDS_FROM = 1e11
"""An epoch above this (the year 5138 in seconds) can only be meant in milliseconds."""


class Secret:
    """A signing secret that does not show itself.

    ``repr``, ``str`` and ``format`` return a placeholder; ``reveal()`` returns the text. Two secrets compare in
    constant time. A ``Webhook`` can go through a task queue: a pickle holds a digest in place of the text. What comes
    back is equal to the secret, and its ``reveal`` raises ``ValueError``. Pass the text on by a way that you trust.
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
    """Compares JSON values of any depth: ``==`` alone gives up, with an exception, on deep ones."""

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

    __hash__ = None  # type: ignore[assignment]  # so Python says unhashable


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
    """A text field: text as it is, null as None, any other JSON value as its JSON text."""
    if value is None or isinstance(value, str):
        return value
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    except RecursionError:
        return None


def read_links(value: object) -> dict[str, str]:
    """Links come as an object, or as a list of objects; values that are not texts are left out."""
    if isinstance(value, dict):
        for link in value.values():
            if type(link) is not str:
                return {name: link for name, link in value.items() if isinstance(link, str)}
        return value  # all of them: no copy is needed
    merged: dict[str, str] = {}
    if isinstance(value, list):
        for entry in value:
            merged.update(read_links(entry) if isinstance(entry, dict) else {})
    return merged


def read_status_code(value: object) -> int | None:
    """A status code comes as a number or as a text of digits."""
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
    """A point in time, always aware: ISO 8601, an HTTP date, or seconds or milliseconds since the epoch.

    A time without a zone is taken as UTC. Null and an empty text are None. Raises ``ValueError`` for the rest.
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
    from email.utils import parsedate_to_datetime  # a slow import, for a rare form

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


@attrs.frozen
class DeliveryAttempt:
    """One try to deliver a message. ``status`` is ``Success`` or ``Failed``, as far as is documented.

    An attempt that came as a mere text has that text as its ``id`` and nothing else.
    """

    id: str | None
    url: str | None = None
    response: str | None = None
    status_code: int | None = None
    timestamp: datetime | None = None
    status: AttemptStatus | None = None

    @property
    def succeeded(self) -> bool:
        """By ``status``; where that is missing, by a ``status_code`` within 200 to 299."""
        if self.status is not None:
            return self.status.lower() == "success"
        return self.status_code is not None and 200 <= self.status_code <= 299


def read_attempt(value: object) -> DeliveryAttempt:
    """An attempt, from an object or a text. Raises ``ValueError`` for a timestamp that is none."""
    if not isinstance(value, dict):
        return DeliveryAttempt(read_text(value))
    return DeliveryAttempt(
        read_text(value.get("id")),
        read_text(value.get("url")),
        read_text(value.get("response")),
        read_status_code(value.get("responseStatusCode")),
        read_datetime(value.get("timestamp")),
        read_text(value.get("status")),
    )


_NO_TIME = datetime.min.replace(tzinfo=UTC)


def _attempt_order(attempt: DeliveryAttempt) -> tuple[datetime, bool]:
    """Basiq's times have whole seconds; no attempt follows one that succeeded."""
    return attempt.timestamp or _NO_TIME, attempt.succeeded


@attrs.frozen(repr=False)
class Message:
    """One message of a webhook: its payload, and each attempt to deliver it.

    ``raw`` is the message as it came; all else but ``id`` is read from it when it is first asked for.
    """

    id: str
    raw: Mapping[str, Any] = attrs.field(hash=False, eq=_ByValue, repr=False)

    @property
    def payload(self) -> Mapping[str, Any]:
        """The body that was delivered: ``eventTypeId``, ``eventId`` and ``links``."""
        return self.raw.get("payload") or {}

    @property
    def event_type_id(self) -> EventTypeId | None:
        """Such as ``consent.revoked``; found in the payload or beside it."""
        return read_text(self.payload.get("eventTypeId") or self.raw.get("eventTypeId"))

    @property
    def event_id(self) -> str | None:
        """The id of the event, an opaque text; found in the payload or beside it."""
        return read_text(self.payload.get("eventId") or self.raw.get("eventId"))

    @cached_property
    def attempts(self) -> tuple[DeliveryAttempt, ...]:
        """Each try to deliver the message, as Basiq lists them: the newest first, in the vendor's example.

        Go by an attempt's time, never by its place: see ``first_attempt``, ``last_attempt``, ``attempts_by_time``.
        """
        return tuple(read_attempt(attempt) for attempt in self.raw.get("attempts") or ())

    @property
    def attempts_by_time(self) -> tuple[DeliveryAttempt, ...]:
        """The attempts, oldest first, by their ``timestamp``; those without one come before the others."""
        attempts = self.attempts
        return attempts if len(attempts) < 2 else tuple(sorted(attempts, key=_attempt_order))

    @property
    def first_attempt(self) -> DeliveryAttempt | None:
        """The earliest attempt that has a ``timestamp``; None where none has one."""
        attempts = self.attempts
        if len(attempts) == 1:  # as nearly always
            return attempts[0] if attempts[0].timestamp is not None else None
        timed = [attempt for attempt in attempts if attempt.timestamp is not None]
        return min(timed, key=_attempt_order, default=None)

    @property
    def last_attempt(self) -> DeliveryAttempt | None:
        """The latest attempt by ``timestamp``; of several without any, none is the last."""
        attempts = self.attempts
        if len(attempts) == 1:
            return attempts[0]
        timed = [attempt for attempt in attempts if attempt.timestamp is not None]
        return max(timed, key=_attempt_order, default=None)

    @property
    def links(self) -> Mapping[str, str]:
        """``self`` and ``webhook``; those of the event are in ``payload["links"]``."""
        return read_links(self.raw.get("links"))

    @property
    def webhook_id(self) -> str | None:
        """The webhook's id: as it came, or the last part of the link to the webhook."""
        given = read_text(self.raw.get("webhookId"))
        return given or self.links.get("webhook", "").rstrip("/").rpartition("/")[2] or None

    @property
    def delivered(self) -> bool:
        """Whether any attempt succeeded."""
        return any(attempt.succeeded for attempt in self.attempts)

    def __repr__(self) -> str:
        return (
            f"Message(id={self.id!r}, event_type_id={self.event_type_id!r}, event_id={self.event_id!r}, "
            f"attempts={len(self.attempts)}, delivered={self.delivered})"
        )


@attrs.frozen
class Webhook:
    """A subscription: the url that is called, and the types of event it is called for.

    ``status`` is ``active`` or ``pending-approval``, as far as is documented. Only the responses to create and update
    have the ``secret`` (the vendor's reference). In ``raw`` it is a ``Secret`` too.
    """

    id: str
    url: str
    status: WebhookStatus | None = None
    subscribed_events: tuple[EventTypeId, ...] = ()
    name: str | None = None
    description: str | None = None
    secret: Secret | None = None
    links: Mapping[str, str] = attrs.field(factory=dict[str, str], hash=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], hash=False, eq=_ByValue, repr=False)


EnsureAction = Literal["created", "updated", "reactivated", "unchanged"]


@attrs.frozen
class EnsuredWebhook(Webhook):
    """A webhook as ``webhooks.ensure`` found or made it; ``action`` says which.

    ``reactivated``: it was disabled, and is active again. ``secret`` is there unless it was ``unchanged``.
    ``kept_event_types`` are those that it is subscribed to though they were not asked for, ``removed_event_types``
    those that were taken away.
    """

    action: EnsureAction = "unchanged"
    kept_event_types: tuple[EventTypeId, ...] = ()
    removed_event_types: tuple[EventTypeId, ...] = ()

    @classmethod
    def of(
        cls,
        webhook: Webhook,
        action: EnsureAction,
        *,
        kept: tuple[EventTypeId, ...] = (),
        removed: tuple[EventTypeId, ...] = (),
    ) -> EnsuredWebhook:
        """Return a webhook together with the action."""
        fields = {field.name: getattr(webhook, field.name) for field in attrs.fields(Webhook)}
        return cls(**fields, action=action, kept_event_types=kept, removed_event_types=removed)


@attrs.frozen
class EventType:
    """A type of event that a webhook can subscribe to, such as ``user.created``."""

    id: str
    description: str | None = None
    links: Mapping[str, str] = attrs.field(factory=dict[str, str], hash=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], hash=False, eq=_ByValue, repr=False)


@attrs.frozen
class Event:
    """Something that happened to an entity of a user.

    ``type`` is the dotted form, ``consent.revoked``, in the words of webhooks; ``entity`` and ``event_type``
    are its two halves. ``data`` is the entity as JSON, an object or a list by entity; ``data_ref`` its url.
    """

    id: str
    type: EventTypeId = ""
    entity: str | None = None
    event_type: str | None = None
    user_id: str | None = None
    created: datetime | None = None
    data_ref: str | None = None
    data: JSON = attrs.field(default=None, hash=False, eq=_ByValue, repr=False)
    links: Mapping[str, str] = attrs.field(factory=dict[str, str], hash=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], hash=False, eq=_ByValue, repr=False)
