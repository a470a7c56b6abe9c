"""What the fake stores: webhooks, events, and messages with their attempts."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

import attrs

from .catalog import entity_path

PAYLOAD_KEPT = timedelta(days=90)


@attrs.define
class FakeWebhook:
    id: str
    serial: int
    url: str
    events: tuple[str, ...]
    key: bytes = attrs.field(repr=False)
    active_at: datetime
    name: str | None = None
    description: str | None = None
    disabled: bool = False
    former_keys: tuple[tuple[datetime, bytes], ...] = attrs.field(default=(), repr=False)
    """Former signing keys, each with the moment until which it signs too."""
    every_type: bool = False
    """Whether the webhook gets events of every type, also of types that are added later."""
    exhausted_at: datetime | None = None
    """When a message first came to its end without a success; None after a successful attempt of any message."""

    def wants(self, type_id: str) -> bool:
        """Return whether the webhook is subscribed to an event type."""
        return self.every_type or type_id in self.events

    def keys(self, now: datetime) -> tuple[bytes, ...]:
        """Return the keys that sign a delivery, the present one first."""
        return (self.key, *(key for until, key in self.former_keys if now < until))

    def status(self, now: datetime) -> Literal["active", "pending-approval", "disabled"]:
        if self.disabled:
            return "disabled"
        return "active" if now >= self.active_at else "pending-approval"


@attrs.frozen
class FakeAttempt:
    id: str
    url: str
    response: str
    status: int | None
    at: datetime
    ok: bool
    duration: float = 0.0


@attrs.frozen
class FakeEvent:
    id: str
    type_id: str
    user_id: str
    entity_id: str
    created: datetime
    data: dict[str, object] | None = None

    @property
    def entity(self) -> str:
        return self.type_id.partition(".")[0]

    @property
    def kind(self) -> str:
        return self.type_id.partition(".")[2]

    @property
    def kinds(self) -> tuple[str, str]:
        """Both spellings of the event's type."""
        return self.kind, self.type_id

    @property
    def connection_id(self) -> str | None:
        return self.entity_id if self.entity in ("connection", "transactions") else None

    @property
    def path(self) -> str:
        """The path of the entity that the event is about."""
        return entity_path(self.type_id, self.user_id, self.entity_id)


@attrs.define
class FakeMessage:
    id: str
    webhook_id: str
    event: FakeEvent
    created: datetime
    text: str | None = None
    attempts: tuple[FakeAttempt, ...] = ()
    planned: int = 0
    """The number of attempts that are planned or under way."""
    resent: bool = False
    """Whether the message was resent by a rule that ends its schedule."""

    @property
    def status(self) -> Literal["Success", "Failed", "Pending"]:
        """The result of the latest attempt; ``Pending`` before the first."""
        if not self.attempts:
            return "Pending"
        return "Success" if self.attempts[-1].ok else "Failed"

    @property
    def outcome(self) -> Literal["Success", "Failed", "Pending"]:
        """``Success`` if any attempt succeeded; ``Failed`` if none did, and none is to come."""
        if any(attempt.ok for attempt in self.attempts):
            return "Success"
        return "Pending" if self.planned else "Failed"

    def is_expired(self, now: datetime) -> bool:
        """Return whether the payload is older than 90 days."""
        return now - self.created > PAYLOAD_KEPT
